"""Options as callers pass them in, checked."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from typing import Any

from bitinfer.errors import InputError, InputTypeError

__all__ = [
    "check_bool",
    "check_choice",
    "check_engine",
    "check_int",
    "check_unicode",
    "shows_progress",
]


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer of any integer type within bounds; a bool is not one."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or _is_bool(value):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected an integer")
    if number < low or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"{low}..{high}"
        raise InputError(f"{name}: found {number}, expected {allowed}")
    return number


def check_engine(num_threads: Any, isa: Any) -> tuple[int | None, str | None]:
    """The options of the native code by type; whether they can be had, it decides itself.

    Raises:
        InputError, InputTypeError: Names the option.
    """
    if num_threads is not None:
        num_threads = check_int("num_threads", num_threads, 1, 2**31 - 1)
    if isa is not None and not isinstance(isa, str):
        raise InputTypeError(f"isa: found {type(isa).__name__}, expected str")
    if isa is not None and not isa.isprintable():
        raise InputError(f"isa: found {isa!r}, expected the name of an instruction set")
    return num_threads, isa


def check_bool(name: str, value: Any) -> bool:
    if not _is_bool(value):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected True or False")
    return bool(value)


def shows_progress(option: Any) -> bool:
    """Whether to show a bar: as ``show_progress_bar`` says, or else the logger ``bitinfer``."""
    if option is not None:
        return check_bool("show_progress_bar", option)
    # Where nobody has imported logging, nobody has asked for messages.
    logging = sys.modules.get("logging")
    return logging is not None and logging.getLogger("bitinfer").isEnabledFor(logging.INFO)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    names = tuple(choices)
    if not isinstance(value, str):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected str")
    if value not in names:
        raise InputError(f"{name}: found {value!r}, expected {' or '.join(map(repr, names))}")
    return value


def _is_bool(value: Any) -> bool:
    # Who has a bool of NumPy has imported it.
    numpy_bool = getattr(sys.modules.get("numpy"), "bool_", bool)
    return isinstance(value, (bool, numpy_bool))


def check_unicode(name: str, text: str) -> None:
    """Whether a text can be encoded.

    Raises:
        InputError: It holds a lone surrogate; names it and its position.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise InputError(
            f"{name}: lone surrogate U+{code:04X} at position {error.start}, expected valid Unicode"
        ) from None
