"""The comparison as Markdown; ``benchmarks/table.py`` puts it into the documents."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.markdown import QUIET, TITLES, Data, digits, milliseconds, table, thread_count

from .contestants import AVX2, ENGINES, GROUPS, KERNELS, RAGGED
from .summary import FEWEST_FOR_QUARTILES, line, ratio, ratios, spread

OWN = "bitinfer"
RIVAL = "openvino-int8"  # the fastest int8 engine, which the project measures itself against


class NotMeasured(KeyError):  # noqa: N818  # it is no error
    """What a table needs is not there; its block stays as it is."""


def part(results: Data, name: str) -> list[Data]:
    """The cells of a part.

    Raises:
        NotMeasured: There are none.
    """
    found: list[Data] = results["compare"].get(name) or []
    if not found:
        raise NotMeasured(name)
    return found


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        raise NotMeasured(head[0])
    return table(head, rows)


def versions(results: Data) -> str:
    """What was measured, and on what."""
    found = results["compare"]["machine"]
    packages = [f"{name} {number}" for name, number in found["packages"].items() if number]
    text = (
        f"{found['cpu']}, {found['cpus']} CPUs, Python {found['python'].split()[0]}; bitinfer "
        f"{found['bitinfer']} (`{found['best_isa']}`, {found['compiler']}), {', '.join(packages)}; "
        f"{found['date']}."
    )
    doubts = _doubts(results["compare"])
    return f"{text} **Provisional: {'; '.join(doubts)}.**" if doubts else text


def _doubts(found: Data) -> list[str]:
    """Why the figures are not to be relied on, if there is a reason."""
    runs = found.get("runs", {})
    unknown = sorted(
        name for name, cells in found.items() if isinstance(cells, list) and name not in runs
    )
    less = sorted(name for name, run in runs.items() if run["less"])
    machines = [run["machine"] for run in runs.values()] or [found["machine"]]
    load = max(machine["load"] for machine in machines)
    doubts = []
    if less:
        doubts.append(f"measured only in part ({', '.join(less)})")
    if unknown:
        doubts.append(f"measured nobody knows how long ({', '.join(unknown)})")
    if load > QUIET:
        doubts.append(f"the machine was busy (load {load:.1f})")
    for what in ("cpu", "cpus", "bitinfer", "best_isa", "packages"):
        if any(machine.get(what) != machines[0].get(what) for machine in machines):
            doubts.append(f"its parts differ in: {what}")
    return doubts


def checks(results: Data) -> str:
    rows = []
    for check in part(results, "checks"):
        title = GROUPS[check["group"]][check["name"]].title
        if "difference" in check and check["group"] != "kernels":
            rows.append([title, check["reference"], f"{check['difference']:.1g}"])
    return _table(["engine", "compared with", "difference"], rows)


# ---- speed


def cells(results: Data, model: str, threads: int) -> list[Data]:
    """The cells of a model in the order they were measured."""
    return [
        cell
        for cell in part(results, "speed")
        if cell["model"] == model and cell["threads"] == threads
    ]


def threads_of(results: Data) -> list[int]:
    return sorted({cell["threads"] for cell in part(results, "speed")}, reverse=True)


def name_of(cell: Data) -> str:
    return f"{cell['batch']} x {cell['length']}"


def seconds(cell: Data, name: str) -> list[float]:
    found: list[float] = cell["timings"].get(name, {}).get("seconds", [])
    return found


def _beside(cell: Data, name: str) -> list[float]:
    """bitinfer's seconds of the rounds that an engine was in, or all if it was in none."""
    own = seconds(cell, OWN)
    return own[: len(seconds(cell, name)) or None]


def median(cell: Data, name: str) -> float | None:
    taken = seconds(cell, name)
    return spread(taken).median if taken else None


def times_slower(cell: Data, name: str) -> float | None:
    """How many times as long as bitinfer an engine takes."""
    return ratio(seconds(cell, OWN), seconds(cell, name))


def times(factor: float) -> str:
    return f"{factor:.1f}x" if factor < 10 else f"{factor:.0f}x"


