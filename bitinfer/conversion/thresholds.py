"""Turns "compute a value in floating point and take its code" into comparisons of integers.

A code that is decided by one integer sum S alone needs no floating point at run time.  Its formula
is evaluated here, in float64, once for all; what remains is the set of S for which the code is 1.

Two kinds of formula occur.  ``slope * S + offset``, its slope not negative, never decreases with S,
rounding included, because rounding is monotone; nor does ReLU of it.  Where a code changes is then
found by bisection, which meets the same values as trying every S.  GELU falls and rises: there
every S is tried, after bounds have settled most of them.

Semantics of a pair ``(threshold, low)`` of a channel:

- signed codes: +1 where ``S > threshold``, -1 where ``S < low``, else 0;
- unsigned codes: 1 where ``S > threshold`` or ``S < low``, else 0.

``low`` is left out where it says nothing: where no S gives exactly 0, and where nothing lies below
the dip of GELU.  INT32_MAX as a threshold means never, INT32_MIN always; INT32_MIN as a low means
never, INT32_MAX always.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bitinfer.description import F32, F64, Description
from bitinfer.errors import ConversionError

__all__ = [
    "Thresholds",
    "gelu_thresholds",
    "layer_thresholds",
    "relu_thresholds",
    "signed_thresholds",
]

I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]

_MIN = np.iinfo(np.int32).min
_MAX = np.iinfo(np.int32).max
_CHUNK = 1 << 20  # values of GELU evaluated at once


class Thresholds(NamedTuple):
    """For N channels: ``threshold`` int32 [N], and ``low`` int32 [N] or None if not needed."""

    threshold: I32
    low: I32 | None


def layer_thresholds(description: Description, index: int) -> dict[str, Thresholds]:
    """Thresholds of one layer, by the golden point whose codes they make.

    Raises:
        ConversionError: naming the layer and channel whose codes two thresholds cannot express.
    """
    config, layer = description.config, description.layers[index]
    points = {
        name: signed_thresholds(linear.slope, linear.bias, config.hidden)
        for name in ("query", "key", "value")
        for linear in (layer.linears[name],)
    }
    points["attention.output.in"] = signed_thresholds(
        np.full(
            config.hidden,
            np.float64(layer.steps["attention.probs"]) * np.float64(layer.steps["value"]),
        ),
        layer.linears["attention.output"].shift,
        config.positions,
    )
    unsigned = relu_thresholds if config.activation == "relu" else gelu_thresholds
    try:
        points["output.in"] = unsigned(
            layer.linears["intermediate"].slope,
            layer.linears["intermediate"].bias,
            layer.linears["output"].shift,
            layer.linears["output"].step,
            config.hidden,
        )
    except ConversionError as error:
        raise ConversionError(f"layer {index} output.in: {error}") from error
    return points


def signed_thresholds(slope: F64, offset: F32, reach: int) -> Thresholds:
    """Thresholds of ``sign(slope * S + offset)`` for S in ``-reach .. reach``.

    Args:
        slope: float64 [N], not negative.
        offset: float32 [N].

    Example: ``S + 1`` is positive above -1 and negative below it.
        >>> signed_thresholds(np.array([1.0]), np.array([1.0], np.float32), 8)
        Thresholds(threshold=array([-1], dtype=int32), low=array([-1], dtype=int32))
    """
    bias = offset.astype(np.float64)
    positive = _first(lambda s: slope * s + bias > 0, len(slope), reach)
    not_negative = _first(lambda s: slope * s + bias >= 0, len(slope), reach)
    low = None if np.array_equal(positive, not_negative) else _as_low(not_negative, reach)
    return Thresholds(_as_threshold(positive, reach), low)


def relu_thresholds(
    slope: F64, offset: F32, shift: F32, step: np.float32, reach: int
) -> Thresholds:
    """Thresholds of ``relu(slope * S + offset) + shift > step / 2`` for S in ``-reach .. reach``.

    Args:
        slope: float64 [N], not negative.
        offset, shift: float32 [N].
        step: positive.
    """
    bias, move, half = _widened(offset, shift, step)
    one = _first(lambda s: np.maximum(slope * s + bias, 0) + move > half, len(slope), reach)
    return Thresholds(_as_threshold(one, reach), None)


def gelu_thresholds(
    slope: F64, offset: F32, shift: F32, step: np.float32, reach: int
) -> Thresholds:
    """Thresholds of ``gelu(slope * S + offset) + shift > step / 2`` for S in ``-reach .. reach``.

    Raises:
        ConversionError: naming the channel, if its zeros have a one between them.
    """
    bias, move, half = _widened(offset, shift, step)
    sums = np.arange(-reach, reach + 1)
    threshold = np.empty(len(slope), np.int32)
    low = np.empty(len(slope), np.int32)
    channels = max(1, _CHUNK // len(sums))
    for start in range(0, len(slope), channels):
        part = slice(start, start + channels)
        x = slope[part, None] * sums + bias[part, None]
        zero = ~_gelu_exceeds(x, np.broadcast_to(move[part, None], x.shape), half)
        first = zero.argmax(1)
        after = len(sums) - zero[:, ::-1].argmax(1)
        after[~zero.any(1)] = 0
        broken = np.flatnonzero(zero.sum(1) != after - first)
        if len(broken):
            raise ConversionError(
                f"channel {start + broken[0]}: found a one between the zeros of its codes, "
                "expected zeros without a gap"
            )
        threshold[part] = _as_threshold(after - reach, reach)
        low[part] = _as_low(first - reach, reach)
    needed = bool((low != _MIN).any())
    return Thresholds(threshold, low if needed else None)


def _gelu_exceeds(x: F64, move: F64, half: np.float64) -> npt.NDArray[np.bool_]:
    """Where ``gelu(x) + move > half``.

    GELU lies between ReLU - 0.17 (its minimum is -0.16997) and ReLU, and its computed values within
    the slack of that.  A rounded sum never decreases with a term, so where both bounds give the
    same answer, GELU does, and the costly function is left for the others, mostly a few per cent.
    """
    from bitinfer._core import gelu

    relu = np.maximum(x, 0)
    slack = 1e-12 * (1 + relu)
    exceeds = (relu - 0.17 - slack) + move > half
    unsure = ((relu + slack) + move > half) & ~exceeds
    exceeds[unsure] = gelu(x[unsure]) + move[unsure] > half
    return exceeds


def _widened(offset: F32, shift: F32, step: np.float32) -> tuple[F64, F64, np.float64]:
    return offset.astype(np.float64), shift.astype(np.float64), 0.5 * np.float64(step)


def _first(holds: Callable[[F64], npt.NDArray[np.bool_]], channels: int, reach: int) -> I64:
    """The first S of ``-reach .. reach`` where ``holds``, which stays true once it is; else
    ``reach + 1``.  One S for each channel."""
    low = np.full(channels, -reach)
    high = np.full(channels, reach + 1)
    while (low < high).any():
        middle = (low + high) // 2
        found = holds(middle.astype(np.float64))
        searching = low < high
        high = np.where(searching & found, middle, high)
        low = np.where(searching & ~found, middle + 1, low)
    return low


def _as_threshold(first: I64, reach: int) -> I32:
    """The threshold of codes that are 1 from ``first`` on."""
    return np.select([first <= -reach, first > reach], [_MIN, _MAX], first - 1).astype(np.int32)


def _as_low(first: I64, reach: int) -> I32:
    """The low of codes that say "below" before ``first``."""
    return np.select([first <= -reach, first > reach], [_MIN, _MAX], first).astype(np.int32)
