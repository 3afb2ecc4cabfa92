"""The comparison as pictures: ``python -m benchmarks.compare.plots [FILE [FOLDER]]``.

Reads results.json, or FILE, and writes SVG files into docs/plots, or FOLDER; those of parts that
were not measured stay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.markdown import ROOT, Data, digits, thread_count

from . import tables
from .contestants import ENGINES, KERNELS
from .measure import RESULTS
from .summary import spread

FOLDER = ROOT / "docs" / "plots"

_OWN, _INT8, _OTHER = "#c8402f", "#30638e", "#a3b1bf"
_COLOURS = {"bitinfer": _OWN, "openvino-int8": _INT8}
_STYLE = {
    "svg.hashsalt": "bitinfer",  # the same file for the same figures
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
}


def _title(entry: Any) -> str:
    return str(entry.title.replace("*", "").replace("`", ""))


# ---- bars


def many_threads(results: Data) -> Figure:
    return _speed(results, max(tables.threads_of(results)))


def one_thread(results: Data) -> Figure:
    return _speed(results, 1)


def _speed(results: Data, threads: int) -> Figure:
    """A panel for each cell, a bar for each engine; cut where bars would hide the others."""
    cells = tables.cells(results, "base", threads)
    if not cells:
        raise KeyError("speed")
    names = [n for n in ENGINES if any(tables.seconds(cell, n) for cell in cells)]
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(10, 0.5 + rows * (0.7 + 0.19 * len(names))))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax, cell in zip(axes.flat, cells, strict=False):
        _bars(ax, cell, names)
    for ax in axes.flat[len(cells) :]:
        ax.set_axis_off()
    figure.suptitle(
        f"BERT-base, batch x tokens, {thread_count(threads)}: milliseconds, and times bitinfer "
        f"(long bars are cut)"
    )
    return figure


def _bars(ax: Axes, cell: Data, names: list[str]) -> None:
    limit = _CUT * spread(tables.seconds(cell, tables.RIVAL) or tables.seconds(cell, "bitinfer"))[1]
    for row, name in enumerate(names):
        taken = tables.seconds(cell, name)
        if not taken:
            ax.text(0, row, " not measured", va="center", color="#777777", fontsize=8)
            continue
        median = spread(taken).median
        ax.barh(row, 1e3 * min(median, limit), color=_COLOURS.get(name, _OTHER), height=0.75)
        ratio = tables.times_slower(cell, name)
        factor = f"  {tables.times(ratio.median)}" if ratio and name != "bitinfer" else ""
        text = f" {digits(1e3 * median)}{factor}"
        inside = median > 0.6 * limit
        ax.text(
            1e3 * min(median, limit),
            row,
            text + " " if inside else text,
            ha="right" if inside else "left",
            va="center",
            color="white" if inside and name in _COLOURS else "black",
            fontsize=8,
        )
    ax.set_yticks(range(len(names)), [_title(ENGINES[name]) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    longest = max(spread(taken).median for n in names if (taken := tables.seconds(cell, n)))
    ax.set_xlim(0, 1e3 * min(limit, 1.3 * longest))
    ax.set_title(tables.name_of(cell), loc="left")
    ax.tick_params(axis="y", length=0)


_CUT = 3.0  # times the fastest rival


def start(results: Data) -> Figure:
    """Two panels: seconds to the first logits, peak memory."""
    found = [entry for entry in results["compare"]["start"] if "seconds" in entry]
    figure = Figure(figsize=(10, 0.8 + 0.24 * len(found)))
    left, right = figure.subplots(1, 2, sharey=True)
    shown: tuple[tuple[Axes, str, str, Callable[[Data], float]], ...] = (
        (left, "Process start to first logits, s", ".2f", lambda e: spread(e["seconds"]).median),
        (right, "Peak memory, MB", ".0f", lambda e: e["peak"] / 1e6),
    )
    for ax, title, form, value in shown:
        for row, entry in enumerate(found):
            ax.barh(row, value(entry), color=_COLOURS.get(entry["name"], _OTHER), height=0.75)
            ax.text(value(entry), row, f" {value(entry):{form}}", va="center", fontsize=8)
        ax.set_title(title, loc="left")
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.margins(x=0.12)
        ax.tick_params(axis="y", length=0)
    left.set_yticks(range(len(found)), [_title(ENGINES[entry["name"]]) for entry in found])
    return figure


# ---- lines


def tokens(results: Data) -> Figure:
    """Cost against tokens, with the fitted line."""
    figure = Figure(figsize=(7, 4))
    ax = figure.subplots()
    for name in (tables.OWN, tables.RIVAL):
        sizes, medians, (constant, slope) = tables.fit(results, name)
        colour = _COLOURS[name]
        label = f"{_title(ENGINES[name])}: {1e3 * constant:.2f} ms + {1e6 * slope:.1f} µs a token"
        ax.plot(sizes, [1e3 * (constant + slope * n) for n in sizes], color=colour, label=label)
        ax.plot(sizes, [1e3 * value for value in medians], "o", color=colour, markersize=4)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    threads = thread_count(results["compare"]["tokens"][0]["threads"])
    ax.set_xlabel("tokens in the batch, sequences of at most 128")
    ax.set_ylabel("ms")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_title(f"BERT-base, cost of a batch, {threads}", loc="left")
    ax.legend(frameon=False)
    return figure


def roofline(results: Data) -> Figure:
    """Rates of the products of bits beside the popcounts and the memory that bound them.

    An operation is half a multiply-add; bytes are those of A, B and the packed result, each once.
    """
    cells = results["compare"]["kernels"]
    ceiling = max(tables.rate(cell, "registers") or 0 for cell in cells)
    bandwidth = max(_MEMORY / spread(tables.seconds(cell, "memory")).median for cell in cells)
    figure = Figure(figsize=(7, 4.4))
    ax = figure.subplots()
    marks = dict(zip(_KERNELS, "os^vD", strict=False))
    edge = ceiling / bandwidth
    x = [_SMALLEST, edge, max(map(_intensity, cells)) * 1.5]
    ax.plot(x, [bandwidth * x[0] / 1e12, ceiling / 1e12, ceiling / 1e12], color="black", lw=1)
    ax.text(x[2], ceiling / 1e12 * 1.06, f"popcounts: {ceiling / 1e12:.2f}", ha="right")
    ax.text(x[0] * 1.1, bandwidth * x[0] / 1e12 * 3, f"memory: {bandwidth / 1e9:.0f} GB/s")
    for name in _KERNELS:
        points = list(_points(cells, name))
        ax.plot(
            *zip(*points, strict=True),
            marks[name],
            color=_OWN if name.startswith("bitinfer") else _OTHER,
            label=_title(KERNELS[name]),
            markersize=5,
        )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("operations a byte (M grows from 1 to 4096; K is 768 or 3072)")
    ax.set_ylabel("tera-operations a second")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_title("Products of bits, 1 thread, and what bounds them", loc="left")
    ax.legend(frameon=False, loc="lower right")
    return figure


_KERNELS = ("bitinfer-bits", "bitinfer-sums", "numkong-dots", "faiss", "simsimd")
_MEMORY = 256 << 20  # bytes that ``kernels.Memory`` reads
_SMALLEST = 4.0  # operations a byte, where the axis begins


def _intensity(cell: Data) -> float:
    m, n, k = cell["shape"]
    return float(2 * m * n * k / ((m * k + n * k + m * n) / 8))


def _points(cells: list[Data], name: str) -> Iterator[tuple[float, float]]:
    for cell in cells:
        rate = tables.rate(cell, name)
        if rate:
            yield _intensity(cell), rate / 1e12


PLOTS: dict[str, Callable[[Data], Figure]] = {
    plot.__name__: plot for plot in (many_threads, one_thread, start, tokens, roofline)
}


def main() -> None:
    matplotlib.rcParams.update(_STYLE)
    source = Path(sys.argv[1]) if sys.argv[1:] else RESULTS
    folder = Path(sys.argv[2]) if sys.argv[2:] else FOLDER
    results = {"compare": json.loads(source.read_text("utf-8"))}
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        try:
            figure = plot(results)
        except KeyError:  # not measured
            continue
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
