"""Texts in a file: tab-separated columns, CSV, or JSON objects line by line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bitinfer.checks import check_unicode
from bitinfer.errors import InputError, quote, shorten
from bitinfer.heads.classify import class_indices
from bitinfer.heads.regress import label_numbers

__all__ = ["LabelledTexts", "class_indices", "label_numbers", "read_table", "read_texts"]

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

# A double holds every integer up to this one.
_LARGEST_EXACT = 2.0**53

# Line number (from 1) and columns of each row.
_Rows: TypeAlias = list[tuple[int, list[str]]]
_Objects: TypeAlias = list[tuple[int, dict[str, Any]]]
# Text, second text, label: the names of their columns, or their values in a row, where the label is
# empty if none is wanted.
_Names: TypeAlias = tuple[str, str | None, str | None]
_Triple: TypeAlias = tuple[str, str | None, str]


@dataclass(frozen=True)
class LabelledTexts:
    """Rows of a table: ``(text, second text or None)``, and the label as it is written there."""

    texts: list[tuple[str, str | None]]
    labels: list[str]


def read_table(
    path: str | os.PathLike[str],
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
) -> LabelledTexts:
    """Read a UTF-8 table of texts and their labels, in the form that the name's ending tells.

    ``.csv``: commas between columns, a column with a comma, quote or line break in quotes, and a
    quote in it doubled.  ``.jsonl`` (also ``.json-lines``, ``.ndjson``): one JSON object a line,
    whose keys are the columns.  Anything else, such as ``.tsv``: one row a line, tabs between
    columns, no quoting.  Empty lines are skipped.

    The first row names the columns, and each of ``text``, ``pair`` and ``label`` is such a name;
    without them the names used by GLUE are looked for.  If they are numbers (the first column is
    1), the first row is data like the others; keys of JSON are always names.

    In JSON a text is a string, the second text may be ``null`` for none, and a label is a string or
    a number: ``1`` and ``1.0`` are the label ``1``.  Labels lose the blanks around them.  An empty
    text is a text, an empty label is an error.

    Raises:
        InputError: A column is missing or there twice, a row is broken, a text or label is of the
            wrong type, or there are no rows; names the file, and the line if it is about one.
        OSError: The file cannot be read.
    """
    rows = _read(path, _Wanted(text, pair, label, labelled=True))
    return LabelledTexts([(a, b) for a, b, _ in rows], [label for _, _, label in rows])


def read_texts(
    path: str | os.PathLike[str],
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
) -> list[tuple[str, str | None]]:
    """Read the texts of a table as `read_table` does; it need have no labels.

    Args:
        path, text, pair: As for `read_table`.
        label: Tells, as the others do, whether columns are named or numbered; not looked for.

    Raises:
        InputError, OSError: As `read_table`.
    """
    return [(a, b) for a, b, _ in _read(path, _Wanted(text, pair, label, labelled=False))]


# ---- the three forms


@dataclass(frozen=True)
class _Wanted:
    """The columns that a caller names, and whether labels are to be read."""

    text: str | None
    pair: str | None
    label: str | None
    labelled: bool


def _read(path: str | os.PathLike[str], wanted: _Wanted) -> list[_Triple]:
    name = os.fspath(path)
    content = _read_text(path, name)
    ending = Path(path).suffix.lower()
    if ending in (".jsonl", ".json-lines", ".ndjson"):
        rows = _pick_keys(_json_rows(content, name), name, wanted)
    elif ending == ".csv":
        rows = _pick_columns(_csv_rows(content, name), name, wanted, exact=True)
    else:
        rows = _pick_columns(_tsv_rows(content), name, wanted, exact=False)
    if not rows:
        raise InputError(f"{name}: found no rows")
    return rows


def _read_text(path: str | os.PathLike[str], name: str) -> str:
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: not UTF-8: {error}") from None
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise InputError(f"{name}, line {line}: found a NUL character, expected UTF-8 text")
    return text


def _tsv_rows(content: str) -> _Rows:
    rows = ((line, row.rstrip("\r")) for line, row in enumerate(content.split("\n"), start=1))
    return [(line, row.split("\t")) for line, row in rows if row]


def _csv_rows(content: str, name: str) -> _Rows:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: _Rows = []
    line = 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{name}, line {line}: {error}; expected CSV, where a column that begins with a quote "
            "ends with one, and a quote in it is doubled"
        ) from None
    return rows


def _json_rows(content: str, name: str) -> _Objects:
    lines = enumerate(content.split("\n"), start=1)
    return [(line, _json_row(row, f"{name}, line {line}")) for line, row in lines if row.strip()]


def _json_row(row: str, where: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(row)
    except json.JSONDecodeError as error:  # its own text would name line 1
        where = f"{where}, column {error.colno}"
        raise InputError(f"{where}: {error.msg}; expected a JSON object") from None
    except (ValueError, RecursionError) as error:  # very long numbers, very deep lists
        raise InputError(f"{where}: {error}; expected a JSON object") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {_shown(value)}, expected a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"found the key {quote(twice)} twice")
    return found


def _no_constant(constant: str) -> float:
    raise ValueError(f"found {constant}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


# ---- columns


def _pick_columns(rows: _Rows, name: str, wanted: _Wanted, *, exact: bool) -> list[_Triple]:
    """The wanted columns of each row; if ``exact``, all rows must have the same number of them."""
    names: _Names
    given = [each for each in (wanted.text, wanted.pair, wanted.label) if each is not None]
    if given and all(column.isdecimal() for column in given):
        if wanted.text is None or (wanted.labelled and wanted.label is None):
            missing = "text" if wanted.text is None else "label"
            raise InputError(f"{name}: found no number of the {missing} column, expected one")
        most = max((len(row) for _, row in rows), default=0)
        header = [str(number + 1) for number in range(most)]
        size = len(rows[0][1]) if rows else 0
        names = (wanted.text, wanted.pair, wanted.label if wanted.labelled else None)
    else:
        header = rows[0][1] if rows else []
        size, rows = len(header), rows[1:]
        names = _named_columns(header, wanted)
    columns = [_position(header, column, name) for column in names]
    needed = 1 + max(column for column in columns if column is not None)
    for line, row in rows:
        if len(row) < needed or (exact and len(row) != size):
            expected = f"{size} as in the first row" if exact else f"at least {needed}"
            raise InputError(f"{name}, line {line}: found {len(row)} columns, expected {expected}")
    text_at, pair_at, label_at = columns
    assert text_at is not None
    return [
        (
            row[text_at],
            None if pair_at is None else row[pair_at],
            "" if label_at is None else _label(row[label_at], f"{name}, line {line}"),
        )
        for line, row in rows
    ]


def _named_columns(header: Iterable[str], wanted: _Wanted) -> _Names:
    text, pair = wanted.text, wanted.pair
    if text is None:
        known = (names for names in _TEXT_COLUMNS if {*names} - {None} <= {*header})
        text, found = next(known, ("sentence", None))
        pair = pair if pair is not None else found
    return text, pair, (wanted.label or _LABEL_COLUMN) if wanted.labelled else None


def _position(header: list[str], column: str | None, name: str) -> int | None:
    if column is None:
        return None
    if header.count(column) != 1:
        columns = f"columns {shorten(', '.join(header))}" if header else "no columns"
        once = " once" if column in header else ""
        raise InputError(f"{name}: found {columns}; expected {column!r}{once}")
    return header.index(column)


def _label(label: str, where: str) -> str:
    label = label.strip()
    if not label:
        raise InputError(f"{where}: found an empty label, expected the name of a class or a number")
    return label


# ---- keys


def _pick_keys(rows: _Objects, name: str, wanted: _Wanted) -> list[_Triple]:
    # Of all rows: a key that only some have is missing in the others.
    keys = list(dict.fromkeys(key for _, row in rows for key in row))
    text, pair, label = names = _named_columns(keys, wanted)
    if rows:
        for column in names:
            _position(keys, column, name)
    return [
        (
            _value(row, text, _text, f"{name}, line {line}"),
            None if pair is None else _value(row, pair, _second_text, f"{name}, line {line}"),
            "" if label is None else _value(row, label, _json_label, f"{name}, line {line}"),
        )
        for line, row in rows
    ]


def _value(row: dict[str, Any], key: str, read: Callable[[Any, str], Any], where: str) -> Any:
    if key not in row:
        raise InputError(f"{where}: found keys {shorten(', '.join(row))}; expected {key!r}")
    return read(row[key], f"{where}, {key}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: found {_shown(value)}, expected a string")
    check_unicode(where, value)
    return value


def _second_text(value: Any, where: str) -> str | None:
    return None if value is None else _text(value, where)


def _json_label(value: Any, where: str) -> str:
    if isinstance(value, str):
        return _label(_text(value, where), where)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        # JSON has one kind of number, and writers that know no integers write 1.0.
        exact = value.is_integer() and abs(value) <= _LARGEST_EXACT
        return str(int(value) if exact else value)
    raise InputError(f"{where}: found {_shown(value)}, expected a string or a number")


def _shown(value: object) -> str:
    """A value as JSON has it, or the start of it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return quote(value)
