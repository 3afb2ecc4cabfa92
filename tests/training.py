"""A training report that no training made, for the tests of what is done with one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bitinfer.train.report import (
    DataFile,
    PackedResult,
    Parity,
    Point,
    StageResult,
    TeacherResult,
    TrainingReport,
)

__all__ = ["distilled", "finetuned", "stage"]

SIZES = {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 128, "vocab": 1000}
SIZES["positions"] = 128
_OPTIONS = {
    "teacher": "bert-sst2",
    "train": "train.tsv",
    "dev": "my dev.tsv",
    "output": "out",
    "bits": ["1-1-2", "1-1-1"],
    "shares": None,
    "epochs": 2.5,
    "learning_rate": 5e-4,
    "bf16": False,
    "regression": False,
    "resume": True,
    "licence": "Apache-2.0",
}


def stage(bits: str, best: float, steps: int = 40) -> StageResult:
    points = (
        Point(0, 0.0, None, best / 2),
        Point(steps // 2, 1.25, 0.7, best),
        Point(steps, 2.5, 0.5, best - 0.1),
    )
    return StageResult(bits, steps, 2.5, 2.5, steps // 2, best, points)


def distilled(**changes: Any) -> TrainingReport:
    """Of two stages, 80 dev rows, of which the packed model has 60 right."""
    report = TrainingReport(
        command="distill",
        metric="accuracy",
        labels=("negative", "positive"),
        pairs=False,
        architecture={**SIZES, "max_length": 48},
        teacher=TeacherResult("bert-sst2", 0.9, 1_500_000),
        stages=(stage("1-1-2", 0.85), stage("1-1-1", 0.75, steps=1200)),
        packed=PackedResult(
            file="packed.safetensors",
            bytes=81_234,
            value=0.75,
            parity=Parity(80, 900, 12_345, 0, None, 3e-15),
        ),
        float_bytes=1_480_000,
        options=_OPTIONS,
        versions={"torch": "2.13.0", "bitinfer": "0.1.0"},
        machine="a processor, 2 threads",
        started="2026-11-22T20:00:00+00:00",
        seconds=150.0,
        data={
            "train": DataFile("train.tsv", 500, "a" * 64),
            "dev": DataFile("my dev.tsv", 80, "b" * 64),
        },
    )
    return replace(report, **changes)


def finetuned(**changes: Any) -> TrainingReport:
    options = {**_OPTIONS, "encoder": "minilm", "reinitialize_pooler": True, "dropout": 0.1}
    del options["teacher"], options["bits"], options["shares"]
    return distilled(
        **{
            "command": "finetune",
            "teacher": None,
            "stages": (stage("32-32-32", 0.9),),
            "packed": None,
            "options": options,
            **changes,
        }
    )
