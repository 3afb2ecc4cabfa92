"""What many measurements come to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Of one value it is that value three times."""
    if len(values) < 2:
        return Spread(*values, *values, *values)
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


FEWEST_FOR_QUARTILES = 5


def ratio(own: Sequence[float], other: Sequence[float]) -> float | None:
    """How many times as long the other took: of the medians over the rounds that both have."""
    common = min(len(own), len(other))
    if not common:
        return None
    return statistics.median(other[:common]) / statistics.median(own[:common])


def ratios(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times as long the other took, by round; the longer of the two lists is cut."""
    return [theirs / ours for ours, theirs in zip(own, other, strict=False)]


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """``a, b`` for which a + b x is y with the least sum of squared relative errors.

    Relative, or the largest batches alone would decide and the constant would be noise.

    Raises:
        ValueError: There are not two different x.
    """
    if len(set(x)) < 2:
        raise ValueError("a line needs two points")
    weights = [1 / value**2 for value in y]
    total = sum(weights)
    mean_x = sum(w * v for w, v in zip(weights, x, strict=True)) / total
    mean_y = sum(w * v for w, v in zip(weights, y, strict=True)) / total
    slope = sum(w * (u - mean_x) * (v - mean_y) for w, u, v in zip(weights, x, y, strict=True))
    slope /= sum(w * (u - mean_x) ** 2 for w, u in zip(weights, x, strict=True))
    return mean_y - slope * mean_x, slope
