"""The options that say which columns of a table are the texts and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitinfer.fields import NAME, option


def _column(name: str, help: str) -> Any:
    return option(None, NAME, help, f"--{name}", f"--{name}-column", group="data")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names or numbers of columns; None for those that GLUE uses."""

    text: str | None = _column("text", "column of the text, by name or number")
    pair: str | None = _column("pair", "column of the second text")
    label: str | None = _column("label", "column of the label")
