"""Labelled texts: from a file of tab-separated columns, CSV or JSON lines, or from memory."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

from bitinfer.checks import check_text, unique_keys
from bitinfer.data.columns import Columns
from bitinfer.errors import InputError, InputTypeError, quote, shorten

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
_GLUE = Columns()

# A double holds every integer up to this one.
_LARGEST_EXACT = 2.0**53


@dataclass(frozen=True)
class LabelledTexts:
    """Rows of a table: ``(text, second text or None)``, and the label as it is written there."""

    texts: list[tuple[str, str | None]]
    labels: list[str] = field(default_factory=list)


def read_rows(
    rows: str | os.PathLike[str] | Iterable[Any],
    columns: Columns = _GLUE,
    *,
    labelled: bool = True,
    source: str | None = None,
) -> LabelledTexts:
    """Read texts and their labels from a file or from memory.

    A file is UTF-8, in the form that the ending of its name tells.  ``.csv``: commas between
    columns, a column with a comma, quote or line break in quotes, and a quote in it doubled.
    ``.jsonl`` (also ``.json-lines``, ``.ndjson``): one JSON object a line, whose keys are the
    columns.  Anything else, such as ``.tsv``: one row a line, tabs between columns, no quoting.
    Empty lines are skipped.  The first row of a table names its columns.

    In memory, ``rows`` are mappings, as those of a ``datasets.Dataset``, or a mapping of whole
    columns, or a pandas ``DataFrame``, or ``(text, label)`` tuples, as those of
    ``zip(texts, labels)``, where a text may be a tuple of two; without labels, the texts
    themselves.

    A text is a string, the second text may be ``None`` for none, and a label is a string or a
    number: ``1`` and ``1.0`` are the label ``1``.  Labels lose the blanks around them.  An empty
    text is a text, an empty label is an error.

    If all ``columns`` that are given are numbers (the first column is 1), the first row of a table
    is data like the others; keys are always names.  ``source`` is what messages call the rows;
    default the path, or ``rows``.

    Raises:
        InputError: A column is missing or there twice, a row is broken, a text or label is of the
            wrong type, or there are no rows; names the file, and the line or row.
        InputTypeError: A row in memory is of a type that is not allowed.

    >>> read_rows([{"text": "a fine film", "label": 1}]).labels
    ['1']
    >>> read_rows(zip(["a fine film"], ["good"])).texts
    [('a fine film', None)]
    """
    if isinstance(rows, (str, bytes, os.PathLike)):
        name = source or os.fsdecode(rows)
        header, found = _read_file(Path(os.fsdecode(rows)), name, columns, labelled)
    else:
        name = source or "rows"
        header, found = _read_memory(rows, name, columns, labelled)
    if not found:
        raise InputError(f"{name}: found no rows")
    text, pair, label = names = _names(header, columns, labelled)
    _check_columns(name, header, names)
    table = LabelledTexts([])
    for where, row in found:
        _check_columns(where, [*row], names)
        second = None if pair is None or row[pair] is None else _text(row[pair], f"{where}, {pair}")
        table.texts.append((_text(row[text], f"{where}, {text}"), second))
        if label is not None:
            table.labels.append(_label(row[label], f"{where}, {label}"))
    return table


# Where a row is, for messages, and its columns.
_Row: TypeAlias = tuple[str, Mapping[str, Any]]
# The names of the columns of all rows, of which one may be there twice, and the rows.
_Table: TypeAlias = tuple[list[str], list[_Row]]


def _read_file(path: Path, name: str, columns: Columns, labelled: bool) -> _Table:
    content, ending = _read_text(path, name), path.suffix.lower()
    if ending in (".jsonl", ".json-lines", ".ndjson"):
        lines = [(where, line) for where, line in _lines(content, name) if line.strip()]
        return _objects([(where, _json_object(line, where)) for where, line in lines])
    if ending == ".csv":
        rows = _csv_rows(content, name)
    else:
        rows = [(where, line.split("\t")) for where, line in _lines(content, name)]
    given = [each for each in (columns.text, columns.pair, columns.label) if each is not None]
    if given and all(map(str.isdecimal, given)):
        if columns.text is None or (labelled and columns.label is None):
            missing = "text" if columns.text is None else "label"
            raise InputError(f"{name}: found no number of the {missing} column, expected one")
        header = [str(1 + index) for index in range(max((len(row) for _, row in rows), default=0))]
    else:
        header = rows.pop(0)[1] if rows else []
    return header, [(where, dict(zip(header, row))) for where, row in rows]  # noqa: B905


def _read_text(path: Path, name: str) -> str:
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: not UTF-8: {error}") from None
    if "\0" in text:
        line = text.partition("\0")[0].count("\n") + 1
        raise InputError(f"{name}, line {line}: found a NUL character, expected UTF-8 text")
    return text


def _lines(content: str, name: str) -> Iterator[tuple[str, str]]:
    """The lines that hold something, and where they are."""
    for number, line in enumerate(content.split("\n"), start=1):
        if stripped := line.rstrip("\r"):
            yield f"{name}, line {number}", stripped


def _csv_rows(content: str, name: str) -> list[tuple[str, list[str]]]:
    """Rows that are not empty, all as long as the first, and where they are."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: list[tuple[str, list[str]]] = []
    where = f"{name}, line 1"
    try:
        for row in reader:
            if row:
                rows.append((where, row))
                if len(row) != (size := len(rows[0][1])):
                    found = f"{where}: found {len(row)} columns"
                    raise InputError(f"{found}, expected {size} as in the first row")
            where = f"{name}, line {reader.line_num + 1}"
    except csv.Error as error:
        raise InputError(
            f"{where}: {error}; expected CSV, where a column that begins with a quote "
            "ends with one, and a quote in it is doubled"
        ) from None
    return rows


