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
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field
from functools import partial
from typing import Any

from bitinfer.checks import check_bool, check_choice, check_int, check_number, check_text


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


def _check_counts(name: str, value: Any) -> tuple[int, ...]:
    return tuple(check_int(name, each, 1) for each in value)


BOOL = Kind(check_bool, bool)
TEXT = Kind(check_text)
COLUMN = Kind(check_text, metavar="NAME|N")
# The name of a file may be bytes that are no text; names in a list are checked by who knows them.
FILE = Kind(lambda _, value: value, metavar="FILE")
NAMES = Kind(FILE.check, lambda text: tuple(text.split(",")), metavar="A,B")
COUNTS = Kind(
    _check_counts, lambda text: tuple(map(int, text.split(","))), "integers of at least 1", "N,..."
)
