"""Times a call beside its rivals and beside what the processor can do at that very moment.

On a shared machine a figure taken now and one taken a second later do not compare.  So every round
runs all contestants one after the other: the rivals, the popcount limit, then the call.  Each runs
once more, untimed, right before it is timed, so that none finds caches emptied or threads still
spinning for another.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bitinfer import _core

Call = Callable[[], object]

_SLOW = 0.05  # seconds from which a rival is not run twice
_PAUSE = 0.005  # seconds after which the waiting threads of a rival have gone to sleep
_PROBES = 3  # of the limit in a round, for the best of them
_FEWEST, _MOST = 5, 200  # rounds


class Limit:
    """Operations a second of xor, popcount and add in registers alone, on some threads at once.

    A multiply-add of two codes counts as 2 operations, as it does for matrix products.
    """

    def __init__(self, isa: str, threads: int = 1) -> None:
        self._isa = isa
        self._others = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._threads = threads
        self._steps = 1000
        # Handing work to a thread costs up to 0.1 ms: little beside 5 ms.
        wanted = 5e-4 if threads == 1 else 5e-3
        while (seconds := _seconds(self._products)) < wanted:
            self._steps = int(self._steps * min(10, 1.5 * wanted / seconds)) + 1

    def rate(self) -> float:
        """Operations a second, now."""
        start = time.perf_counter()
        products = self._products()
        return 2 * products / (time.perf_counter() - start)

    def _products(self) -> int:
        if self._others is None:
            return self._probe()
        calls = [self._others.submit(self._probe) for _ in range(self._threads - 1)]
        return self._probe() + sum(call.result() for call in calls)

    def _probe(self) -> int:
        return _core.popcount_probe(self._isa, self._steps)  # releases the GIL


def measure(
    benchmark: Any,
    call: Call,
    *,
    operations: float,
    limit: Limit | None = None,
    rivals: Mapping[str, Call] | None = None,
    seconds: float = 1.5,
    **facts: object,
) -> None:
    """Benchmark ``call`` for about ``seconds`` and note the rates in ``extra_info``.

    Rates are those of the fastest round, because what else runs on a machine only ever adds time;
    the medians of all contestants are kept beside them.

    Args:
        operations: 2 for every multiply-add of the call.
        facts: what the table will say about the case.
    """
    rivals = rivals or {}
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    limits: list[float] = []

    def before_round() -> None:
        for name, rival in rivals.items():
            taken[name].append(_rival_seconds(rival))
        if limit is not None:
            limits.extend(limit.rate() for _ in range(_PROBES))
        call()

    before_round()
    rounds = max(_FEWEST, min(_MOST, int(seconds / _seconds(before_round))))
    for values in (*taken.values(), limits):
        values.clear()
    benchmark.pedantic(call, setup=before_round, rounds=rounds)
    if benchmark.stats is None:  # --benchmark-disable
        return
    own = benchmark.stats.stats.data
    best = operations / min(own)
    benchmark.extra_info.update(
        facts,
        rounds=rounds,
        best=min(own),
        median=statistics.median(own),
        tera_ops=best / 1e12,
        rivals={
            name: {"best": min(values), "median": statistics.median(values)}
            for name, values in taken.items()
        },
    )
    if limits:
        benchmark.extra_info.update(limit=max(limits) / 1e12, share=best / max(limits))


def _rival_seconds(rival: Call) -> float:
    seconds = _seconds(rival)
    if seconds < _SLOW:
        seconds = _seconds(rival)
        time.sleep(_PAUSE)
    return seconds


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