def _objects(rows: list[_Row]) -> _Table:
    # Columns of all rows: a key that only some have is missing in the others.
    return list(dict.fromkeys(key for _, row in rows for key in row)), rows


def _json_object(row: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(row, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:  # its own text would name line 1
        where = f"{where}, column {error.colno}"
        raise InputError(f"{where}: {error.msg}; expected a JSON object") from None
    except (ValueError, RecursionError) as error:  # very long numbers, very deep lists
        raise InputError(f"{where}: {error}; expected a JSON object") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {_shown(value)}, expected a JSON object")
    return value


def _read_memory(rows: Any, name: str, columns: Columns, labelled: bool) -> _Table:
    """Rows as mappings; those that are none get the names of columns that are wanted."""
    names = (columns.text or "text", columns.pair or "text_pair", columns.label or "label")

    def as_mapping(row: Any, where: str) -> Mapping[str, Any]:
        if isinstance(row, Mapping):
            return row
        given, *labels = row if labelled and isinstance(row, tuple) else (row,)
        texts = given if isinstance(given, (tuple, list)) else (given,)
        if len(labels) != labelled or len(texts) not in (1, 2) or isinstance(row, bytes):
            expected = "(text, label)" if labelled else "a text"
            found = f"{where}: found {type(row).__name__} {quote(row)}"
            raise InputTypeError(f"{found}, expected a mapping or {expected}")
        return dict(zip(names, (*texts, None)[:2] + tuple(labels)))  # noqa: B905

    if hasattr(rows, "iterrows"):  # a DataFrame of pandas, which iterates over names of columns
        rows = rows.to_dict("records")
    if isinstance(rows, Mapping):
        rows = _rows_of_columns(rows, name)
    found = [(f"{name}, row {index}", row) for index, row in enumerate(rows)]
    return _objects([(where, as_mapping(row, where)) for where, row in found])


def _rows_of_columns(columns: Mapping[Any, Any], name: str) -> list[dict[Any, Any]]:
    for column, values in columns.items():
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            found = f"{name}, {quote(column)}: found {type(values).__name__}"
            raise InputTypeError(f"{found}, expected a whole column (or a list of mappings)")
    whole = {column: list(values) for column, values in columns.items()}
    sizes = ", ".join(f"{len(values)} in {quote(column)}" for column, values in whole.items())
    if len({*map(len, whole.values())}) > 1:
        raise InputError(f"{name}: found rows {shorten(sizes)}, expected as many in each column")
    return [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]


def _names(
    header: list[str], columns: Columns, labelled: bool
) -> tuple[str, str | None, str | None]:
    """Of the columns of the text, of the second text and of the label, if there are to be such."""
    text, pair = columns.text, columns.pair
    if text is None:
        known = (names for names in _TEXT_COLUMNS if {*names} - {None} <= {*header})
        text, second = next(known, ("sentence", None))
        pair = pair if pair is not None else second
    return text, pair, (columns.label or "label") if labelled else None


def _check_columns(where: str, found: list[str], wanted: Iterable[str | None]) -> None:
    for column in wanted:
        if column is not None and found.count(column) != 1:
            shown = f"columns {shorten(', '.join(map(str, found)))}" if found else "no columns"
            once = " once" if column in found else ""
            raise InputError(f"{where}: found {shown}; expected {column!r}{once}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: found {_shown(value)}, expected a string")
    return check_text(where, value)


def _label(value: Any, where: str) -> str:
    if isinstance(value, str):
        label = _text(value, where).strip()
        if not label:
            raise InputError(f"{where}: found an empty label, expected the name of a class")
        return label
    if isinstance(value, Integral) and value is not True and value is not False:
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, Integral):
        # JSON has one kind of number, and writers that know no integers write 1.0.
        number = float(value)
        exact = number.is_integer() and abs(number) <= _LARGEST_EXACT
        if math.isfinite(number):
            return str(int(number) if exact else number)
    raise InputError(f"{where}: found {_shown(value)}, expected a string or a number")


def _shown(value: object) -> str:
    """A value as JSON has it, or the start of it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else quote(value)
