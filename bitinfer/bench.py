"""How fast a model runs: full-length random sequences, one setting after the other."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from bitinfer import _core
from bitinfer.diagnostics import diagnose
from bitinfer.errors import InputError
from bitinfer.model import BitModel
from bitinfer.origin import find_model, read_model
from bitinfer.text import TokenBatch

__all__ = ["EXCLUDED", "Timing", "as_csv", "as_json", "as_markdown", "run"]

EXCLUDED = "Sequences have full length; loading, tokenizing and warming up are not included."
_SEED = 1
_COLUMNS = (
    *("isa", "threads", "batch", "length"),
    *("mean_ms", "median_ms", "sd_ms", "sequences_per_s", "tokens_per_s"),
)


@dataclass(frozen=True)
class Timing:
    """Seconds of each repetition for one setting."""

    isa: str
    threads: int
    batch: int
    length: int
    seconds: tuple[float, ...]

    def row(self) -> dict[str, Any]:
        """The setting, and figures over its repetitions."""
        mean = statistics.fmean(self.seconds)
        deviation = statistics.stdev(self.seconds) if len(self.seconds) > 1 else 0.0
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
        }


def run(
    path: str | os.PathLike[str],
    *,
    batches: Sequence[int],
    lengths: Sequence[int],
    threads: Sequence[int | None],
    isas: Sequence[str | None],
    repetitions: int,
    warmup: int = 2,
) -> Iterator[Timing]:
    """Time every combination of the settings, from token ids to logits.

    All settings are checked before the first is timed.

    Raises:
        InputError: A length is beyond the positions of the model, or there is no such model.
        UnsupportedError: An instruction set is not there.
        FormatError, ConversionError: As :func:`bitinfer.load`.
    """
    origin = find_model(path)
    content = read_model(origin)
    positions = content[0]["config"]["positions"]
    if max(lengths) > positions:
        raise InputError(f"length: found {max(lengths)}, expected at most {positions}")
    resolved = [_core.resolve_isa(isa) for isa in isas]
    counts = [_core.resolve_num_threads(count) for count in threads]

    def timings() -> Iterator[Timing]:
        for isa, count in product(resolved, counts):
            model = BitModel(origin, count, isa, content=content)
            for batch, length in product(batches, lengths):
                tokens = _random_tokens(model, batch, length)
                samples = [_seconds(model, tokens) for _ in range(warmup + repetitions)]
                yield Timing(isa, count, batch, length, tuple(samples[warmup:]))

    return timings()


def _random_tokens(model: BitModel, batch: int, length: int) -> TokenBatch:
    total = batch * length
    vocab = int(model.config["vocab"])
    return TokenBatch(
        ids=np.random.RandomState(_SEED).randint(0, vocab, total).astype(np.int32),
        positions=np.tile(np.arange(length, dtype=np.int32), batch),
        segments=np.zeros(total, dtype=np.int32),
        offsets=np.arange(0, total + 1, length, dtype=np.int64),
    )


def _seconds(model: BitModel, tokens: TokenBatch) -> float:
    start = time.perf_counter()
    model._run(tokens, hidden=False)
    return time.perf_counter() - start


def as_markdown(model: str, timings: Iterable[Timing]) -> Iterator[str]:
    """Lines of a table, each as soon as it is known."""
    machine = diagnose()
    yield f"{model}, bitinfer {machine['bitinfer']['version']}, {machine['cpu']}. {EXCLUDED}"
    yield ""
    yield "| " + " | ".join(_COLUMNS) + " |"
    yield "|" + "---|" * len(_COLUMNS)
    for timing in timings:
        yield "| " + " | ".join(str(value) for value in timing.row().values()) + " |"


def as_csv(model: str, timings: Iterable[Timing]) -> Iterator[str]:
    """Comment lines with what was measured, then the table."""
    yield f"# {model}. {EXCLUDED}"
    yield ",".join(_COLUMNS)
    for timing in timings:
        line = io.StringIO()
        csv.writer(line).writerow(timing.row().values())
        yield line.getvalue().rstrip("\r\n")


def as_json(model: str, timings: Iterable[Timing]) -> Iterator[str]:
    """One object with the machine, and every sample of every setting."""
    results = [{**timing.row(), "seconds": timing.seconds} for timing in timings]
    report = {"model": model, "excluded": EXCLUDED, "machine": diagnose(), "results": results}
    yield json.dumps(report, indent=2)
