"""How good answers are: a metric compares them with the targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Metric(NamedTuple):
    """A number that is larger if answers are better."""

    name: str  # in reports
    title: str  # in sentences
    percent: bool  # whether it is a share, shown in percent
    # Of answers and targets, as many of both; nan where it is not defined.
    score: Callable[[Sequence[float], Sequence[float]], float]
    # Of a value over so many rows, by the choice of the rows; None where it is not defined.
    standard_error: Callable[[float, int], float | None]

    def text(self, value: float, error: float | None = None) -> str:
        """A value for reading, such as 82.1 ± 1.3 %, or 0.720."""
        if not math.isfinite(value):
            return "undefined"
        scale, form, unit = (100, ".1f", " %") if self.percent else (1, ".3f", "")
        spread = "" if error is None else f" ± {scale * error:{form}}"
        return f"{scale * value:{form}}{spread}{unit}"


def _accuracy(answers: Sequence[float], targets: Sequence[float]) -> float:
    return sum(a == b for a, b in zip(answers, targets, strict=True)) / len(targets)


def _accuracy_error(value: float, count: int) -> float | None:
    return math.sqrt(value * (1 - value) / count) if count and 0 <= value <= 1 else None


def _pearson(answers: Sequence[float], targets: Sequence[float]) -> float:
    import statistics  # which brings decimals and random numbers: loading a model waits for none

    try:
        return statistics.correlation(answers, targets)
    except statistics.StatisticsError:  # one row, or all the same
        return math.nan


def _pearson_error(value: float, count: int) -> float | None:
    """Takes both variables to be normally distributed."""
    return (1 - value**2) / math.sqrt(count - 1) if count > 1 and math.isfinite(value) else None


ACCURACY = Metric("accuracy", "accuracy", True, _accuracy, _accuracy_error)
PEARSON = Metric("pearson", "Pearson correlation", False, _pearson, _pearson_error)
