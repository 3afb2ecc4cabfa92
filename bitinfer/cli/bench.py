"""How fast a model runs: full-length random sequences, one setting after the other.

With a profile, the engine also reads a clock between the stages of every layer and reports what
each takes: that costs about 1 % and is why it is off unless asked for.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bitinfer import _core
from bitinfer.diagnostics import cpu_name, diagnose
from bitinfer.errors import InputError
from bitinfer.runtime.model import BitModel
from bitinfer.runtime.origin import find_model, read_model
from bitinfer.runtime.text import TokenBatch

if TYPE_CHECKING:
    from bitinfer.cli.models import Bench

_WARMUP = 2
_EXCLUDED = "Sequences have full length; loading, tokenizing and warming up are not included."


@dataclass(frozen=True)
class Timing:
    """Seconds of each repetition for one setting.

    Of a profile, ``stages`` are those of all threads and repetitions; ``other`` is Python, starting
    threads, and threads without work.
    """

    isa: str
    threads: int
    batch: int
    length: int
    seconds: tuple[float, ...]
    stages: dict[str, float] | None = None

    def row(self) -> dict[str, Any]:
        """The setting, figures over its repetitions, and of a profile the stages in percent."""
        mean = statistics.fmean(self.seconds)
        deviation = statistics.stdev(self.seconds) if len(self.seconds) > 1 else 0.0
        stages = self.stages or {}
        total = sum(stages.values())
        return {
            "isa": self.isa,
            "threads": self.threads,
            "batch": self.batch,
            "length": self.length,
            "mean_ms": round(1e3 * mean, 4),
            "median_ms": round(1e3 * statistics.median(self.seconds), 4),
            "sd_ms": round(1e3 * deviation, 4),
            "sequences_per_s": round(self.batch / mean, 1),
            "tokens_per_s": round(self.batch * self.length / mean),
            **{f"{name} %": round(100 * value / total, 1) for name, value in stages.items()},
        }


def run(options: Bench) -> Iterator[Timing]:
    """Time every combination of the settings, from token ids to logits."""
    origin = find_model(options.model)
    content = read_model(origin)
    positions, vocab = (content[0]["config"][size] for size in ("positions", "vocab"))
    if max(options.length) > positions:
        raise InputError(f"length: found {max(options.length)}, expected at most {positions}")
    # All settings are checked before the first is timed.
    isas = [_core.resolve_isa(isa) for isa in options.isa or [None]]
    counts = [_core.resolve_num_threads(count) for count in options.threads or [None]]
    for isa, count in product(isas, counts):
        model = BitModel(origin, count, isa, content=content)
        for batch, length in product(options.batch, options.length):
            tokens = _random_tokens(vocab, batch, length)
            for _ in range(_WARMUP):
                _seconds(model, tokens)
            stages: dict[str, float] | None = {} if options.profile else None
            seconds = tuple(_seconds(model, tokens, stages) for _ in range(options.repetitions))
            if stages is not None:
                stages["other"] = max(0.0, count * sum(seconds) - sum(stages.values()))
            yield Timing(isa, count, batch, length, seconds, stages)


def _random_tokens(vocab: int, batch: int, length: int) -> TokenBatch:
    total = batch * length
    return TokenBatch(
        ids=np.random.RandomState(1).randint(0, vocab, total).astype(np.int32),
        positions=np.tile(np.arange(length, dtype=np.int32), batch),
        segments=np.zeros(total, dtype=np.int32),
        offsets=np.arange(0, total + 1, length, dtype=np.int64),
    )


def _seconds(model: BitModel, tokens: TokenBatch, stages: dict[str, float] | None = None) -> float:
    start = time.perf_counter()
    output = model._run(tokens, hidden=False, stages=stages is not None)
    seconds = time.perf_counter() - start
    if stages is not None:
        for name, value in output["stages"].items():
            stages[name] = stages.get(name, 0.0) + value
    return seconds


def write(options: Bench) -> Iterator[str]:
    """Lines of a report: an object with every sample, or a table, line by line."""
    model, timings = options.model, run(options)
    if options.output == "json":
        results = []
        for each in timings:
            stages = {} if each.stages is None else {"stages": each.stages}
            results.append({**each.row(), "seconds": each.seconds, **stages})
        report = {"model": model, "excluded": _EXCLUDED, "machine": diagnose(), "results": results}
        yield json.dumps(report, indent=2)
        return
    csv = options.output == "csv"  # where nothing needs quotes
    first, between, last = ("", ",", "") if csv else ("| ", " | ", " |")
    for index, row in enumerate(each.row() for each in timings):
        if index == 0:  # now it is known that the settings are right
            version = _core.build_info()["version"]
            whole = f"{model}, bitinfer {version}, {cpu_name()}. {_EXCLUDED}\n"
            yield f"# {model}. {_EXCLUDED}" if csv else whole
            yield first + between.join(row) + last
            yield from [] if csv else ["|" + "---|" * len(row)]
        yield first + between.join(map(str, row.values())) + last
