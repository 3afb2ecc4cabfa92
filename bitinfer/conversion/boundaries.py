"""Turns "compute a value in floating point and take its code" into comparisons of integers.

A code that is decided by one integer sum S alone needs no floating point at run time.  Its formula
is evaluated here, in float64, once for all; what remains is where each level of the codes begins:

    code >= level  <=>  S > rises[level]  or  S < falls[level]

Two kinds of formula occur.  ``slope * S + offset``, its slope not negative, never decreases with S,
rounding included, because rounding is monotone; nor does ReLU of it.  Where a level begins is then
found by bisection, which meets the same values as trying every S, and there are no falls.  GELU
falls to its dip and rises from there.  Its computed values are as close to GELU as `_SLACK`, so
bisection on each side of the dip leaves only sums that are so close to the level, mostly none or
one, and those are tried.

Codes are compared with each level: -1 (signed codes of one bit) is below 0, 0 below +1, and where
no S gives exactly 0 there is one level for both.  Sums lie within ``-reach .. reach``: a rise of
``-reach - 1`` is always, of ``reach`` never; a fall of ``-reach`` is never.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bitinfer.codes import TIE, PointCodes
from bitinfer.description import F32, F64, Description
from bitinfer.errors import ConversionError
from bitinfer.runtime.format import narrowest

Sums: TypeAlias = npt.NDArray[Any]
I64: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_DIP = -0.7517915246935645  # where GELU is smallest
_SLACK = 1e-12  # far above its error, in units of 1 + ReLU


class Boundaries(NamedTuple):
    """For L levels and N channels: ``rises`` [L, N], and ``falls`` [L, N] or None if none occurs.

    int16 where that holds all sums, else int32.
    """

    rises: Sums
    falls: Sums | None


def layer_boundaries(description: Description, index: int) -> dict[str, Boundaries]:
    """Boundaries of one layer, by the points whose codes one sum decides.

    Raises:
        ConversionError: naming layer and channel whose codes rises and falls cannot express.
    """
    config, codes = description.config, description.codes
    context, inner, output = (
        description.linear(f"layer.{index}.{name}")
        for name in ("attention.output", "intermediate", "output")
    )
    points = {}
    for name in ("query", "key", "value"):
        linear, step = description.linear(f"layer.{index}.{name}"), description.step(index, name)
        reach = config.hidden * _largest(codes[f"{name}.in"])
        points[name] = affine_boundaries(linear.slope, linear.bias, step, codes[name], reach)
    probs, value = codes["attention.probs"], codes["value"]
    if not probs.from_min:
        unit = np.float64(description.step(index, "attention.probs"))
        slope = np.full(config.hidden, unit * np.float64(description.step(index, "value")))
        reach = config.positions * _largest(probs) * _largest(value)
        points["attention.output.in"] = affine_boundaries(
            slope, context.shift, context.step, codes["attention.output.in"], reach
        )
    if not codes["output.in"].from_min:
        boundaries = relu_boundaries if config.activation == "relu" else gelu_boundaries
        reach = config.hidden * _largest(codes["intermediate.in"])
        try:
            points["output.in"] = boundaries(
                inner.slope, inner.bias, output.shift, output.step, codes["output.in"], reach
            )
        except ConversionError as error:
            raise ConversionError(f"layer {index} output.in: {error}") from error
    return points


def affine_boundaries(
    slope: F64, offset: F32, step: np.float32, codes: PointCodes, reach: int
) -> Boundaries:
    """Boundaries of the codes of ``slope * S + offset``.

    Args:
        slope: float64 [N], not negative.
        offset: float32 [N].
        step: size of a code, positive.
        reach: S is within ``-reach .. reach``.

    Example: ``S + 1`` is not negative from -1 on and positive above it.
        >>> one = np.float32(1)
        >>> affine_boundaries(np.array([1.0]), np.array([one]), one, PointCodes(1), 8)
        Boundaries(rises=array([[-2],
               [-1]], dtype=int16), falls=None)
    """
    bias = offset.astype(np.float64)
    return _rising(lambda sums: slope * sums + bias, len(slope), step, codes, reach)


def relu_boundaries(
    slope: F64, offset: F32, shift: F32, step: np.float32, codes: PointCodes, reach: int
) -> Boundaries:
    """Boundaries of the codes of ``relu(slope * S + offset) + shift``; as `affine_boundaries`."""
    bias, move = offset.astype(np.float64), shift.astype(np.float64)
    return _rising(
        lambda sums: np.maximum(slope * sums + bias, 0) + move, len(slope), step, codes, reach
    )


def gelu_boundaries(
    slope: F64, offset: F32, shift: F32, step: np.float32, codes: PointCodes, reach: int
) -> Boundaries:
    """Boundaries of the codes of ``gelu(slope * S + offset) + shift``; as `affine_boundaries`.

    Raises:
        ConversionError: naming the channel, if what lies below a level has a gap.
    """
    from bitinfer._core import gelu

    bias, move = offset.astype(np.float64), shift.astype(np.float64)
    level, channel = np.indices((codes.high - codes.low, len(slope)))

    def reaches(sums: I64, slack: float, at: Any = slice(None)) -> Bools:
        """Whether codes are at least their level; with slack, surely (< 0) or maybe (> 0)."""
        n = channel[at]
        x = slope[n] * sums + bias[n]
        value = gelu(x) + slack * (1 + np.maximum(x, 0)) + move[n]
        enough: Bools = _encode(value, step, codes) > codes.low + level[at]
        return enough

    low, high = np.full(level.shape, -reach), np.full(level.shape, reach + 1)
    dip = _first(lambda sums: slope * sums + bias >= _DIP, low, high)
    above = _first(lambda sums: reaches(sums, -_SLACK), dip, high)
    rise = _settle(
        lambda sums, at: reaches(sums, 0, at),
        _first(lambda sums: reaches(sums, _SLACK), dip, above),
        above,
    )
    below = _first(lambda sums: ~reaches(sums, _SLACK), low, dip)
    fall = _settle(
        lambda sums, at: ~reaches(sums, 0, at),
        _first(lambda sums: ~reaches(sums, -_SLACK), low, below),
        below,
    )
    # Where nothing lies below a level, it has no place for a gap but that of the level above.
    next_fall = low[0]
    for k in reversed(range(len(level))):
        always = fall[k] == rise[k]
        fall[k] = np.where(always, next_fall, fall[k])
        rise[k] = np.where(always, next_fall, rise[k])
        next_fall = fall[k]
    falls = narrowest(fall, reach) if (fall > -reach).any() else None
    return Boundaries(narrowest(rise - 1, reach), falls)


def _rising(
    value: Callable[[F64], F64], channels: int, step: np.float32, codes: PointCodes, reach: int
) -> Boundaries:
    """Boundaries of a value that never decreases with S."""
    level = np.arange(codes.low, codes.high)[:, None]
    shape = (len(level), channels)
    first = _first(
        lambda sums: _encode(value(sums.astype(np.float64)), step, codes) > level,
        np.full(shape, -reach),
        np.full(shape, reach + 1),
    )
    if codes.by_sign and np.array_equal(first[0], first[1]):
        first = first[1:]
    return Boundaries(narrowest(first - 1, reach), None)


def _encode(values: F64, step: np.float32, codes: PointCodes) -> F64:
    """Codes of values, not clamped: to compare them with levels needs no bounds."""
    size = np.float64(step)
    found: F64
    if codes.by_sign:
        found = np.sign(values)
    elif codes.bits == 1:
        found = (values > 0.5 * size).astype(np.float64)
    else:
        ratios = values / size
        nearest = np.rint(ratios)
        tie = np.abs(ratios - nearest) >= 0.5 - TIE
        found = np.where(tie, 2 * np.rint(ratios / 2), nearest)
    return found


def _first(holds: Callable[[I64], Bools], low: I64, high: I64) -> I64:
    """The first S of ``low .. high - 1`` where ``holds``, which stays true once it is; else
    ``high``."""
    low, high = low.copy(), high.copy()
    while (searching := low < high).any():
        middle = (low + high) // 2
        found = holds(middle)
        high = np.where(searching & found, middle, high)
        low = np.where(searching & ~found, middle + 1, low)
    return low


def _settle(holds: Callable[[I64, Any], Bools], low: I64, high: I64) -> I64:
    """As `_first`, by trying every S: that ``holds`` stays true is not known but checked."""
    first: I64 = high.copy()
    for distance in range(int((high - low).max(initial=0))):
        at = np.nonzero(low + distance < high)
        sums = low[at] + distance
        found = holds(sums, at)
        broken = np.flatnonzero(~found & (first[at] < sums))
        if len(broken):
            raise ConversionError(
                f"channel {at[1][broken[0]]}: found a gap in what lies below a level of its codes, "
                "expected none"
            )
        first[at] = np.where(found, np.minimum(first[at], sums), first[at])
    return first


def _largest(codes: PointCodes) -> int:
    """The largest magnitude of a code."""
    return max(-codes.low, codes.high)
