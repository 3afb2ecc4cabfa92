"""How a command is made: from a frozen dataclass whose fields are its options.

    @dataclass(frozen=True, kw_only=True)
    class Count(Command):
        text: str = argument("TEXT", "what to count")
        limit: int | None = option(None, integer(1), "most to count")

The fields are made by `bitinfer.fields`, and may be those of a base class that has no command.  An
option is ``--limit`` unless ``option(..., "-l", "--limit")`` spells it otherwise; ``--no-NAME`` if
it is ``True`` by default; both if it is of the type `BOOL` and ``None``; required if it has no
default.
"""

from __future__ import annotations

import argparse
import inspect
from dataclasses import MISSING, Field, dataclass, fields
from functools import partial
from typing import Any

from bitinfer.errors import InputError, InputTypeError
from bitinfer.fields import NAME, OptionType, argument, integer, option

OK, CHECK_FAILED, CANNOT = 0, 1, 3
MODEL = "packed file, checkpoint or built-in name"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base of the commands; the docstring of a command is its help, the first line a summary."""

    def run(self) -> int:
        """Carry it out and return the exit code."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The options of commands that load a model: which one, and how it runs."""

    model: str = argument("MODEL", MODEL)
    num_threads: int | None = option(None, integer(1), "threads to use")
    isa: str | None = option(None, NAME, "instruction set to use: see doctor")


def add_command(commands: Any, name: str, command: type[Command]) -> None:
    """A parser for a command, one of those of `argparse.ArgumentParser.add_subparsers`."""
    summary, _, details = (inspect.getdoc(command) or "").partition("\n")
    parser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=details.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command, parser=parser)
    groups: dict[str, Any] = {"": parser}
    for each in fields(command):
        group = each.metadata["group"]
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
    told, default, name = option.metadata, option.default, option.name.replace("_", "-")
    type, help = told["type"], told["help"]
    how: dict[str, Any] = {"required": True} if default is MISSING else {"default": default}
    if told["positional"]:
        count = {} if default is MISSING else {"nargs": "*"}
        group.add_argument(option.name, metavar=type.metavar, help=help, **count)
        return
    if type.parse is bool:
        switch = "store_false" if default else "store_true"
        how["action"] = argparse.BooleanOptionalAction if default is None else switch
        name = f"no-{name}" if default else name
    else:
        how |= {"type": partial(_read, type), "metavar": type.metavar}
        if default is not None and default is not MISSING:
            shown = default if isinstance(default, tuple) else (default,)
            help += f" (default {','.join(map(str, shown))})"
    group.add_argument(*(told["flags"] or (f"--{name}",)), dest=option.name, help=help, **how)


def _read(type: OptionType, text: str) -> Any:
    """The value of a text; argparse itself names the option in messages."""
    try:
        value = type.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {type.expected}") from None
    try:
        return type.check("", value)
    except (InputError, InputTypeError) as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None
