"""The comparison as Markdown; ``benchmarks/table.py`` puts it into the documents."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.markdown import Data, digits, milliseconds, table, thread_count

from .contestants import AVX2, ENGINES, GROUPS, KERNELS, RAGGED
from .summary import Spread, line, ratios, spread

MODELS = {"base": "BERT-base (12 x 768)", "small": "MiniLM-L6 (6 x 384)"}
OWN = "bitinfer"
RIVAL = "openvino-int8"  # the fastest of the others in nearly every cell
_QUIET = 0.7  # load, of the minute before, up to which figures can be trusted


def versions(results: Data) -> str:
    """What was measured, and on what."""
    found = results["compare"]["machine"]
    packages = [f"{name} {number}" for name, number in found["packages"].items() if number]
    text = (
        f"{found['cpu']}, {found['cpus']} CPUs, Python {found['python'].split()[0]}; bitinfer "
        f"{found['bitinfer']} (`{found['best_isa']}`, {found['compiler']}), {', '.join(packages)}; "
        f"{found['date']}."
    )
    if found["load"] > _QUIET:
        text += f" **Provisional: the machine was busy (load {found['load']:.1f}).**"
    return text


def checks(results: Data) -> str:
    rows = []
    for check in results["compare"]["checks"]:
        title = GROUPS[check["group"]][check["name"]].title
        if "difference" in check and check["group"] != "kernels":
            rows.append([title, check["reference"], f"{check['difference']:.1g}"])
    return table(["engine", "compared with", "difference of the logits"], rows)


# ---- speed


def cells(results: Data, model: str, threads: int) -> list[Data]:
    """The cells of a model in the order they were measured."""
    return [
        cell
        for cell in results["compare"]["speed"]
        if cell["model"] == model and cell["threads"] == threads
    ]


def threads_of(results: Data) -> list[int]:
    return sorted({cell["threads"] for cell in results["compare"]["speed"]}, reverse=True)


def name_of(cell: Data) -> str:
    return f"{cell['batch']} x {cell['length']}"


def seconds(cell: Data, name: str) -> list[float]:
    found: list[float] = cell["timings"].get(name, {}).get("seconds", [])
    return found


def times_slower(cell: Data, name: str, own: str = OWN) -> Spread | None:
    """How many times as long as bitinfer an engine takes, by rounds."""
    found = ratios(seconds(cell, own), seconds(cell, name))
    return spread(found) if found else None


def times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def many_threads(results: Data) -> str:
    """BERT-base on all CPUs."""
    return _speed(results, "base", max(threads_of(results)))


def one_thread(results: Data) -> str:
    return _speed(results, "base", 1)


def small(results: Data) -> str:
    parts = [_rows(results, "small", threads, thread_count(threads)) for threads in
             threads_of(results)]  # fmt: skip
    head, rows = parts[0][0], [row for part in parts for row in part[1]]
    return table(head, rows)


def _speed(results: Data, model: str, threads: int) -> str:
    return table(*_rows(results, model, threads))


def _rows(
    results: Data, model: str, threads: int, label: str = ""
) -> tuple[list[str], list[list[str]]]:
    """Milliseconds with the ratio to bitinfer, an engine a row."""
    found = cells(results, model, threads)
    if not found:
        raise KeyError(model)
    rows = []
    for name, entry in ENGINES.items():
        if any(seconds(cell, name) for cell in found):
            title = f"{entry.title}, {label}" if label else entry.title
            rows.append([title, *(_figure(cell, name) for cell in found)])
    return ["ms (times bitinfer)", *map(name_of, found)], rows


def _figure(cell: Data, name: str) -> str:
    taken = seconds(cell, name)
    if not taken:
        return ""
    text = milliseconds(spread(taken).median)
    ratio = times_slower(cell, name)
    return text if name == OWN or ratio is None else f"{text} ({times(ratio.median)})"


def spreads(results: Data) -> str:
    """Quartiles, for bitinfer and the fastest of the others."""
    rows = []
    for cell in results["compare"]["speed"]:
        ratio = times_slower(cell, RIVAL)
        if ratio is not None:
            rows.append(
                [
                    f"{MODELS[cell['model']]}, {name_of(cell)}",
                    str(cell["threads"]),
                    _milliseconds(seconds(cell, OWN)),
                    _milliseconds(seconds(cell, RIVAL)),
                    f"{ratio.median:.2f} ({ratio.low:.2f} .. {ratio.high:.2f})",
                    cell["timings"][RIVAL]["variant"],
                ]
            )
    head = ["median (quartiles)", "threads", "bitinfer, ms", "OpenVINO int8, ms", "ratio by round"]
    return table([*head, "variant of OpenVINO"], rows)


def _milliseconds(taken: Sequence[float]) -> str:
    low, median, high = map(milliseconds, spread(taken))
    return f"{median} ({low} .. {high})"


def headline(results: Data) -> str:
    """Beside the fastest of the others, for the README."""
    found = threads_of(results)
    head = ["BERT-base, batch x tokens"]
    for threads in found:
        count = thread_count(threads)
        head += [f"bitinfer, {count}", f"OpenVINO int8, {count}", "ratio"]
    columns = [cells(results, "base", threads) for threads in found]
    rows = [
        [name_of(row[0]), *(text for cell in row for text in _pair(cell))]
        for row in zip(*columns, strict=True)
    ]
    means = [text for cells_of in columns for text in ("", "", _mean_ratio(cells_of))]
    return table(head, [*rows, ["geometric mean of the ratios", *means]])


def _mean_ratio(found: Iterable[Data]) -> str:
    ratios = [ratio.median for cell in found if (ratio := times_slower(cell, RIVAL))]
    return times(statistics.geometric_mean(ratios)) if ratios else ""


def _pair(cell: Data) -> Iterator[str]:
    ratio = times_slower(cell, RIVAL)
    yield _figure(cell, OWN)
    yield milliseconds(spread(seconds(cell, RIVAL)).median) if ratio else ""
    yield times(ratio.median) if ratio else ""


# ---- texts of different length, and many tokens


def ragged(results: Data) -> str:
    rows = []
    for cell in results["compare"]["ragged"]:
        for name, entry in RAGGED.items():
            taken = seconds(cell, name)
            ratio = times_slower(cell, name)
            if taken and ratio:
                shown = "" if name == OWN else f"{ratio.median:.2f}"
                rows.append([entry.title, str(cell["threads"]), _milliseconds(taken), shown])
    lengths = results["compare"]["ragged"][0]["lengths"]
    described = f"{len(lengths)} texts of {min(lengths)} .. {max(lengths)} tokens"
    head = [f"{described}, {sum(lengths)} in all", "threads", "ms (quartiles)", "times bitinfer"]
    return table(head, rows)


def avx2(results: Data) -> str:
    rows = []
    for cell in results["compare"]["avx2"]:
        ratio = times_slower(cell, "ctranslate2-avx2")
        found = [seconds(cell, name) for name in AVX2]
        if ratio and all(found):
            case = f"{cell['batch']} x {cell['length']}"
            shown = [_milliseconds(taken) for taken in found]
            rows.append([case, str(cell["threads"]), *shown, times(ratio.median)])
    titles = [f"{entry.title}, ms (quartiles)" for entry in AVX2.values()]
    return table(["BERT-base, batch x tokens", "threads", *titles, "ratio"], rows)


def fit(results: Data, name: str) -> tuple[list[int], list[float], tuple[float, float]]:
    """Tokens, median seconds, and the constants of a + b * tokens."""
    points = [(c["tokens"], seconds(c, name)) for c in results["compare"]["tokens"]]
    sizes = [size for size, taken in points if taken]
    medians = [spread(taken).median for _, taken in points if taken]
    return sizes, medians, line(sizes, medians)


def tokens(results: Data) -> str:
    rows = []
    for name in (OWN, RIVAL):
        sizes, medians, (constant, slope) = fit(results, name)
        worst = max(
            abs(constant + slope * size - taken) / taken
            for size, taken in zip(sizes, medians, strict=True)
        )
        rows.append(
            [
                ENGINES[name].title,
                f"{sizes[0]} .. {sizes[-1]:,}",
                f"{1e3 * constant:.2f} ms",
                f"{1e6 * slope:.1f} µs",
                f"{worst:.0%}",
            ]
        )
    threads = thread_count(results["compare"]["tokens"][0]["threads"])
    head = [f"BERT-base, {threads}", "tokens", "a batch", "and a token", "farthest from the line"]
    return table(head, rows)


# ---- start and memory


def start(results: Data) -> str:
    rows = []
    for found in results["compare"]["start"]:
        if "seconds" in found:
            low, median, high = spread(found["seconds"])
            rows.append(
                [
                    ENGINES[found["name"]].title,
                    f"{median:.2f} s ({low:.2f} .. {high:.2f})",
                    f"{found['peak'] / 1e6:.0f} MB",
                    f"{found['file'] / 1e6:.0f} MB",
                ]
            )
    return table(["BERT-base, 1 x 128", "process start to logits", "peak memory", "file"], rows)


# ---- kernels


def kernels(results: Data) -> str:
    """Tera-operations a second."""
    found = results["compare"]["kernels"]
    rows = [
        [entry.title, *(_rate(cell, name) for cell in found)]
        for name, entry in KERNELS.items()
        if name != "memory"
    ]
    return table(["M x N x K", *(" x ".join(map(str, cell["shape"])) for cell in found)], rows)


def rate(cell: Data, name: str) -> float | None:
    """Operations a second, two for each multiply-add."""
    taken = seconds(cell, name)
    m, n, k = cell["shape"]
    return 2 * m * n * k / spread(taken).median if taken else None


def _rate(cell: Data, name: str) -> str:
    found = rate(cell, name)
    return digits(found / 1e12) if found else ""


TABLES: dict[str, Callable[[Any], str]] = {
    f"compare_{render.__name__}": render
    for render in (
        *(versions, checks, headline, many_threads, one_thread, small, spreads),
        *(ragged, avx2, tokens, start, kernels),
    )
}
