"""A training run as text: the table of its results, and how to do it again."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bitinfer.train.options import ARGUMENTS

if TYPE_CHECKING:
    from bitinfer.train.report import TrainingReport

__all__ = [
    "as_markdown",
    "code",
    "data_table",
    "duration",
    "fence",
    "metric_text",
    "notes",
    "option_words",
    "recipe",
    "result_table",
    "size_text",
    "table",
]

# What is of no use to who does it again.
_NOT_RECIPE = {"resume", "show_progress_bar"}


def as_markdown(report: TrainingReport) -> str:
    """The whole of ``report.md``."""
    found = {
        key: value
        for key, value in sorted(report.asdict()["options"].items())
        if key not in ARGUMENTS[report.command]
    }
    versions = ", ".join(f"{name} {value}" for name, value in sorted(report.versions.items()))
    parts = [
        f"# Report of bitinfer {report.command}",
        result_table(report),
        *notes(report),
        "![dev metric against steps](report.svg)",
        "## How it was made",
        recipe(report),
        data_table(report),
        "\n".join(
            [
                f"- Started, or last resumed, {report.started}, {duration(report.seconds)} in all.",
                f"- Machine: {report.machine}.",
                f"- Versions: {versions}.",
                *(f"- {key}: {code(json.dumps(value))}" for key, value in found.items()),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def result_table(report: TrainingReport) -> str:
    """Teacher, stages and packed model, a row each."""
    metric = report.metric
    rows: list[Sequence[str]] = []
    if report.teacher is not None:
        value = metric_text(metric, report.teacher.value)
        size = size_text(report.teacher.bytes)
        rows.append((f"teacher, {code(report.teacher.name)}", "32-32-32", "", "", "", value, size))
    for number, stage in enumerate(report.stages, start=1):
        name = f"stage {number}" if report.command == "distill" else "fine-tuned"
        last = number == len(report.stages) and report.packed is None
        rows.append(
            (
                name,
                stage.bits,
                f"{stage.steps:,}",
                f"{stage.epochs:.1f}",
                duration(stage.seconds),
                metric_text(metric, stage.best, report.standard_error if last else None),
                size_text(report.float_bytes) if last else "",
            )
        )
    if report.packed is not None:
        packed = report.packed
        value = metric_text(metric, packed.value, packed.standard_error)
        bits = report.stages[-1].bits if report.stages else ""
        size = size_text(packed.bytes)
        rows.append((f"**packed**, {code(packed.file)}", bits, "", "", "", f"**{value}**", size))
    dev = report.data["dev"]
    measured = f"{metric}, {dev.rows:,} dev rows"
    header = ("model", "bits", "steps", "epochs", "time", measured, "size")
    return table(header, rows, "lr" + "r" * 5)


def notes(report: TrainingReport) -> list[str]:
    """What a reader of the table has to know: paragraphs."""
    found = []
    if report.standard_error is not None:
        found.append(f"± is one standard error of {report.data['dev'].rows:,} rows.")
    if report.packed is not None:
        parity = report.packed.parity
        verdict = "Parity: exact." if parity.exact else "**Parity: NOT exact.**"
        found.append(
            f"{verdict} Packed engine against float64 reference: {parity.codes_differing:,} of "
            f"{parity.codes:,} codes differ, logits within {parity.logits_difference:.1e} "
            f"({parity.sequences:,} texts, {parity.tokens:,} tokens). As a float checkpoint the "
            f"same model takes {size_text(report.float_bytes)}."
        )
    return found


def data_table(report: TrainingReport) -> str:
    """The files that were read."""
    rows = [
        (name, code(file.name), f"{file.rows:,}", code(file.sha256))
        for name in ("train", "unlabelled", "dev")
        if (file := report.data.get(name)) is not None
    ]
    return table(("data", "file", "rows", "SHA-256"), rows, "llrl")


def recipe(report: TrainingReport) -> str:
    """The command that does it again, or the call where a command cannot say it."""
    names = [name for name in ARGUMENTS[report.command] if name not in _NOT_RECIPE]
    options = report.asdict()["options"]
    given = {name: options.get(name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    lists = [value for value in given.values() if isinstance(value, list)]
    if any("," in str(each) for value in lists for each in value):
        arguments = "".join(f"    {name}={value!r},\n" for name, value in given.items())
        return fence(f"bitinfer.train.{report.command}(\n{arguments})", "python")
    words = ["bitinfer", report.command]
    for name, value in given.items():
        words += [_word(value)] if name in ("teacher", "encoder") else option_words(name, value)
    return fence(shlex.join(words), "sh")


def option_words(name: str, value: Any) -> list[str]:
    """An argument of a function as the words of a command; those that are off need none.

    >>> option_words("batch_size", 8), option_words("labels", ["no", "yes"])
    (['--batch-size', '8'], ['--labels', 'no,yes'])
    """
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if value is False:
        return ["--no-bf16"] if name == "bf16" else []
    word = _word(value)
    # Text that looks like an option has to be tied to its own.
    return [f"{option}={word}"] if word.startswith("-") else [option, word]


def _word(value: Any) -> str:
    return ",".join(map(_word, value)) if isinstance(value, list) else str(value)


# ---- pieces


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A Markdown table; ``align`` has an l or r for each column."""
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def code(text: str) -> str:
    """Text as code, wherever it stands: also in a table.

    >>> code("a|b")
    '`a\\\\|b`'
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " if longest else ""
    ticks = "`" * (longest + 1)
    flat = " ".join(text.split()).replace("|", "\\|")
    return f"{ticks}{space}{flat}{space}{ticks}"


def fence(text: str, language: str) -> str:
    """Lines as a block of code."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def metric_text(metric: str, value: float, error: float | None = None) -> str:
    """A metric for reading.

    >>> metric_text("accuracy", 0.8211, 0.013), metric_text("pearson", 0.72)
    ('82.1 ± 1.3 %', '0.720')
    """
    if not math.isfinite(value):
        return "undefined"
    scale, form, unit = (100, ".1f", " %") if metric == "accuracy" else (1, ".3f", "")
    spread = "" if error is None else f" ± {scale * error:{form}}"
    return f"{scale * value:{form}}{spread}{unit}"


def size_text(size: int) -> str:
    """Bytes for reading.

    >>> size_text(4_450_504), size_text(87_109)
    ('4.5 MB', '87 kB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for reading.

    >>> duration(61), duration(4000)
    ('61 s', '66.7 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
