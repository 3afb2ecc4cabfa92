"""Options, written once: a field of a dataclass with its default, its kind of values, and its help.

From such fields come the options of a command (`bitinfer.cli.arguments`) and the checks of a
function's arguments.  Needs no NumPy: the command line uses it before anything is loaded.

>>> @dataclass(frozen=True, kw_only=True)
... class Options:
...     size: int = option(8, integer(1), "", "texts that are run together")
>>> about(Options.__dataclass_fields__["size"]).kind.check("size", 0)
Traceback (most recent call last):
bitinfer.errors.InputError: size: found 0, expected at least 1
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import Field, dataclass, field
from functools import partial
from typing import Any

from bitinfer.checks import check_bool, check_choice, check_int, check_unicode
from bitinfer.errors import InputError, InputTypeError

__all__ = [
    "BOOL",
    "COLUMN",
    "FILE",
    "NAMES",
    "SIZES",
    "TEXT",
    "About",
    "Kind",
    "about",
    "argument",
    "check_number",
    "check_text",
    "choice",
    "integer",
    "number",
    "option",
]


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Attributes:
        check: gives a value of that name as plain data, or raises InputError or InputTypeError.
        parse: the value of a text on the command line, or raises ValueError.
        expected: what such a text should have been.
        metavar: what stands for the value in the help.
    """

    check: Callable[[str, Any], Any]
    parse: Callable[[str], Any] = str
    expected: str = "text"
    metavar: str | None = None


@dataclass(frozen=True)
class About:
    """What a field says of its option, beside its name and default.

    Attributes:
        kind: of its values.
        group: heading in the help of a command; those under one that ends with ``one of`` exclude
            each other.
        help: what it does, without its default, which is added.
        flags: how a command spells it, where that is not ``--name-of-the-field``, or also.
        place: of what stands without a flag: ``"one"``, or ``"many"`` for a list.
    """

    kind: Kind
    group: str
    help: str
    flags: tuple[str, ...] = ()
    place: str = ""


def about(option: Field[Any]) -> About:
    """What a field says."""
    found: About = option.metadata["about"]
    return found


def option(default: Any, kind: Kind, group: str, help: str, *flags: str) -> Any:
    """A field of a dataclass that is an option."""
    return field(default=default, metadata={"about": About(kind, group, help, flags)})


def argument(metavar: str, help: str, *, many: bool = False) -> Any:
    """A field that a command takes by its place: required, or a list that may be empty."""
    kind = Kind(check_text, metavar=metavar)
    metadata = {"about": About(kind, "", help, place="many" if many else "one")}
    return field(default=(), metadata=metadata) if many else field(metadata=metadata)


# ---- kinds


def check_text(name: str, value: Any) -> str:
    """A string that can be written to any file.

    Raises:
        InputTypeError, InputError: It is none, or holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected str")
    check_unicode(name, value)
    return value


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    low: float | None = None,
    below: float = math.inf,
) -> float:
    """A finite number, if asked for one greater than ``above``, or at least ``low``.

    >>> check_number("epochs", 2, above=0)
    2.0

    Raises:
        InputTypeError: It is not a number.
        InputError: It is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected a number")
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


def integer(low: int, high: int | None = None) -> Kind:
    expected = f"an integer of at least {low}"
    return Kind(partial(check_int, low=low, high=high), int, expected, "N")


def number(
    *, above: float | None = None, low: float | None = None, below: float = math.inf
) -> Kind:
    check = partial(check_number, above=above, low=low, below=below)
    return Kind(check, float, "a number", "X")


def choice(*choices: str) -> Kind:
    return Kind(partial(check_choice, choices=choices), metavar="|".join(choices))


def _unchecked(name: str, value: Any) -> Any:
    return value


def _check_sizes(name: str, value: Any) -> tuple[int, ...]:
    return tuple(check_int(name, each, 1) for each in value)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _split_integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


BOOL = Kind(check_bool, bool)
TEXT = Kind(check_text)
COLUMN = Kind(check_text, metavar="NAME|N")
FILE = Kind(_unchecked, metavar="FILE")
NAMES = Kind(_unchecked, _split, metavar="A,B")
SIZES = Kind(_check_sizes, _split_integers, "integers of at least 1", "N,...")
