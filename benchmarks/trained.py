"""Training as Markdown: the models that were trained, and the ablation.

Read are ``report.json`` and ``test.json`` of a folder of ``examples``, which
``examples/publish.py`` writes there, and ``benchmarks/ablation.json``: an object with

- ``runs``: a list of objects with the fields of `Trained`; the first one's arm is the base;
- ``setup``: ``description`` (what was trained, in a sentence), ``machine``, ``versions`` (name and
  version of each package), ``teacher`` (its accuracy on the rows that the runs are measured on).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.markdown import ROOT, Data, table
from bitinfer.train.report import METRICS, TrainingReport, code, duration, read_report

EXAMPLES = ROOT / "examples"
ABLATION = ROOT / "benchmarks" / "ablation.json"
MODELS = ("sst2", "clinc150")

_BUILTIN = "bitinfer/builtin"
_MISSING = "Not measured yet."
_NOISE = 2  # standard errors up to which a difference is called noise


@dataclass(frozen=True)
class Trained:
    """A run of the ablation.

    Attributes:
        arm: what is tried, such as ``"base"``.
        seed: of everything random.
        bits: of each student, ``"1-1-2"``.
        two_set: whether what is not negative has unsigned codes, rather than signed ones.
        fixed_steps: whether steps stay what the first batch made them.
        row_scales: whether a weight scale is that of a row, rather than of the matrix.
        vector_rate: as of `bitinfer.train.distill`.
        steps: of all stages together.
        seconds: of the training.
        value: accuracy, in 0..1.
        count: rows it was measured on.
    """

    arm: str
    seed: int
    bits: Sequence[str]
    two_set: bool
    fixed_steps: bool
    row_scales: bool
    vector_rate: float
    steps: int
    seconds: float
    value: float
    count: int


def saved(examples: Path = EXAMPLES, ablation: Path = ABLATION) -> Data:
    """What there is of reports, cards, measurements on test rows, and the ablation."""
    found: Data = {"trained": {}, "tested": {}, "cards": {}}
    for name in MODELS:
        folder = examples / name
        # A model that the package does not contain has its card beside the report.
        outside = (folder / "README.md").is_file()
        found["cards"][name] = f"examples/{name}/README.md" if outside else f"{_BUILTIN}/{name}.md"
        if (folder / "report.json").is_file():
            found["trained"][name] = read_report(folder)
        if (folder / "test.json").is_file():
            found["tested"][name] = json.loads((folder / "test.json").read_text("utf-8"))
    if ablation.is_file():
        found["ablation"] = json.loads(ablation.read_text("utf-8"))
    return found


# ---- models


def evaluation(results: Data) -> str:
    """Accuracy on test rows of the models that are built in or documented."""
    measured, tested = results.get("evaluation", {}), results.get("tested", {})
    rows = []
    for name in MODELS:
        found = tested.get(name, {}) | measured.get(name, {})
        if found:
            teacher = found.get("teacher")
            rows.append(
                [
                    f"`{name}`, built in" if name in measured else f"`{name}`, recipe only",
                    _TASKS[name],
                    f"{found['labels']:,}",
                    f"{found['rows']:,}",
                    METRICS[found["metric"]].text(found["value"], found["standard_error"]),
                    "" if teacher is None else METRICS[found["metric"]].text(teacher),
                ]
            )
    head = ["model", "test set", "labels", "rows", "accuracy", "of its float teacher"]
    return table(head, rows) if rows else _MISSING


_TASKS = {"sst2": "SST-2, GLUE's development set", "clinc150": "CLINC150, 150 intents"}


def training(results: Data, name: str) -> str:
    """How a model was trained and what came of it; for a page in ``docs``."""
    report: TrainingReport | None = results.get("trained", {}).get(name)
    if report is None:
        return _MISSING
    versions = ", ".join(f"{key} {value}" for key, value in sorted(report.versions.items()))
    looks = sum(len(stage.points) for stage in report.stages)
    rows = f"{report.data['train'].rows:,} training rows"
    if "unlabelled" in report.data:
        rows += f" and {report.data['unlabelled'].rows:,} without labels"
    parts = [
        report.table(),
        *report.notes(),
        *_test_note(results.get("tested", {}).get(name)),
        f"{duration(report.seconds)} in all on {report.machine}, {rows}, {looks} looks at the dev "
        f"rows; {versions}. "
        f"[Model card](../{results['cards'][name]}).",
        f"![{report.metric} on the dev rows against steps](../examples/{name}/report.svg)",
    ]
    return "\n\n".join(parts)


def _test_note(test: Data | None) -> list[str]:
    if test is None:
        return []
    metric = METRICS[test["metric"]]
    said = f"{metric.name} {metric.text(test['value'], test['standard_error'])}"
    if test.get("teacher") is not None:
        said += f", of its float teacher {metric.text(test['teacher'])}"
    rows = f"{test['rows']:,} rows of {code(test['table'])}"
    return [f"On the {rows}, which had no part in any of this: {said}."]


# ---- ablation


@dataclass(frozen=True)
class _Mean:
    """Of some values: mean, and its standard error, nan for a single value."""

    value: float
    error: float


def ablation(results: Data) -> str:
    """Each arm of the ablation: its mean over seeds, and how far that is from the base."""
    found = results.get("ablation")
    if not found or not found["runs"]:
        return _MISSING
    arms: dict[str, list[Trained]] = {}
    for each in found["runs"]:
        run = Trained(**each)
        arms.setdefault(run.arm, []).append(run)
    base, *others = arms
    means = {arm: _mean([run.value for run in runs]) for arm, runs in arms.items()}
    rows = [
        [*_arm(arm, arms[arm]), _points(means[arm]), *_difference(means[base], means[arm])]
        for arm in (base, *others)
    ]
    rows[0][-2:] = ["", ""]
    head = ["arm", "bits", "codes", "steps of codes", "weight scales", "rate of vectors"]
    head += ["training steps", "time", "seeds", "accuracy, %", "difference to the first"]
    head.append(f"within {_NOISE} standard errors?")
    return f"{table(head, rows)}\n\n{_setup(found['setup'], arms)}"


def _arm(arm: str, runs: list[Trained]) -> list[str]:
    first = runs[0]
    for run in runs:
        if _kind(run) != _kind(first):
            raise ValueError(f"ablation, arm {arm!r}: found runs of several kinds, expected one")
    if len({run.seed for run in runs}) != len(runs):
        raise ValueError(f"ablation, arm {arm!r}: found a seed twice, expected each once")
    return [
        arm,
        ", ".join(first.bits),
        "two sets" if first.two_set else "signed",
        "fixed" if first.fixed_steps else "learned",
        "of rows" if first.row_scales else "of matrices",
        f"{first.vector_rate:g}",
        f"{first.steps:,}",
        duration(fmean(run.seconds for run in runs)),
        str(len(runs)),
    ]


def _kind(run: Trained) -> Trained:
    """All but what differs from seed to seed."""
    return replace(run, seed=0, seconds=0.0, value=0.0)


def _mean(values: list[float]) -> _Mean:
    spread = stdev(values) if len(values) > 1 else math.nan
    return _Mean(fmean(values), spread / math.sqrt(len(values)))


def _points(mean: _Mean, sign: str = "") -> str:
    error = "" if math.isnan(mean.error) else f" ± {100 * mean.error:.1f}"
    return f"{100 * mean.value:{sign}.1f}{error}"


def _difference(base: _Mean, other: _Mean) -> tuple[str, str]:
    apart = _Mean(other.value - base.value, math.hypot(base.error, other.error))
    if math.isnan(apart.error):
        return _points(apart, "+"), "unknown"
    noise = abs(apart.value) <= _NOISE * apart.error
    return _points(apart, "+"), "yes: within noise" if noise else "no"


def _setup(setup: Data, arms: dict[str, list[Trained]]) -> str:
    runs = [run for each in arms.values() for run in each]
    counts = sorted({run.count for run in runs})
    rows = " or ".join(f"{count:,}" for count in counts)
    value = fmean(run.value for run in runs)
    chance = math.sqrt(value * (1 - value) / counts[0])
    versions = ", ".join(f"{name} {version}" for name, version in sorted(setup["versions"].items()))
    return (
        f"{setup['description'].rstrip('.')}. ± is one standard error over the seeds, of a "
        f"difference that of both means. The {rows} rows are the same for all, the float teacher "
        f"has {100 * setup['teacher']:.1f} % of them right; other rows would move all arms, by "
        f"{100 * chance:.1f} points as a standard error. Time is that of one run, "
        f"{duration(sum(run.seconds for run in runs))} in all; {setup['machine']}; {versions}."
    )


TABLES: dict[str, Callable[[Data], str]] = {
    "evaluation": evaluation,
    **{f"training_{name}": partial(training, name=name) for name in MODELS},
    "ablation": ablation,
}
