"""The options of commands that load a model."""

from __future__ import annotations

from dataclasses import dataclass

from bitinfer.kinds import TEXT, Kind, argument, integer, option

__all__ = ["CHECK_FAILED", "ISA", "MODEL", "OK", "Loaded"]

OK, CHECK_FAILED = 0, 1

MODEL = "packed file, checkpoint or built-in name"
ISA = Kind(TEXT.check, metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model and how it runs."""

    model: str = argument("MODEL", MODEL)
    num_threads: int | None = option(None, integer(1), "", "threads to use")
    isa: str | None = option(None, ISA, "", "instruction set to use: see doctor")
