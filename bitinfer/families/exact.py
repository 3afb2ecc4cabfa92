"""Correctly rounded means of float32 matrices.

The sign of every weight is decided against the mean of its matrix, and one unit in the last place
of that mean can flip many signs, so it must not depend on the order in which a machine adds.  Here
sums are exact: a finite float32 is an integer times 2**-149, mantissas that share sign and exponent
are added as integers, and the few partial sums that remain are combined as Python integers.  Only
the final quotient is rounded, once, to nearest, ties to even.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UNIT_EXPONENT = -149  # every finite float32 is an integer multiple of 2**-149

_FIELDS = 512  # values of the sign and exponent bits of a float32
# Mantissas are below 2**24 and partial sums are float64: exact for up to 2**29 values a sum.
_CHUNK = 1 << 20


class Means(NamedTuple):
    """Exact means of a matrix [N, K], rounded once: of all entries, and of absolute values."""

    mean: np.float32
    mean_abs: np.float64
    row_mean_abs: npt.NDArray[np.float64]  # [N]


def means(matrix: npt.NDArray[np.float32]) -> Means:
    """The correctly rounded means of a matrix, float32 [N, K], finite, K at most 2**29."""
    rows, columns = matrix.shape
    total = 0
    row_totals: list[int] = []
    step = max(1, _CHUNK // max(columns, _FIELDS))  # bounds the table of sums as well
    for start in range(0, rows, step):
        signed, absolute = _row_sums(np.ascontiguousarray(matrix[start : start + step]))
        total += signed
        row_totals.extend(absolute)
    return Means(
        mean=nearest_float32(total, matrix.size),
        # Python rounds the quotient of two integers correctly.
        mean_abs=np.float64(sum(row_totals) / (matrix.size << -UNIT_EXPONENT)),
        row_mean_abs=np.array([each / (columns << -UNIT_EXPONENT) for each in row_totals]),
    )


def _row_sums(matrix: npt.NDArray[np.float32]) -> tuple[int, list[int]]:
    """Sum of all entries, and sum of absolute values of each row, in units of 2**-149."""
    rows = len(matrix)
    bits = matrix.view(np.uint32)
    field = bits >> 23
    mantissa = bits & 0x7FFFFF
    mantissa[(field & 0xFF) > 0] |= 0x800000
    bins = field + (np.arange(rows, dtype=np.int64) * _FIELDS)[:, None]
    table = np.bincount(bins.ravel(), mantissa.ravel(), rows * _FIELDS).reshape(rows, _FIELDS)
    total = 0
    absolute = [0] * rows
    row_index, field_index = np.nonzero(table)
    partial_sums = table[row_index, field_index]
    for row, key, partial in zip(
        row_index.tolist(), field_index.tolist(), partial_sums.tolist(), strict=True
    ):
        value = int(partial) << max((key & 0xFF) - 1, 0)
        absolute[row] += value
        total += -value if key >= _FIELDS // 2 else value
    return total, absolute


def nearest_float32(units: int, count: int) -> np.float32:
    """The float32 nearest to ``units * 2**-149 / count``, ties to even."""
    exact = Fraction(units, count << -UNIT_EXPONENT)
    nearest = np.float64(exact)
    # Rounding twice is wrong where the float64 is the middle of two float32 values and the quotient
    # is not.  A float64 beside the quotient whose last digit is odd is no such middle.
    if Fraction(float(nearest)) != exact and not nearest.view(np.int64) & 1:
        nearest = np.nextafter(nearest, np.inf if exact > nearest else -np.inf)
    rounded: np.float32 = np.float32(nearest)
    return rounded
