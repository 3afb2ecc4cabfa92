"""How a command is made: from a frozen dataclass whose fields are its options.

    @dataclass(frozen=True, kw_only=True)
    class Count(Command):
        '''Count the tokens of a text'''
        examples: ClassVar[str] = "  bitinfer count 'some text'"
        text: str = argument("TEXT", "what to count")
        limit: int | None = option(None, integer(1), "", "most to count")
        def run(self) -> int: ...

The fields are made by `bitinfer.kinds`, and may be those of a base class that has no command.  A
command's options are ``--limit`` and so on; ``option(..., "-l", "--limit")`` spells them otherwise.
A field that is ``True`` by default becomes ``--no-NAME``; one that is ``None`` and of the kind
`BOOL` both ``--NAME`` and ``--no-NAME``; one without a default is required.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar

from bitinfer.errors import InputError, InputTypeError
from bitinfer.kinds import About, Kind, about

__all__ = ["Command", "add_command", "read_command"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base of the commands; the first line of a command's docstring is its summary."""

    examples: ClassVar[str]

    def run(self) -> int:
        """Carry it out and return the exit code."""
        raise NotImplementedError


def add_command(commands: Any, name: str, command: type[Command]) -> None:
    """A parser for a command, one of those of `argparse.ArgumentParser.add_subparsers`."""
    summary = (command.__doc__ or "").partition("\n")[0].rstrip(".")
    parser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:],
        description=summary + ".",
        epilog="examples:\n" + command.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command, parser=parser)
    groups: dict[str, Any] = {"": parser}
    for each in fields(command):
        group = about(each).group
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
            if group.endswith("one of"):
                groups[group] = groups[group].add_mutually_exclusive_group()
        _add_option(groups[group], each)


def read_command(options: argparse.Namespace) -> Command:
    """The command that was asked for, with its options."""
    command: type[Command] = options.command
    return command(**{each.name: getattr(options, each.name) for each in fields(command)})


def _add_option(group: Any, option: Field[Any]) -> None:
    told = about(option)
    kind = told.kind
    if told.place:
        count = {"nargs": "*"} if told.place == "many" else {}
        group.add_argument(option.name, metavar=kind.metavar, help=told.help, **count)
        return
    required = option.default is MISSING
    how = (
        _switch(option) if kind.parse is bool else {"type": _reader(kind), "metavar": kind.metavar}
    )
    group.add_argument(
        *_flags(option, told),
        dest=option.name,
        required=required,
        default=None if required else option.default,
        help=_help(option, told),
        **how,
    )


def _flags(option: Field[Any], told: About) -> tuple[str, ...]:
    name = option.name.replace("_", "-")
    return told.flags or (f"--no-{name}" if option.default is True else f"--{name}",)


def _switch(option: Field[Any]) -> dict[str, Any]:
    if option.default is None:
        return {"action": argparse.BooleanOptionalAction}
    return {"action": "store_false" if option.default else "store_true"}


def _help(option: Field[Any], told: About) -> str:
    default = option.default
    if default is MISSING or default is None or isinstance(default, bool):
        return told.help
    shown = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default
    return f"{told.help} (default {shown})"


def _reader(kind: Kind) -> Callable[[str], Any]:
    """What argparse calls for a text; argparse itself names the option in messages."""

    def read(text: str) -> Any:
        try:
            value = kind.parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {kind.expected}") from None
        try:
            return kind.check("", value)
        except (InputError, InputTypeError) as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None

    return read
