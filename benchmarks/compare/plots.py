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
    names = [n for n in ENGINES if any(tables.seconds(cell, n) for cell in cells)]
    if not names:
        raise tables.NotMeasured("speed")
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
    medians = {name: taken for name in names if (taken := tables.median(cell, name))}
    ax.set_yticks(range(len(names)), [_title(ENGINES[name]) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_title(tables.name_of(cell), loc="left")
    ax.tick_params(axis="y", length=0)
    longest = max(medians.values(), default=1.0)
    limit = _CUT * (medians.get(tables.RIVAL) or medians.get("bitinfer") or longest)
    ax.set_xlim(0, 1e3 * min(limit, 1.3 * longest))
    for row, name in enumerate(names):
        median = medians.get(name)
        if median is None:
            ax.text(0, row, " not measured", va="center", color="#777777", fontsize=8)
            continue
        ax.barh(row, 1e3 * min(median, limit), color=_COLOURS.get(name, _OTHER), height=0.75)
        ratio = tables.times_slower(cell, name)
        factor = f"  {tables.times(ratio)}" if ratio and name != "bitinfer" else ""
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


_CUT = 3.0  # times the rival


def start(results: Data) -> Figure:
    """Two panels: seconds to the first logits, peak memory."""
    found = [entry for entry in tables.part(results, "start") if entry.get("seconds")]
    if not found:
        raise tables.NotMeasured("start")
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
    first, *_ = tables.part(results, "tokens")
    threads = thread_count(first["threads"])
    ax.set_xlabel("tokens in the batch, sequences of at most 128")
    ax.set_ylabel("ms")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_title(f"BERT-base, cost of a batch, {threads}", loc="left")
    ax.legend(frameon=False)
    return figure


def roofline(results: Data) -> Figure:
    """Rates of the products of bits beside what counting and memory alone reach.

    An operation is half a multiply-add; bytes are those of A, B and the result as each contestant
    writes it, each once.
    """
    cells = tables.part(results, "kernels")
    counting = max((tables.rate(cell, "registers") or 0 for cell in cells), default=0)
    reading = [taken for cell in cells if (taken := tables.median(cell, "memory"))]
    points = {name: found for name in _RESULT_BITS if (found := list(_points(cells, name)))}
    if not (counting and reading and points):
        raise tables.NotMeasured("kernels")
    bandwidth = _MEMORY / min(reading)
    figure = Figure(figsize=(7, 4.4))
    ax = figure.subplots()
    marks = dict(zip(_RESULT_BITS, "os^vD", strict=True))
    edge = counting / bandwidth
    widest = max(intensity for found in points.values() for intensity, _ in found)
    x = [_SMALLEST, edge, 1.5 * max(widest, edge)]
    ax.plot(x, [bandwidth * x[0] / 1e12, counting / 1e12, counting / 1e12], color="black", lw=1)
    described = f"xor + popcount + add in registers: {counting / 1e12:.2f}"
    ax.text(x[2], counting / 1e12 * 1.06, described, ha="right")
    # Where the line begins: in the middle of it lie the products of one row.
    ax.text(x[0] * 1.3, bandwidth * x[0] / 1e12, f"memory: {bandwidth / 1e9:.0f} GB/s")
    for name, found in points.items():
        ax.plot(
            *zip(*found, strict=True),
            marks[name],
            color=_OWN if name.startswith("bitinfer") else _OTHER,
            label=_title(KERNELS[name]),
            markersize=5,
        )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel(f"operations a byte ({_sizes(cells, 0, 'M')}; {_sizes(cells, 2, 'K')})")
    ax.set_ylabel("tera-operations a second")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_title("Products of bits, 1 thread, beside counting and memory alone", loc="left")
    ax.legend(frameon=False, loc="lower right")
    return figure


# Bits of an element of the result that each writes; simsimd gives float64.
_RESULT_BITS = {
    "bitinfer-bits": 1,
    "bitinfer-sums": 32,
    "numkong-dots": 32,
    "faiss": 32,
    "simsimd": 64,
}
_MEMORY = 256 << 20  # bytes that ``kernels.Memory`` reads
_SMALLEST = 4.0  # operations a byte, where the axis begins


def _sizes(cells: list[Data], axis: int, name: str) -> str:
    sizes = sorted({cell["shape"][axis] for cell in cells})
    if len(sizes) > 2:
        return f"{name} from {sizes[0]} to {sizes[-1]}"
    return f"{name} is {' or '.join(map(str, sizes))}"


def _intensity(cell: Data, result_bits: int) -> float:
    m, n, k = cell["shape"]
    return float(2 * m * n * k / ((m * k + n * k + result_bits * m * n) / 8))


def _points(cells: list[Data], name: str) -> Iterator[tuple[float, float]]:
    for cell in cells:
        rate = tables.rate(cell, name)
        if rate:
            yield _intensity(cell, _RESULT_BITS[name]), rate / 1e12


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
