"""What the commands share: how a command is added, and the kinds of values of options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

__all__ = [
    "add_command",
    "to_count",
    "to_fraction",
    "to_half",
    "to_names",
    "to_number",
    "to_positive",
    "to_positive_number",
    "to_separator",
    "to_sizes",
    "to_weight",
]


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, examples: str
) -> argparse.ArgumentParser:
    """A parser for a command, which ``run`` carries out and gives an exit code."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def to_separator(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("found '', expected at least one character")
    return text


def to_names(text: str) -> list[str]:
    return text.split(",")


# ---- integers


def to_sizes(text: str) -> list[int]:
    return [to_positive(part) for part in text.split(",")]


def to_positive(text: str) -> int:
    return _at_least(text, 1)


def to_count(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer of at least {low}")
    return value


# ---- other numbers


def to_number(text: str) -> float:
    return _number(text, "a number", lambda value: True)


def to_positive_number(text: str) -> float:
    return _number(text, "a number above 0", lambda value: 0 < value < math.inf)


def to_weight(text: str) -> float:
    return _number(text, "a number of at least 0", lambda value: 0 <= value < math.inf)


def to_fraction(text: str) -> float:
    return _number(text, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def to_half(text: str) -> float:
    return _number(text, "a number from 0 to below 0.5", lambda value: 0 <= value < 0.5)


def _number(text: str, expected: str, allowed: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or not allowed(value):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return value
