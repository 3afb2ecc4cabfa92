"""Labelled texts in a table, and how well a model does on them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from bitinfer.errors import InputError, quote, shorten
from bitinfer.model import BitModel
from bitinfer.results import Prediction

__all__ = ["Evaluation", "LabelledTexts", "evaluate", "read_table"]

# Column names of the GLUE tables: text, and second text where there is one.
_TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("sentence", None),
    ("text", "text_pair"),
    ("text", None),
)
_LABEL_COLUMN = "label"


@dataclass(frozen=True)
class LabelledTexts:
    """Rows of a table: ``(text, second text or None)``, and the label as it is written there."""

    texts: list[tuple[str, str | None]]
    labels: list[str]


@dataclass(frozen=True)
class Evaluation:
    """A metric over some texts: ``accuracy`` in 0..1, or ``pearson`` correlation for regression."""

    metric: str
    value: float
    count: int

    def __str__(self) -> str:
        if self.metric != "accuracy":
            return f"{self.metric} {self.value:.4f} ({self.count} texts)"
        correct = round(self.value * self.count)
        return f"accuracy {self.value:.2%} ({correct} of {self.count} texts)"


def read_table(
    path: str | os.PathLike[str],
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
) -> LabelledTexts:
    """Read a table with one row a line and tabs between columns (UTF-8, no quoting).

    The first line names the columns, and each of ``text``, ``pair`` and ``label`` is such a name;
    without them the names used by GLUE are looked for.  If they are numbers (the first column is
    1), the first line is data like the others.

    Raises:
        InputError: A column is missing, a line is too short or not UTF-8, or there are no rows.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        lines = _read_lines(file, name)
    given = [column for column in (text, pair, label) if column is not None]
    wanted: tuple[str, str | None, str]
    if given and all(column.isdecimal() for column in given):
        if text is None or label is None:
            missing = "text" if text is None else "label"
            raise InputError(f"{name}: found no number of the {missing} column, expected one")
        header, first = [str(number + 1) for number in range(max(map(len, lines), default=0))], 0
        wanted = (text, pair, label)
    else:
        header, first = (lines[0] if lines else []), 1
        wanted = _named_columns(header, text, pair, label)
    columns = [_position(header, column, name) for column in wanted]
    rows = [_pick(row, columns, f"{name}, line {number}") for number, row in _data(lines, first)]
    if not rows:
        raise InputError(f"{name}: found no rows")
    return LabelledTexts([(a, b) for a, b, _ in rows], [label for _, _, label in rows])


def evaluate(model: BitModel, data: LabelledTexts, *, batch_size: int = 32) -> Evaluation:
    """Accuracy of a classifier, or the correlation of a regression model with the labels.

    A label is the name of a class, or else its index.

    Raises:
        InputError: A label is neither, or not a number for a regression model, or there is none.
        UnsupportedError: The model has a span head.
    """
    model._need_classes("evaluate")
    if not data.labels:
        raise InputError("data: found no rows")
    # Labels first: predicting may take long.
    if not model.labels:
        truth = [_number(label, row) for row, label in enumerate(data.labels)]
        values = [p.score for p in model.predict(data.texts, batch_size=batch_size)]
        return Evaluation("pearson", _pearson(values, truth), len(truth))
    wanted = _class_indices(data.labels, model.labels)
    predictions: list[Prediction] = model.predict(data.texts, batch_size=batch_size)
    correct = sum(p.index == index for p, index in zip(predictions, wanted, strict=True))
    return Evaluation("accuracy", correct / len(wanted), len(wanted))


def _read_lines(file: IO[str], name: str) -> list[list[str]]:
    try:
        return [line.rstrip("\r\n").split("\t") for line in file]
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8: {error}") from None


def _named_columns(
    header: list[str], text: str | None, pair: str | None, label: str | None
) -> tuple[str, str | None, str]:
    if text is None:
        known = (names for names in _TEXT_COLUMNS if {*names} - {None} <= {*header})
        text, found = next(known, ("sentence", None))
        pair = pair if pair is not None else found
    return text, pair, label or _LABEL_COLUMN


def _position(header: list[str], column: str | None, name: str) -> int | None:
    if column is None:
        return None
    if column not in header:
        raise InputError(f"{name}: found columns {shorten(', '.join(header))}; expected {column!r}")
    return header.index(column)


def _data(lines: list[list[str]], first: int) -> list[tuple[int, list[str]]]:
    """Numbered rows without the header and without empty lines."""
    return [(i + 1, row) for i, row in enumerate(lines) if i >= first and row != [""]]


def _pick(row: list[str], columns: Sequence[int | None], where: str) -> tuple[str, str | None, str]:
    needed = 1 + max(column for column in columns if column is not None)
    if len(row) < needed:
        raise InputError(f"{where}: found {len(row)} columns, expected at least {needed}")
    text, pair, label = (None if column is None else row[column] for column in columns)
    assert text is not None  # only the second text may be missing
    assert label is not None
    return text, pair, label.strip()


def _class_indices(given: list[str], names: list[str]) -> list[int]:
    known = {str(index): index for index in range(len(names))}
    known |= {name: index for index, name in enumerate(names)}  # a name wins over an index
    for row, label in enumerate(given):
        if label not in known:
            raise InputError(
                f"row {row}: found label {quote(label)}, expected one of {names} or an index"
            )
    return [known[label] for label in given]


def _number(label: str, row: int) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"row {row}: found label {quote(label)}, expected a number")
    return number


def _pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    x, y = [value - mean_a for value in a], [value - mean_b for value in b]
    spread = math.sqrt(math.fsum(v * v for v in x) * math.fsum(v * v for v in y))
    covariance = math.fsum(v * w for v, w in zip(x, y, strict=True))
    return covariance / spread if spread else math.nan
