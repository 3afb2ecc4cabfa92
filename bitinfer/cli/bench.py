"""How fast a model runs: full-length random sequences, one setting after the other.

With a profile, the engine also reads a clock between the stages of every layer and reports what
each takes: that costs about 1 % and is why it is off unless asked for.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
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


def run(options: Bench) -> Iterator[dict[str, Any]]:
    """Time every combination of the settings, from token ids to logits: the rows of a table.

    Each also has the ``seconds`` of every repetition and, of a profile, the ``stages``: seconds of
    all threads and repetitions, ``other`` being Python, starting threads, and threads without work.
    """
    origin = find_model(options.model)
    content = read_model(origin)
    positions, vocab = (content[0]["config"][size] for size in ("positions", "vocab"))
    if max(options.length) > positions:
        raise InputError(f"length: found {max(options.length)}, expected at most {positions}")
    # All settings are checked before the first is timed.
    isas = [_core.resolve_isa(isa) for isa in options.isa or [None]]
    counts = [_core.resolve_num_threads(count) for count in options.threads or [None]]
    for isa, threads in product(isas, counts):
        model = BitModel(origin, threads, isa, content=content)
        for batch, length in product(options.batch, options.length):
            tokens = _random_tokens(vocab, batch, length)
            for _ in range(_WARMUP):
                _seconds(model, tokens)
            stages: dict[str, float] | None = {} if options.profile else None
            seconds = [_seconds(model, tokens, stages) for _ in range(options.repetitions)]
            setting = {"isa": isa, "threads": threads, "batch": batch, "length": length}
            row = {**setting, **_figures(seconds, batch, batch * length)}
            if stages is not None:
                total = threads * sum(seconds)
                stages["other"] = max(0.0, total - sum(stages.values()))
                total = sum(stages.values())
                row |= {f"{name} %": round(100 * s / total, 1) for name, s in stages.items()}
            yield {**row, "seconds": seconds, **({"stages": stages} if stages else {})}


def _figures(seconds: list[float], sequences: int, tokens: int) -> dict[str, float]:
    mean = statistics.fmean(seconds)
    deviation = statistics.stdev(seconds) if len(seconds) > 1 else 0.0
    return {
        "mean_ms": round(1e3 * mean, 4),
        "median_ms": round(1e3 * statistics.median(seconds), 4),
        "sd_ms": round(1e3 * deviation, 4),
        "sequences_per_s": round(sequences / mean, 1),
        "tokens_per_s": round(tokens / mean),
    }


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
    model, rows = options.model, run(options)
    if options.output == "json":
        machine = diagnose()
        report = {"model": model, "excluded": _EXCLUDED, "machine": machine, "results": [*rows]}
        yield json.dumps(report, indent=2)
        return
    csv = options.output == "csv"  # where nothing needs quotes
    first, between, last = ("", ",", "") if csv else ("| ", " | ", " |")
    for index, row in enumerate(rows):
        shown = {name: each for name, each in row.items() if name not in ("seconds", "stages")}
        if index == 0:  # now it is known that the settings are right
            version = _core.build_info()["version"]
            whole = f"{model}, bitinfer {version}, {cpu_name()}. {_EXCLUDED}\n"
            yield f"# {model}. {_EXCLUDED}" if csv else whole
            yield first + between.join(shown) + last
            yield from [] if csv else ["|" + "---|" * len(shown)]
        yield first + between.join(map(str, shown.values())) + last
