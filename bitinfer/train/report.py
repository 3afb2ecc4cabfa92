"""What a training run did: figures, how they came about, and ``report.json``, which keeps them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bitinfer.conversion.parity import Parity
from bitinfer.errors import FormatError, quote
from bitinfer.files import write_file
from bitinfer.heads import ACCURACY, PEARSON, Metric

#: By their names.
METRICS = {metric.name: metric for metric in (ACCURACY, PEARSON)}

_SCHEMA = 2


@dataclass(frozen=True)
class Point:
    """A measurement during a stage, after so many steps and seconds of it."""

    step: int
    seconds: float
    loss: float | None  # mean since the point before; None where there was no step
    value: float  # metric on dev; nan where it is not defined (a correlation of constants)


@dataclass(frozen=True)
class StageResult:
    """What one student, or the fine-tuned model, came to."""

    bits: str  # of weights, embeddings and activations; ``"32-32-32"`` is float
    steps: int
    epochs: float  # how often that is all of the training texts
    seconds: float  # measurements on dev included
    best_step: int  # whose weights were kept
    best: float  # the dev metric there
    points: tuple[Point, ...]


@dataclass(frozen=True)
class TeacherResult:
    """The float model that taught: its name, its dev metric, the bytes of its float32 weights."""

    name: str
    value: float
    bytes: int


@dataclass(frozen=True)
class PackedResult:
    """The packed model, measured on dev by the engine that runs it."""

    file: str
    bytes: int
    value: float
    parity: Parity


@dataclass(frozen=True)
class DataFile:
    """A table: its file name without folder, its rows, the SHA-256 of the file.

    Of rows that no file held the name is ``"rows"``, the SHA-256 that of them as JSON.
    """

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class TrainingReport:
    """A run of `bitinfer.train.distill` or `bitinfer.train.finetune`.

    Attributes:
        command: the function, which is also the name of the command.
        metric: accuracy in 0..1, or the correlation for regression.
        labels: names of the classes; empty for regression.
        pairs: whether the model takes two texts.
        architecture: layers, hidden, heads, intermediate, vocab and positions of the model, and
            max_length, the tokens that a text is cut to.
        teacher: the float model that taught; None after fine-tuning.
        stages: in the order they were trained.
        packed: the packed model; None after fine-tuning.
        float_bytes: size of the float weights in the output folder.
        options: the arguments of the function as they were given or left, plain data; keys that
            are not arguments are settings the run found out, and shown as such.
        versions: of bitinfer, torch, transformers, python.
        machine: processor, number of threads, and GPU if one was used.
        started: ISO 8601 date and time; of the last part if it was resumed.
        seconds: whole run, over all its parts if it was resumed.
        data: ``"train"``, ``"dev"``, and ``"unlabelled"`` if more texts were learned from.
    """

    command: Literal["distill", "finetune"]
    metric: Literal["accuracy", "pearson"]
    labels: tuple[str, ...]
    pairs: bool
    architecture: dict[str, int]
    teacher: TeacherResult | None
    stages: tuple[StageResult, ...]
    packed: PackedResult | None
    float_bytes: int
    options: dict[str, Any]
    versions: dict[str, str]
    machine: str
    started: str
    seconds: float
    data: dict[str, DataFile]

    def as_json(self) -> str:
        """The content of ``report.json``: numbers that are not finite become null."""
        plain = {"schema": _SCHEMA, **to_plain(self)}
        return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @property
    def measured(self) -> Metric:
        """The metric itself."""
        return METRICS[self.metric]

    @property
    def bits(self) -> str:
        """Of the result."""
        return self.stages[-1].bits

    @property
    def value(self) -> float:
        """The dev metric of the result: the packed model, or else the last stage."""
        return self.stages[-1].best if self.packed is None else self.packed.value

    @property
    def standard_error(self) -> float | None:
        """Of that value, by the metric; None where there is none."""
        return self.measured.standard_error(self.value, self.data["dev"].rows)

    def table(self) -> str:
        """Teacher, stages and packed model as a Markdown table."""
        text, error = self.measured.text, self.standard_error
        rows: list[tuple[str, ...]] = []
        if self.teacher is not None:
            name, size = f"teacher, {code(self.teacher.name)}", size_text(self.teacher.bytes)
            rows.append((name, "32-32-32", "", "", "", text(self.teacher.value), size))
        for number, stage in enumerate(self.stages, start=1):
            name = f"stage {number}" if self.command == "distill" else "fine-tuned"
            spent = (f"{stage.steps:,}", f"{stage.epochs:.1f}", duration(stage.seconds))
            result = number == len(self.stages) and self.packed is None
            size = size_text(self.float_bytes) if result else ""
            value = text(stage.best, error if result else None)
            rows.append((name, stage.bits, *spent, value, size))
        if self.packed is not None:
            name, size = f"**packed**, {code(self.packed.file)}", size_text(self.packed.bytes)
            rows.append((name, self.bits, "", "", "", f"**{text(self.value, error)}**", size))
        measured = f"{self.metric}, {self.data['dev'].rows:,} dev rows"
        header = ("model", "bits", "steps", "epochs", "time", measured, "size")
        return table(header, rows, "lrrrrrr")

    def notes(self) -> list[str]:
        """What a reader of the table has to know: paragraphs."""
        found = []
        if self.standard_error is not None:
            found.append(f"± is one standard error of {self.data['dev'].rows:,} rows.")
        if self.packed is not None:
            parity = self.packed.parity
            verdict = "Parity: exact." if parity.exact else "**Parity: NOT exact.**"
            found.append(
                f"{verdict} Packed engine against float64 reference: {parity.codes_differing:,} of "
                f"{parity.codes:,} codes differ, logits within {parity.logits_difference:.1e} "
                f"({parity.sequences:,} texts, {parity.tokens:,} tokens). As a float checkpoint "
                f"the same model takes {size_text(self.float_bytes)}."
            )
        return found


def write_report(folder: Path, report: TrainingReport) -> None:
    """Write ``report.json``, complete or not at all, in place of one that is there."""
    write_file(folder / "report.json", report.as_json().encode(), overwrite=True)


def read_report(path: str | os.PathLike[str]) -> TrainingReport:
    """What `write_report` wrote.

    Args:
        path: ``report.json``, or the folder it is in.

    Raises:
        FormatError: it is not such a report, or of an unknown schema; names file and key.
        OSError: it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON
        raise FormatError(f"{file}: found no JSON ({error}), expected a report") from None
    if not isinstance(data, dict) or data.pop("schema", None) != _SCHEMA:
        raise FormatError(f"{file}: found no report of schema {_SCHEMA}, expected one")
    report: TrainingReport = from_plain(TrainingReport, data, f"{file}: report")
    return report


