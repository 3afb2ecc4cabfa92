"""Where a forward pass spends its time: ``python benchmarks/stages.py`` prints it as JSON.

BERT-base has random weights, the built-in model trained ones.  The stages are those of
``bitinfer bench --profile``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import models

from bitinfer import _core
from bitinfer.cli import bench
from bitinfer.cli.models import Bench

_CASES = {"base": [(1, 32), (1, 128), (8, 128)], "sst2": [(1, 21), (1, 128), (8, 128)]}
_SECONDS = 1.5  # of repetitions of one case
_FEWEST, _MOST = 5, 500


def measure() -> list[dict[str, Any]]:
    """Per model, batch, length and threads: median seconds and shares of the stages."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"base": models.seeded_model(Path(folder)).path, "sst2": "sst2"}
        return [
            {"model": name, **_case(paths[name], batch, length, threads)}
            for name, cases in _CASES.items()
            for threads in sorted({1, _core.resolve_num_threads(None)})
            for batch, length in cases
        ]


def _case(path: str, batch: int, length: int, threads: int) -> dict[str, Any]:
    once = _time(path, batch, length, threads, _FEWEST)
    wanted = int(_SECONDS / min(once["seconds"]))
    timing = _time(path, batch, length, threads, max(_FEWEST, min(_MOST, wanted)))
    total = sum(timing["stages"].values())
    return {
        "batch": batch,
        "length": length,
        "threads": threads,
        "best": min(timing["seconds"]),
        "shares": {stage: seconds / total for stage, seconds in timing["stages"].items()},
    }


def _time(path: str, batch: int, length: int, threads: int, repetitions: int) -> dict[str, Any]:
    options = Bench(
        model=path,
        batch=(batch,),
        length=(length,),
        threads=(threads,),
        repetitions=repetitions,
        profile=True,
    )
    [timing] = bench.run(options)
    return timing


if __name__ == "__main__":
    print(json.dumps(measure()))
