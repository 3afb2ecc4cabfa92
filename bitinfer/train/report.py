"""What a training run did: figures, how they came about, and the files that tell of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from bitinfer.conversion.convert import Parity
from bitinfer.errors import FormatError, InputTypeError, quote
from bitinfer.files import write_file
from bitinfer.train.markdown import as_markdown, result_table
from bitinfer.train.plot import as_svg, check_plotting

__all__ = [
    "SCHEMA",
    "Architecture",
    "DataFile",
    "PackedResult",
    "Parity",
    "Point",
    "StageResult",
    "TeacherResult",
    "TrainingReport",
    "check_plotting",
    "read_report",
    "standard_error",
    "write_report",
]

SCHEMA = 1

_T = TypeVar("_T")


@dataclass(frozen=True)
class Point:
    """A measurement during a stage.

    Attributes:
        step: optimizer steps of this stage so far; 0 is before the first.
        seconds: training time of this stage so far, over all its runs if it was resumed.
        loss: mean training loss since the point before, or None where there was no step.
        value: metric on the dev table; nan where it is not defined (a correlation of constants).
    """

    step: int
    seconds: float
    loss: float | None
    value: float


@dataclass(frozen=True)
class StageResult:
    """What one student, or the fine-tuned model, came to.

    Attributes:
        bits: of weights, embeddings and activations, ``"1-1-2"``; ``"32-32-32"`` is float.
        steps, epochs: optimizer steps done, and how often that is all of the training texts.
        seconds: training time, measurements on dev included.
        best_step, best: the step whose weights were kept, and the dev metric there.
        points: every measurement, in order.
    """

    bits: str
    steps: int
    epochs: float
    seconds: float
    best_step: int
    best: float
    points: tuple[Point, ...]


@dataclass(frozen=True)
class TeacherResult:
    """The float model that taught: its name, its dev metric, the bytes of its weights file."""

    name: str
    value: float
    bytes: int


@dataclass(frozen=True)
class PackedResult:
    """The packed model, measured by the engine that runs it.

    Attributes:
        file: name of the packed file in the output folder.
        bytes: its size.
        value: metric on the dev table.
        count: rows of that table.
        standard_error: of ``value``, from `standard_error`; None where there is none.
        parity: the engine beside the float64 reference, on the dev table.
    """

    file: str
    bytes: int
    value: float
    count: int
    standard_error: float | None
    parity: Parity


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model; ``max_length`` is the tokens a text is cut to."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    max_length: int


@dataclass(frozen=True)
class DataFile:
    """A table that was read: its file name without folder, its rows, the SHA-256 of the file."""

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
        architecture: sizes of the model.
        teacher: the float model that taught; None after fine-tuning.
        stages: in the order they were trained.
        packed: the packed model; None after fine-tuning, or if the last stage is not 1-1-1.
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
    architecture: Architecture
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

    def asdict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: numbers that are not finite become None.

        Raises:
            InputTypeError: An option is not plain data; names it.
        """
        plain: dict[str, Any] = _plain("report", self)
        return {"schema": SCHEMA, **plain}

    def as_json(self) -> str:
        """The content of ``report.json``; raises as `asdict`."""
        return json.dumps(self.asdict(), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @property
    def standard_error(self) -> float | None:
        """Of the result: the packed model, or else the last stage."""
        if self.packed is not None:
            return self.packed.standard_error
        best = self.stages[-1].best if self.stages else math.nan
        return standard_error(self.metric, best, self.data["dev"].rows)

    def table(self) -> str:
        """Teacher, stages and packed model as a Markdown table."""
        return result_table(self)


def standard_error(metric: str, value: float, count: int) -> float | None:
    """How far a metric over ``count`` rows is expected to be off by the choice of the rows.

    For accuracy ``sqrt(p (1 - p) / n)``; for a correlation ``(1 - r**2) / sqrt(n - 1)``, which
    takes both variables to be normally distributed.  None where that is not defined.

    >>> f"{standard_error('accuracy', 0.821, 872):.3f}"
    '0.013'
    """
    if metric == "accuracy":
        return math.sqrt(value * (1 - value) / count) if count and 0 <= value <= 1 else None
    return (1 - value**2) / math.sqrt(count - 1) if count > 1 and math.isfinite(value) else None


def write_report(folder: Path, report: TrainingReport) -> None:
    """Write ``report.json``, ``report.md`` and ``report.svg``; each appears complete or not at all.

    The same report gives the same files, byte for byte.  Those that exist are replaced.

    Raises:
        InputTypeError: An option is not plain data; names it.
        UnsupportedError: matplotlib is not installed; the other two files are there all the same.
        OSError: A file cannot be written.
    """
    # The plot last: it is the one that may need something that is not there.
    write_file(folder / "report.json", report.as_json().encode(), overwrite=True)
    write_file(folder / "report.md", as_markdown(report).encode(), overwrite=True)
    write_file(folder / "report.svg", as_svg(report), overwrite=True)


def read_report(path: str | os.PathLike[str]) -> TrainingReport:
    """What `write_report` wrote.

    Args:
        path: ``report.json``, or the folder it is in.

    Raises:
        FormatError: It is not such a report, or of an unknown schema; names file and key.
        OSError: It cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON
        raise FormatError(f"{file}: found no JSON ({error}), expected a report") from None
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise FormatError(f"{file}: found no report of schema {SCHEMA}, expected one")
    return _build(TrainingReport, data, f"{file}: ")


# ---- plain data


def _plain(name: str, value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(field.name, getattr(value, field.name)) for field in fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}[{quote(key)}]", each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}[{index}]", each) for index, each in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):  # a number of NumPy or PyTorch
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise InputTypeError(f"{name}: found {type(value).__name__}, expected plain data")


def _build(kind: type[_T], data: Any, where: str) -> _T:
    """A dataclass from what `_plain` made of it."""
    if not isinstance(data, dict):
        raise FormatError(f"{where}found {quote(data)}, expected an object")
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in sorted(names ^ data.keys()):
        missing = "no key" if name in names else "unknown key"
        raise FormatError(f"{where}found {missing} {name!r}, expected {sorted(names)}")
    return kind(**{name: _read(hints[name], data[name], f"{where}{name}") for name in names})


def _read(kind: Any, value: Any, where: str) -> Any:
    arguments = get_args(kind)
    if kind is Any:
        return value
    if get_origin(kind) is UnionType:  # X | None
        rest = next(each for each in arguments if each is not NoneType)
        return None if value is None else _read(rest, value, where)
    if get_origin(kind) is Literal:
        expected = " or ".join(map(repr, arguments))
        return _expect(value in arguments, value, where, expected)
    if get_origin(kind) is tuple:
        _expect(isinstance(value, list), value, where, "a list")
        return tuple(_read(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if get_origin(kind) is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {k: _read(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return _build(kind, value, f"{where}.")
    if kind is float:
        if value is None:
            return math.nan
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_expect(number, value, where, "a number"))
    matches = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _expect(matches, value, where, kind.__name__)


def _expect(condition: bool, value: Any, where: str, expected: str) -> Any:
    if not condition:
        raise FormatError(f"{where}: found {quote(value)}, expected {expected}")
    return value