_CALLED = {tuple: "a list", float: "a number", bool: "bool", int: "int", str: "str"}


def to_plain(value: Any) -> Any:
    """A value as JSON has it, where a number that is not finite is None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """A value of that type from what JSON has of it; a FormatError says where it is another."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:  # X | None
        return value if value is None else from_plain(parts[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(from_plain(parts[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if (origin is dict or is_dataclass(kind)) and isinstance(value, dict):
        hints = get_type_hints(kind) if origin is None else dict.fromkeys(value, parts[-1])
        for name in sorted(hints.keys() ^ value.keys()):
            found = "no key" if name in hints else "unknown key"
            raise FormatError(f"{where}: found {found} {name!r}, expected {sorted(hints)}")
        read = {name: from_plain(hints[name], value[name], f"{where}.{name}") for name in value}
        return kind(**read)
    if kind is float and (value is None or type(value) is int):
        return math.nan if value is None else float(value)
    if kind is Any or type(value) is kind or (origin is Literal and value in parts):
        return value
    expected = " or ".join(map(repr, parts)) if origin is Literal else _CALLED.get(origin or kind)
    raise FormatError(f"{where}: found {quote(value)}, expected {expected or 'an object'}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A Markdown table; ``align`` has an l or r for each column."""
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def code(text: str) -> str:
    """Text as code, wherever it stands: also in a table."""
    ticks, space = _ticks(text, 1), " " if "`" in text else ""
    flat = " ".join(text.split()).replace("|", "\\|")
    return f"{ticks}{space}{flat}{space}{ticks}"


def fence(text: str, language: str) -> str:
    """Lines as a block of code."""
    ticks = _ticks(text, 3)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _ticks(text: str, least: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def size_text(size: int) -> str:
    """Bytes for reading."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """For reading."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
