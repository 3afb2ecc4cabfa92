"""Checks of arguments and options: each gives a value as plain data, or an error that names it.

Needs no NumPy, for the command line.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bitinfer.errors import InputError, InputTypeError, quote


def check_text(name: str, value: Any) -> str:
    """A string that can be written to any file: a lone surrogate cannot."""
    if not isinstance(value, str):
        raise _wrong_type(name, value, "str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"lone surrogate U+{ord(value[error.start]):04X} at position {error.start}"
        raise InputError(f"{name}: {found}, expected valid Unicode") from None
    return value


def check_bool(name: str, value: Any) -> bool:
    if not _is_bool(value):
        raise _wrong_type(name, value, "True or False")
    return bool(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name, value, "str")
    if value not in (names := tuple(choices)):
        raise InputError(f"{name}: found {value!r}, expected {' or '.join(map(repr, names))}")
    return value


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer of any integer type within bounds; a bool is not one."""
    try:
        number = operator.index(value)
    except TypeError:  # also of what has an index only with other contents, such as an array
        raise _wrong_type(name, value, "an integer") from None
    if _is_bool(value):
        raise _wrong_type(name, value, "an integer")
    if number < low or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"{low}..{high}"
        raise InputError(f"{name}: found {number}, expected {allowed}")
    return number


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    low: float | None = None,
    below: float = math.inf,
) -> float:
    """A finite number, if asked for one greater than ``above``, or at least ``low``."""
    if _is_bool(value) or not isinstance(value, numbers.Real):
        raise _wrong_type(name, value, "a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    too_low = (above is not None and found <= above) or (low is not None and found < low)
    if too_low or found >= below or not math.isfinite(found):
        bound = f" above {above:g}" if above is not None else ""
        bound = f" of at least {low:g}" if low is not None else bound
        bound += f" below {below:g}" if math.isfinite(below) else ""
        raise InputError(f"{name}: found {found:g}, expected a finite number{bound}")
    return found


def check_engine(num_threads: Any, isa: Any) -> dict[str, Any]:
    """The options of the native code by type; whether they can be had, it decides itself."""
    if num_threads is not None:
        num_threads = check_int("num_threads", num_threads, 1, 2**31 - 1)
    if isa is not None and not check_text("isa", isa).isprintable():
        raise InputError(f"isa: found {isa!r}, expected the name of an instruction set")
    return {"num_threads": num_threads, "isa": isa}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`, which would take the last of several values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"found the key {quote(twice)} twice")
    return found


def shows_progress(option: Any) -> bool:
    """Whether to show a bar: as ``show_progress_bar`` says, or else the logger ``bitinfer``."""
    if option is not None:
        return check_bool("show_progress_bar", option)
    # Where nobody has imported logging, nobody has asked for messages.
    logging = sys.modules.get("logging")
    return logging is not None and logging.getLogger("bitinfer").isEnabledFor(logging.INFO)


def _is_bool(value: Any) -> bool:
    # Who has a bool of NumPy has imported it.
    return isinstance(value, (bool, getattr(sys.modules.get("numpy"), "bool_", bool)))


def _wrong_type(name: str, value: Any, expected: str) -> InputTypeError:
    return InputTypeError(f"{name}: found {type(value).__name__}, expected {expected}")