def many_threads(results: Data) -> str:
    """BERT-base on all CPUs."""
    return _speed(results, "base", max(threads_of(results)))


def one_thread(results: Data) -> str:
    return _speed(results, "base", 1)


def small(results: Data) -> str:
    found = threads_of(results)
    grid = _grid(results, "small", found)
    rows = [row for threads in found for row in _rows(results, "small", threads, grid, threads)]
    return _table([_HEAD, *map(_named, grid)], rows)


def _speed(results: Data, model: str, threads: int) -> str:
    grid = _grid(results, model, [threads])
    return _table([_HEAD, *map(_named, grid)], _rows(results, model, threads, grid))


_HEAD = "ms (times bitinfer)"
_Grid = list[tuple[int, int]]


def _grid(results: Data, model: str, threads: Iterable[int]) -> _Grid:
    """Batch and length of the cells that were measured with any of the counts of threads."""
    found = [cell for count in threads for cell in cells(results, model, count)]
    return list(dict.fromkeys((cell["batch"], cell["length"]) for cell in found))


def _named(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _at(results: Data, model: str, threads: int, shape: tuple[int, int]) -> Data:
    """The cell of a shape, an empty one if it was not measured."""
    for cell in cells(results, model, threads):
        if (cell["batch"], cell["length"]) == shape:
            return cell
    return {"timings": {}}


def _rows(
    results: Data, model: str, threads: int, grid: _Grid, label: int | None = None
) -> list[list[str]]:
    """Milliseconds with the ratio to bitinfer, an engine a row."""
    found = [_at(results, model, threads, shape) for shape in grid]
    rows = []
    for name, entry in ENGINES.items():
        if any(seconds(cell, name) for cell in found):
            title = f"{entry.title}, {thread_count(label)}" if label else entry.title
            rows.append([title, *(_figure(cell, name) for cell in found)])
    return rows


def _figure(cell: Data, name: str) -> str:
    taken = median(cell, name)
    if taken is None:
        return ""
    factor = times_slower(cell, name)
    shown = milliseconds(taken)
    return shown if name == OWN or factor is None else f"{shown} ({times(factor)})"


def spreads(results: Data) -> str:
    """Quartiles, for bitinfer and the int8 engine beside it."""
    rows = []
    for cell in part(results, "speed"):
        factor = times_slower(cell, RIVAL)
        if factor is not None:
            low, _, high = spread(by_round := ratios(seconds(cell, OWN), seconds(cell, RIVAL)))
            rows.append(
                [
                    f"{TITLES[cell['model']]}, {name_of(cell)}",
                    str(cell["threads"]),
                    _milliseconds(_beside(cell, RIVAL)),
                    _milliseconds(seconds(cell, RIVAL)),
                    f"{factor:.2f}{_quartiles(f'{low:.2f}', f'{high:.2f}', by_round)}",
                    cell["timings"][RIVAL]["variant"],
                ]
            )
    head = ["median (quartiles)", "threads", "bitinfer, ms", "OpenVINO int8, ms"]
    return _table([*head, "ratio (by round)", "variant of OpenVINO"], rows)


def _milliseconds(taken: Sequence[float]) -> str:
    low, middle, high = map(milliseconds, spread(taken))
    return f"{middle}{_quartiles(low, high, taken)}"


def _quartiles(low: str, high: str, values: Sequence[float]) -> str:
    """Nothing where there are too few values to have quartiles."""
    return f" ({low} .. {high})" if len(values) >= FEWEST_FOR_QUARTILES else ""


def headline(results: Data) -> str:
    """Beside the int8 engine, for the README."""
    found = threads_of(results)
    head = ["BERT-base, batch x tokens"]
    for threads in found:
        count = thread_count(threads)
        head += [f"bitinfer, {count}", f"OpenVINO int8, {count}", "ratio"]
    grid = _grid(results, "base", found)
    columns = [[_at(results, "base", threads, shape) for shape in grid] for threads in found]
    rows = [
        [_named(shape), *(text for column in columns for text in _pair(column[index]))]
        for index, shape in enumerate(grid)
    ]
    if not any(times_slower(cell, RIVAL) for column in columns for cell in column):
        raise NotMeasured(RIVAL)
    means = [text for column in columns for text in ("", "", _mean_ratio(column))]
    return _table(head, [*rows, ["geometric mean of the ratios", *means]])


def _mean_ratio(found: Iterable[Data]) -> str:
    factors = [factor for cell in found if (factor := times_slower(cell, RIVAL))]
    return times(statistics.geometric_mean(factors)) if factors else ""


def _pair(cell: Data) -> Iterator[str]:
    taken, factor = median(cell, RIVAL), times_slower(cell, RIVAL)
    own = _beside(cell, RIVAL)
    yield milliseconds(spread(own).median) if own else ""
    yield milliseconds(taken) if taken else ""
    yield times(factor) if factor else ""


# ---- texts of different length, and many tokens


def ragged(results: Data) -> str:
    rows = []
    for cell in part(results, "ragged"):
        for name, entry in RAGGED.items():
            taken = seconds(cell, name)
            factor = times_slower(cell, name)
            if taken:
                shown = "" if name == OWN or factor is None else f"{factor:.2f}"
                rows.append([entry.title, str(cell["threads"]), _milliseconds(taken), shown])
    lengths = part(results, "ragged")[0]["lengths"]
    described = f"{len(lengths)} texts of {min(lengths)} .. {max(lengths)} tokens"
    head = [f"{described}, {sum(lengths)} in all", "threads", "ms (quartiles)", "times bitinfer"]
    return _table(head, rows)


def avx2(results: Data) -> str:
    rows = []
    for cell in part(results, "avx2"):
        factor = times_slower(cell, "ctranslate2-avx2")
        found = [_beside(cell, "ctranslate2-avx2"), seconds(cell, "ctranslate2-avx2")]
        if factor and all(found):
            case = f"{cell['batch']} x {cell['length']}"
            shown = [_milliseconds(taken) for taken in found]
            rows.append([case, str(cell["threads"]), *shown, times(factor)])
    titles = [f"{entry.title}, ms (quartiles)" for entry in AVX2.values()]
    return _table(["BERT-base, batch x tokens", "threads", *titles, "ratio"], rows)


def fit(results: Data, name: str) -> tuple[list[int], list[float], tuple[float, float]]:
    """Tokens, median seconds, and the constants of a + b * tokens.

    Raises:
        NotMeasured: One point makes no line.
    """
    points = [(c["tokens"], median(c, name)) for c in part(results, "tokens")]
    sizes = [size for size, taken in points if taken]
    medians = [taken for _, taken in points if taken]
    if len(set(sizes)) < 2:
        raise NotMeasured(name)
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
    threads = thread_count(part(results, "tokens")[0]["threads"])
    head = [f"BERT-base, {threads}", "tokens", "a batch", "and a token", "farthest from the line"]
    return table(head, rows)


# ---- start and memory


def start(results: Data) -> str:
    rows = []
    for found in part(results, "start"):
        if found.get("seconds"):
            low, middle, high = (f"{value:.2f}" for value in spread(found["seconds"]))
            rows.append(
                [
                    ENGINES[found["name"]].title,
                    f"{middle} s{_quartiles(low, high, found['seconds'])}",
                    f"{found['peak'] / 1e6:.0f} MB",
                    f"{found['file'] / 1e6:.0f} MB",
                ]
            )
    return _table(["BERT-base, 1 x 128", "process start to logits", "peak memory", "file"], rows)


# ---- kernels


def kernels(results: Data) -> str:
    """Tera-operations a second."""
    found = part(results, "kernels")
    rows = [
        [entry.title, *(_rate(cell, name) for cell in found)]
        for name, entry in KERNELS.items()
        if name != "memory" and any(rate(cell, name) for cell in found)
    ]
    return _table(["M x N x K", *(" x ".join(map(str, cell["shape"])) for cell in found)], rows)


def rate(cell: Data, name: str) -> float | None:
    """Operations a second, two for each multiply-add."""
    taken = median(cell, name)
    m, n, k = cell["shape"]
    return 2 * m * n * k / taken if taken else None


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
