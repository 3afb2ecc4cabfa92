"""Options: a field of a dataclass holds the default, the type of the values, and the help of one.

From such fields come the options of a command (`bitinfer.cli.arguments`) and the checks of a
function's arguments.  Needs no NumPy, for the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field
from functools import partial
from typing import Any

from bitinfer.checks import check_bool, check_choice, check_int, check_number, check_text
from bitinfer.errors import InputTypeError, quote


@dataclass(frozen=True)
class OptionType:
    """What values an option takes."""

    check: Callable[[str, Any], Any]  # gives a value of that name as plain data, or an error
    parse: Callable[[str], Any] = str  # the value of a text, or a ValueError
    expected: str = "text"  # what such a text should have been
    metavar: str | None = None  # stands for the value in the help


def about(
    type: OptionType, help: str, *flags: str, group: str = "", positional: bool = False
) -> dict[str, Any]:
    """What the metadata of a field say of its option.

    Flags are how a command spells it, where that is not ``--name-of-the-field``; its default is
    added to the help.  Options of a group that ends with ``one of`` exclude each other.
    """
    told = {"type": type, "help": help, "flags": flags, "group": group}
    return {**told, "positional": positional}


def option(default: Any, type: OptionType, help: str, *flags: str, group: str = "") -> Any:
    """A field of a dataclass that is an option."""
    return field(default=default, metadata=about(type, help, *flags, group=group))


def argument(metavar: str, help: str, *, many: bool = False) -> Any:
    """A field that a command takes by its place: required, or a list that may be empty."""
    told = about(OptionType(check_text, metavar=metavar), help, positional=True)
    return field(default=() if many else MISSING, metadata=told)


def integer(low: int, high: int | None = None) -> OptionType:
    expected = f"an integer of at least {low}"
    return OptionType(partial(check_int, low=low, high=high), int, expected, "N")


def number(
    *, above: float | None = None, low: float | None = None, below: float = math.inf
) -> OptionType:
    check = partial(check_number, above=above, low=low, below=below)
    return OptionType(check, float, "a number", "X")


def choice(*choices: str) -> OptionType:
    return OptionType(partial(check_choice, choices=choices), metavar="|".join(choices))


def list_of(each: OptionType) -> OptionType:
    """Values of a type as a tuple; on the command line, with commas between them."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise InputTypeError(f"{name}: found {quote(value)}, expected a list")
        # A command has no name to put a place behind: argparse says which option it is.
        places = [f"{name}[{index}]" if name else "" for index in range(len(value))]
        return tuple(map(each.check, places, value))

    def parse(text: str) -> list[Any]:
        return [each.parse(part) for part in text.split(",")]

    expected = f"{each.expected}, or several with commas between them"
    return OptionType(check, parse, expected, f"{each.metavar},...")


BOOL = OptionType(check_bool, bool)
TEXT = OptionType(check_text)
NAME = OptionType(check_text, metavar="NAME")
# The name of a file may be bytes that are no text.
FILE = OptionType(lambda _, value: value, metavar="FILE")
NAMES = list_of(NAME)
