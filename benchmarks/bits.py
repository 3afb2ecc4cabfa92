"""What more bits of activations cost: ``python benchmarks/bits.py`` prints it as JSON.

A BERT-base of random weights with 1, 2 and 4 bits at every point.  In every round all models run
one after the other in one process; what is kept are the ratios within a round.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import seeded
from machine import describe

import bitinfer
from bitinfer import _core
from bitinfer.conversion.convert import convert

ONE_BIT = "1-1-1"
# Bits, and whether unsigned codes begin at the minimum, as the published code has it.
_MODELS = ((ONE_BIT, False), ("1-1-2", False), ("1-1-4", False), ("1-1-2", True), ("1-1-4", True))
_CASES = ((1, 128), (8, 128))
_ROUNDS = 31


def measure() -> dict[str, Any]:
    """Per batch, length and threads: the time of one bit, and the others relative to it."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            (bits, from_min): _pack(Path(folder), bits, from_min) for bits, from_min in _MODELS
        }
        cases = [
            _case(paths, batch, length, threads)
            for threads in sorted({1, _core.resolve_num_threads(None)})
            for batch, length in _CASES
        ]
        sizes = {bits: paths[bits, False].stat().st_size for bits, rule in _MODELS if not rule}
    return {"machine": describe(), "cases": cases, "sizes": sizes}


def _pack(folder: Path, bits: str, from_min: bool) -> Path:
    name = f"{bits}{'-from-min' if from_min else ''}"
    spec = replace(seeded.BASE_12X768, bits=bits, from_min=from_min)
    packed = folder / f"{name}.safetensors"
    convert(seeded.write(folder / name, spec), packed, verify=False)
    return packed


def _case(
    paths: dict[tuple[str, bool], Path], batch: int, length: int, threads: int
) -> dict[str, Any]:
    calls = {}
    for key, path in paths.items():
        model = bitinfer.load(path, num_threads=threads)
        calls[key] = models.engine_call(
            model, models.random_ids(model.info()["config"], batch, length)
        )
    base = calls[ONE_BIT, False]
    ratios: dict[tuple[str, bool], list[float]] = {key: [] for key in calls}
    seconds = []
    for _ in range(_ROUNDS):
        seconds.append(_seconds(base))
        for key, call in calls.items():
            ratios[key].append(_seconds(call) / seconds[-1])
    return {
        "batch": batch,
        "length": length,
        "threads": threads,
        "one bit": statistics.median(seconds),
        "rounds": _ROUNDS,
        "others": [
            {"bits": bits, "from_min": from_min, "ratio": statistics.median(values)}
            for (bits, from_min), values in ratios.items()
            if bits != ONE_BIT
        ],
    }


def _seconds(call: Callable[[], object]) -> float:
    """Of one run after an untimed one, which fills the caches and wakes the threads."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(measure()))
