"""What is compared: the parts, their cells, and who takes part in them."""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.markdown import ROOT

from .artefacts import FIRST, version
from .contestants import AVX2, CHECKED, ENGINES, GROUPS, KERNELS, RAGGED
from .scheduler import ContestantError, Process, interleave

RESULTS = ROOT / "benchmarks" / "compare" / "results.json"

Data = dict[str, Any]
Grid = Mapping[str, Sequence[tuple[int, int]]]

# Batch x tokens.
_BASE = ((1, 32), (1, 128), (1, 384), (1, 512), (8, 32), (8, 128), (8, 384), (32, 32), (32, 128))
GRID: Grid = {"base": _BASE, "small": ((1, 128), (32, 128))}
QUICK_GRID: Grid = {"base": ((1, 32), (1, 128)), "small": ((1, 128),)}
# On one thread only what one would choose: the others take minutes and show nothing new.
_ONE_THREAD = (
    *("bitinfer", "openvino-int8", "openvino-bf16", "onnxruntime-int8", "ctranslate2-int8"),
)
_TOKENS = tuple(16 << step for step in range(11))
_LENGTH = 128  # of a sequence, in batches of more tokens
_RIVAL_TOKENS = 4096  # where rivals end: more takes long and lies on the same line
_SHAPES = tuple(
    (m, n, k) for n, k in ((768, 768), (3072, 768), (768, 3072)) for m in (1, 16, 128, 4096)
)
_UNCHECKED = ("registers", "memory")  # no products
_FIRST = {"model": "base", "lengths": [FIRST[1]] * FIRST[0], "first": True}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: about so long for each contestant in each cell.
        tokens: sizes of the batches whose cost is fitted.
        starts: processes whose start and memory are measured, for each engine.
        less: the options for which it is less than all of it.
        wrong: group and name of those that failed their check, which are not timed.
    """

    engines: Sequence[str] = tuple(ENGINES)
    grid: Grid = field(default_factory=lambda: GRID)
    threads: Sequence[int] = ()
    seconds: float = 2.0
    tokens: Sequence[int] = _TOKENS
    shapes: Sequence[tuple[int, int, int]] = _SHAPES
    starts: int = 5
    less: Sequence[str] = ()
    wrong: Collection[tuple[str, str]] = ()

    def sound(self, group: str, names: Iterable[str]) -> list[str]:
        """Those of the names that can be timed."""
        return [name for name in names if (group, name) not in self.wrong]

    def described(self) -> Data:
        """What is kept beside the figures."""
        return {"seconds": self.seconds, "starts": self.starts, "engines": list(self.engines),
                "threads": list(self.threads), "less": list(self.less)}  # fmt: skip


def ragged_lengths() -> list[int]:
    """Tokens of 32 texts: most are short, some long, as sentences are."""
    chance = random.Random(1)
    return [max(8, min(128, round(chance.lognormvariate(3.6, 0.6)))) for _ in range(32)]


def cpus() -> int:
    return len(os.sched_getaffinity(0))


# ---- parts


def checks(plan: Plan) -> list[Data]:
    """Every answer against what it should be, before anything is timed."""
    wanted = {
        "engines": [name for name in CHECKED if name in plan.engines or name not in ENGINES],
        "ragged": [name for name in RAGGED if name not in ENGINES],
        "avx2": list(AVX2),
        "kernels": [name for name in KERNELS if name not in _UNCHECKED],
    }
    found = []
    for group, names in wanted.items():
        for name in names:
            with Process(group, name, 1) as process:
                found.append({"group": group, "name": name, **_check(process)})
            _say(f"  {name}: {found[-1].get('error', found[-1].get('difference'))}")
    return found


def _check(process: Process) -> Data:
    try:
        found = process.ask("check")
    except ContestantError as failure:
        return {"error": str(failure)}
    if not found["difference"] <= found["tolerance"]:
        return {**found, "error": "wrong answer"}
    return found


def speed(plan: Plan) -> list[Data]:
    cells = [(model, cell) for model, grid in plan.grid.items() for cell in grid]
    found = []
    for count in plan.threads:
        names = plan.sound("engines", plan.engines)
        if count == 1:
            names = [name for name in names if name in _ONE_THREAD]
        with Contestants("engines", names, count) as contestants:
            for model, (batch, length) in cells:
                cell = {"model": model, "lengths": [length] * batch}
                timed = contestants.measure(cell, plan.seconds)
                found.append({"model": model, "batch": batch, "length": length, **timed})
    return found


def ragged(plan: Plan) -> list[Data]:
    found = []
    cell = {"model": "base", "lengths": ragged_lengths()}
    for count in plan.threads:
        with Contestants("ragged", plan.sound("ragged", RAGGED), count) as contestants:
            found.append({**cell, **contestants.measure(cell, plan.seconds)})
    return found


def avx2(plan: Plan) -> list[Data]:
    """Both held to AVX2, which is what most other processors have."""
    found = []
    for count in plan.threads:
        with Contestants("avx2", plan.sound("avx2", AVX2), count) as contestants:
            for batch, length in ((1, 128), (8, 128)):
                cell = {"model": "base", "lengths": [length] * batch}
                timed = contestants.measure(cell, plan.seconds)
                found.append({"batch": batch, "length": length, **timed})
    return found


def tokens(plan: Plan) -> list[Data]:
    """Batches of sequences of one length, from a short sequence to many."""
    found = []
    count = max(plan.threads)
    names = plan.sound("engines", ["bitinfer", "openvino-int8"])
    with Contestants("engines", names, count) as contestants:
        for total in plan.tokens:
            length = min(total, _LENGTH)
            cell = {"model": "base", "lengths": [length] * (total // length)}
            among = ["bitinfer"] if total > _RIVAL_TOKENS else None
            found.append({"tokens": total, **contestants.measure(cell, plan.seconds, among)})
    return found


def kernels(plan: Plan) -> list[Data]:
    found = []
    with Contestants("kernels", plan.sound("kernels", KERNELS), 1) as contestants:
        for shape in plan.shapes:
            timed = contestants.measure({"shape": shape}, plan.seconds / 4)
            found.append({"shape": shape, **timed})
    return found


def start(plan: Plan) -> list[Data]:
    """Fresh processes of one thread, from their start to logits of 128 tokens; files are cached."""
    names = plan.sound("engines", plan.engines)
    found: dict[str, list[Data]] = {name: [] for name in names}
    for index in range(plan.starts + 1):  # the first one reads the files
        for name in names:
            reply = _start(name)
            if index > 0:
                found[name].append(reply)
    return [{"name": name, **_median_start(replies)} for name, replies in found.items()]


def _start(name: str) -> Data:
    with Process("engines", name, 1) as process:
        try:
            process.ask("prepare", cell=_FIRST)
            process.call()
            seconds = time.perf_counter() - process.started
            return {"seconds": seconds, **process.ask("footprint")}
        except ContestantError as failure:
            return {"error": str(failure)}


def _median_start(replies: list[Data]) -> Data:
    failed = [reply for reply in replies if "error" in reply]
    if failed:
        return failed[0]
    return {
        "seconds": [reply["seconds"] for reply in replies],
        "peak": int(statistics.median(reply["peak"] for reply in replies)),
        "file": replies[0]["file"],
    }


PARTS: dict[str, Callable[[Plan], list[Data]]] = {
    part.__name__: part for part in (checks, speed, ragged, avx2, tokens, kernels, start)
}


class Contestants:
    """Workers of one group, all started, with as many threads each."""

    def __init__(self, group: str, names: Iterable[str], threads: int) -> None:
        self._threads = threads
        self._stack = ExitStack()
        self._processes = {
            name: self._stack.enter_context(Process(group, name, threads)) for name in names
        }

    def measure(self, cell: Data, seconds: float, among: Iterable[str] | None = None) -> Data:
        """Prepare all for a cell, then time them in rounds; some ``among`` them, if named."""
        ready, variants, errors = {}, {}, {}
        for name in among or self._processes:
            try:
                variants[name] = self._processes[name].ask("prepare", cell=cell)["variant"]
                ready[name] = self._processes[name]
            except ContestantError as failure:
                errors[name] = str(failure)
        timed = interleave(ready, seconds)
        errors |= {name: own.pop("error") for name, own in timed.items() if "error" in own}
        described = cell.get("shape") or f"{len(cell['lengths'])} x {max(cell['lengths'])}"
        _say(f"  {described}, {self._threads} threads: {_brief(timed)} {errors or ''}")
        return {
            "threads": self._threads,
            "timings": {name: {**own, "variant": variants[name]} for name, own in timed.items()},
            "errors": errors,
        }

    def __enter__(self) -> Contestants:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _brief(timed: Mapping[str, Data]) -> str:
    medians = {name: own["seconds"] for name, own in timed.items() if own["seconds"]}
    return ", ".join(f"{n} {1e3 * statistics.median(s):.3g} ms" for n, s in medians.items())


# ---- all of it


def measure(parts: Iterable[str], plan: Plan, file: Path, load: float) -> Data:
    """Measures some parts and saves them, each when it is done, beside those that were there.

    With each part goes its run: the plan, the machine and its ``load`` before all of this.  An
    engine that cannot be checked is left out of the parts that follow.

    Raises:
        ContestantError: An engine gave a wrong answer, or bitinfer none.
    """
    from benchmarks import machine

    results: Data = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    described = {**machine.describe(), "packages": _versions(), "load": load}
    for part in parts:
        _say(f"{part}:")
        results["machine"] = rounded(described)
        results[part] = rounded(PARTS[part](plan))
        run = {**plan.described(), "machine": described}
        results["runs"] = {**results.get("runs", {}), part: rounded(run)}
        write(file, results)
        if part == "checks":
            plan = replace(plan, wrong=_failed(results[part]))
    return results


def _failed(found: Iterable[Data]) -> list[tuple[str, str]]:
    failed = [check for check in found if "error" in check]
    fatal = [c["name"] for c in failed if "difference" in c or c["name"].startswith("bitinfer")]
    if fatal:
        raise ContestantError(f"wrong answers, nothing is timed: {', '.join(fatal)}")
    return [(check["group"], check["name"]) for check in failed]


def rounded(value: Any) -> Any:
    """Four digits of every number that is not an integer: there is no more to say."""
    match value:
        case float():
            return float(f"{value:.4g}")
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
    return value


def write(file: Path, results: Data) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    text = json.dumps(results, indent=1)
    partial.write_text(_short_lists(text) + "\n", "utf-8")
    partial.replace(file)


def _short_lists(text: str) -> str:
    """Lists of numbers on one line."""
    import re

    return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)


def _versions() -> dict[str, str | None]:
    names = {package for group in GROUPS.values() for e in group.values() for package in e.packages}
    return {name: version(name) for name in sorted(names - {"bitinfer"})}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
