"""The kinds of values that only options of training have.  Needs neither PyTorch nor NumPy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from bitinfer.codes import Bits
from bitinfer.errors import InputError, InputTypeError, quote
from bitinfer.kinds import Kind, check_number, check_text

__all__ = ["BITS", "FOLDER", "MANY", "NAMES", "SHARES", "TABLE", "check_bits", "check_names"]

MANY = 1e9  # epochs, and the largest share


def check_bits(name: str, value: Any) -> tuple[str, ...]:
    """The bits of every stage, each spelled in the shortest way.

    Raises:
        InputTypeError, InputError: It is not a list of bits, or the last ones cannot be packed.
    """
    stages = [Bits.parse(each) for each in _list(name, value, "['1-1-2']")]
    if not stages:
        raise InputError(f"{name}: found no stage, expected at least one such as 1-1-1")
    if not stages[-1].packable:
        raise InputError(
            f"{name}: found {stages[-1]} last, expected bits that can be packed: 1 of weights and "
            "embeddings, 1 .. 4 of every activation"
        )
    return tuple(map(str, stages))


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Names of classes, in order.

    Raises:
        InputTypeError, InputError: It is not a sequence of names that differ, without blanks around
            them.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected a sequence of names")
    for index, label in enumerate(value):
        if not isinstance(label, str):
            raise InputTypeError(f"label {index}: found {type(label).__name__}, expected str")
        check_text(f"label {index}", label)
        found = f"label {index}: found {quote(label)}"
        if not label or label != label.strip():
            raise InputError(f"{found}, expected a name without blanks around it")
        if label in value[:index]:
            raise InputError(f"{found} again, expected names that differ")
    if len(value) < 2:
        raise InputError(f"{name}: found {quote(list(value))}, expected two or more that differ")
    return tuple(value)


def _check_share_list(name: str, value: Any) -> tuple[float, ...]:
    shares = _list(name, value, "[1, 2]")
    return tuple(check_number(name, each, above=0, below=MANY) for each in shares)


def _list(name: str, value: Any, example: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InputTypeError(f"{name}: found {quote(value)}, expected a list such as {example}")
    return value


def _check_path(name: str, value: Any, expected: str = "a path") -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected {expected}")
    path = os.fsdecode(value)
    if "\0" in path:
        raise InputError(f"{name}: found {path!r}, expected a path")
    check_text(name, path)  # the name of a file may be bytes that are no text
    return path


def _check_rows(name: str, value: Any) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, os.PathLike)):
        return value
    return _check_path(name, value, "a path or rows")


def _split(text: str) -> list[str]:
    return text.split(",")


def _split_numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


NAMES = Kind(check_names, _split, metavar="A,B")
BITS = Kind(check_bits, _split, metavar="W-E-A,...")
SHARES = Kind(_check_share_list, _split_numbers, "numbers with commas between them", "X,...")
FOLDER = Kind(_check_path, metavar="FOLDER")
TABLE = Kind(_check_rows, metavar="FILE")
