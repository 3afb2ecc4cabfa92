"""Options: a field of a dataclass holds the default, the kind of values, and the help of one.

From such fields come the options of a command (`bitinfer.cli.arguments`) and the checks of a
function's arguments.  Needs no NumPy, for the command line.

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
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, field
from functools import partial
from typing import Any

from bitinfer.errors import InputError, InputTypeError


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
    found: About = option.metadata["about"]
    return found


def option(default: Any, kind: Kind, group: str, help: str, *flags: str) -> Any:
    """A field of a dataclass that is an option."""
    return field(default=default, metadata={"about": About(kind, group, help, flags)})


def argument(metavar: str, help: str, *, many: bool = False) -> Any:
    """A field that a command takes by its place: required, or a list that may be empty."""
    told = About(Kind(check_text, metavar=metavar), "", help, place="many" if many else "one")
    return field(default=() if many else MISSING, metadata={"about": told})


# ---- checks


def check_text(name: str, value: Any) -> str:
    """A string that can be written to any file.

    Raises:
        InputTypeError, InputError: It is none, or holds a lone surrogate: names its position.
    """
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
    if _is_bool(value) or not hasattr(value, "__index__"):
        raise _wrong_type(name, value, "an integer")
    number = operator.index(value)
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
    """A finite number, if asked for one greater than ``above``, or at least ``low``.

    >>> check_number("epochs", 2, above=0)
    2.0
    """
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


# ---- kinds


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


def _check_sizes(name: str, value: Any) -> tuple[int, ...]:
    return tuple(check_int(name, each, 1) for each in value)


BOOL = Kind(check_bool, bool)
TEXT = Kind(check_text)
COLUMN = Kind(check_text, metavar="NAME|N")
# The name of a file may be bytes that are no text; names in a list are checked by who knows them.
FILE = Kind(lambda _, value: value, metavar="FILE")
NAMES = Kind(FILE.check, lambda text: tuple(text.split(",")), metavar="A,B")
SIZES = Kind(
    _check_sizes, lambda text: tuple(map(int, text.split(","))), "integers of at least 1", "N,..."
)
