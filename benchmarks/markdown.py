"""Figures as Markdown: titles, numbers, tables, and the marked blocks of documents that hold them.

A block is what stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)

TITLES = {
    "sst2": "sst2 (6 x 384)",
    "base": "BERT-base (12 x 768)",
    "small": "MiniLM-L6 (6 x 384)",
}
QUIET = 0.7  # load, of the minute before the benchmarks, up to which figures can be trusted

Data = dict[str, Any]
Tables = Mapping[str, Callable[[Data], str]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def milliseconds(seconds: float) -> str:
    return digits(1e3 * seconds)


def thread_count(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def documents() -> list[Path]:
    """Every file that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(text: str, results: Data, tables: Tables) -> str:
    """The text with every block made anew; a block without results stays."""

    def render(block: re.Match[str]) -> str:
        try:
            return f"{block[1]}{tables[block[2]](results)}\n{block[3]}"
        except KeyError:
            return block[0]

    return BLOCK.sub(render, text)


def rewrite(results: Data, tables: Tables) -> None:
    for path in documents():
        text = path.read_text("utf-8")
        path.write_text(rewritten(text, results, tables), "utf-8")


def show(results: Data, tables: Tables) -> None:
    """Prints every table that was measured."""
    for name, render in tables.items():
        try:
            print(f"### {name}\n\n{render(results)}\n")
        except KeyError:  # not measured
            continue
