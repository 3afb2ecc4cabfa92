"""Measures bitinfer beside other engines.

    python -m benchmarks.compare                   everything: about half an hour on two cores
    python -m benchmarks.compare --quick           a little of everything: 3 to 5 minutes
    python -m benchmarks.compare speed --cells 1x128,8x128 --engines openvino-int8 --threads 2

The first run makes the models, which takes three minutes more.  Everything, or whole parts of it,
goes into benchmarks/compare/results.json; anything less into build/compare/some.json.  What was
measured is printed; ``python benchmarks/table.py --rewrite`` and
``python -m benchmarks.compare.plots`` put results.json into the documentation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.markdown import ROOT, show

from . import measure
from .contestants import ENGINES
from .scheduler import NO_TELEMETRY, ContestantError
from .tables import TABLES

_SECONDS = measure.Plan.seconds
_SOME = ROOT / "build" / "compare" / "some.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(measure.PARTS))
    parser.add_argument(
        "--engines",
        type=_names,
        help="of speed and start, the other parts have their own; some of: " + ", ".join(ENGINES),
    )
    parser.add_argument("--cells", type=_cells, help="batch x tokens of BERT-base: 1x128,8x32")
    parser.add_argument("--threads", type=_counts, help="all CPUs, then one, by default: 2,1")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="an engine and cell")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := set(names) - set(ENGINES):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return tuple(dict.fromkeys(["bitinfer", *names]))


def _cells(text: str) -> list[tuple[int, int]]:
    pairs = [cell.split("x") for cell in text.split(",")]
    return [(int(batch), int(length)) for batch, length in pairs]


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


def _plan(options: Any) -> measure.Plan:
    threads = tuple(dict.fromkeys((measure.cpus(), 1)))
    plan = measure.Plan(
        threads=options.threads or threads, seconds=options.seconds, less=_less(options)
    )
    if options.quick:
        plan = replace(
            plan,
            grid=measure.QUICK_GRID,
            seconds=min(0.3, options.seconds),
            tokens=plan.tokens[:6],
            shapes=[(1, 768, 768), (128, 768, 768), (128, 768, 3072)],
            starts=1,
        )
    if options.engines:
        plan = replace(plan, engines=options.engines)
    if options.cells:
        plan = replace(plan, grid={"base": options.cells})
    return plan


def _less(options: Any) -> list[str]:
    """Options for which not everything is measured, or not as long."""
    less = [name for name in ("quick", "engines", "cells", "threads") if getattr(options, name)]
    return less + (["seconds"] if options.seconds < _SECONDS else [])


def _make_models() -> None:
    """In a process of its own: what it loads is not for the workers' neighbour to hold."""
    command = [sys.executable, "-m", "benchmarks.compare.artefacts"]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **NO_TELEMETRY})


def main() -> int:
    load = os.getloadavg()[0]  # before anything here adds to it
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.parts) - set(measure.PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    plan = _plan(options)
    file = options.output or (_SOME if plan.less else measure.RESULTS)
    _make_models()
    try:
        results = measure.measure(options.parts or measure.PARTS, plan, file, load)
    except ContestantError as failure:
        print(failure, file=sys.stderr)
        return 1
    show({"compare": results}, TABLES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
