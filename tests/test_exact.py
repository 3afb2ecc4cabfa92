"""Means are correctly rounded: compared with exact fractions, and the same in every order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bitinfer.families.exact import means, nearest_float32

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FINITE)


def exact_mean(values: np.ndarray) -> Fraction:
    return sum(map(Fraction, values.ravel().tolist()), Fraction(0)) / values.size


def is_nearest_float32(value: np.float32, exact: Fraction) -> bool:
    """No neighbour is nearer, and a tie went to the even one."""
    error = abs(Fraction(float(value)) - exact)
    for direction in (-np.inf, np.inf):
        with np.errstate(over="ignore", under="ignore"):
            neighbour = np.nextafter(value, np.float32(direction))
        if not np.isfinite(neighbour):
            continue
        other = abs(Fraction(float(neighbour)) - exact)
        if other < error or (other == error and int(value.view(np.uint32)) & 1):
            return False
    return True


@settings(max_examples=300)
@given(MATRICES)
def test_means_are_the_nearest_to_exact_fractions(matrix: np.ndarray) -> None:
    found = means(matrix)
    assert is_nearest_float32(found.mean, exact_mean(matrix))
    # The conversion of a Fraction to float is correctly rounded.
    assert found.mean_abs == float(exact_mean(np.abs(matrix)))
    assert found.row_mean_abs.tolist() == [float(exact_mean(row)) for row in np.abs(matrix)]


@settings(max_examples=50)
@given(MATRICES, st.randoms(use_true_random=False))
def test_means_do_not_depend_on_the_order(matrix: np.ndarray, random: object) -> None:
    shuffled = matrix.copy().ravel()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = means(shuffled.reshape(matrix.shape))
    assert other.mean.tobytes() == means(matrix).mean.tobytes()
    assert other.mean_abs == means(matrix).mean_abs


def mean_of(*row: float) -> np.float32:
    return means(np.array([row], np.float32)).mean


def test_cancellation_loses_nothing() -> None:
    # Three quarters of the smallest float32 round to it, two quarters (a tie) and one to 0.
    tiny, huge = 1e-45, 3e38
    assert mean_of(tiny, tiny, huge, tiny, -huge, 0, huge, -huge) == 0
    assert mean_of(tiny, tiny, tiny, 0) == np.float32(tiny)
    assert mean_of(tiny, tiny, 0, 0) == 0
    assert mean_of(huge, -huge, 5, 0) == 1.25


def test_mean_is_not_rounded_twice() -> None:
    # 1 + 2**-24 + 2**-60 is above the middle of two float32 values.  As a float64 it is the middle,
    # and rounding that goes down, to the even neighbour.
    units = (1 << 149) + (1 << 125) + (1 << 89)
    assert np.float32(units / (1 << 149)) == np.float32(1)
    assert nearest_float32(units, 1) == 1 + 2.0**-23
    assert nearest_float32(-units, 1) == -(1 + 2.0**-23)


@pytest.mark.parametrize("shape", [(3, 700_000), (5_000, 500), (1, 1)])
def test_large_and_small_matrices_cross_the_chunks(shape: tuple[int, int]) -> None:
    integers = np.random.RandomState(3).randint(-(1 << 20), 1 << 20, shape)
    found = means(np.ldexp(integers.astype(np.float32), -24))
    assert is_nearest_float32(found.mean, Fraction(int(integers.sum()), integers.size << 24))
    rows = [Fraction(int(row), shape[1] << 24) for row in np.abs(integers).sum(1)]
    assert found.row_mean_abs.tolist() == [float(row) for row in rows]
    assert found.mean_abs == float(sum(rows) / shape[0])


def test_matrices_need_not_be_contiguous() -> None:
    matrix = np.random.RandomState(4).standard_normal((6, 8)).astype(np.float32)
    assert means(matrix.T).mean_abs == means(matrix.T.copy()).mean_abs
    assert means(matrix[:, ::2]).mean == means(matrix[:, ::2].copy()).mean
