"""Pieces of Markdown, and figures as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A Markdown table; ``align`` has an l or r for each column."""
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def code(text: str) -> str:
    """Text as code, wherever it stands: also in a table."""
    ticks, space = _ticks(text, 1), " " if "`" in text else ""
    flat = " ".join(text.split()).replace("|", "\\|")
    return f"{ticks}{space}{flat}{space}{ticks}"


def fence(text: str, language: str) -> str:
    """Lines as a block of code."""
    ticks = _ticks(text, 3)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _ticks(text: str, least: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def size_text(size: int) -> str:
    """Bytes for reading.

    >>> size_text(4_450_504), size_text(87_109)
    ('4.5 MB', '87 kB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for reading.

    >>> duration(61), duration(4000)
    ('61 s', '66.7 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
