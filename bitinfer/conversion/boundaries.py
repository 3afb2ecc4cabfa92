"""Turns "compute a value in floating point and take its code" into comparisons of integers.

A code that is decided by one integer sum S alone needs no floating point at run time.  Its formula
is evaluated here, in float64, once for all; what remains are the boundaries between the codes,
numbered from below, each a rise and, where values may fall, a fall:

    code > lowest + k  <=>  S > rises[k]  or  S < falls[k]

The value is ``activation(slope * S + offset) + shift``, its slope not negative.  Without activation
and with ReLU it never decreases with S, rounding included, because rounding is monotone.  A
boundary is then found by bisection, which meets the same values as trying every S, and there are no
falls.  GELU falls to its dip and rises from there.  Its computed values are as close to GELU as
`_SLACK`, so bisection on each side of the dip leaves only sums that are so close to the boundary,
mostly none or one, and those are tried.

Signed codes of one bit have two boundaries, below and above 0, and one for both where no S gives
exactly 0.  Sums lie within ``-reach .. reach``: a rise of ``-reach - 1`` is always, of ``reach``
never; a fall of ``-reach`` is never.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bitinfer import _core
from bitinfer.codes import TIE, PointCodes
from bitinfer.description import F64, Description
from bitinfer.errors import ConversionError
from bitinfer.runtime.format import narrowest

Sums: TypeAlias = npt.NDArray[Any]
I64: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_DIP = -0.7517915246935645  # where GELU is smallest
_SLACK = 1e-12  # far above its error, in units of 1 + ReLU


class Boundaries(NamedTuple):
    """L boundaries of N channels, int16 where that holds all sums, else int32."""

    rises: Sums  # [L, N]
    falls: Sums | None  # the same, or None if none occurs


def layer_boundaries(description: Description, index: int) -> dict[str, Boundaries]:
    """Boundaries of one layer, by the points whose codes one sum decides."""
    config, codes = description.config, description.codes
    layer, points = f"layer.{index}.", {}

    def array(name: str) -> F64:
        return description.arrays[layer + name].astype(np.float64)

    def slope(name: str) -> F64:
        return array(f"{name}.step") * array(f"{name}.scale")

    def add(point: str, reach: int, *formula: F64, activation: str | None = None) -> None:
        try:
            points[point] = boundaries(codes[point], reach, *formula, activation=activation)
        except ConversionError as error:
            raise ConversionError(f"layer {index} {point}: {error}") from error

    zeros = np.zeros(config.hidden)
    for name in ("query", "key", "value"):
        reach = config.hidden * codes[f"{name}.in"].largest
        add(name, reach, slope(name), array(f"{name}.bias"), zeros, array(f"{name}.code_step"))
    if not codes["attention.probs"].from_min:
        reach = config.positions * codes["attention.probs"].largest * codes["value"].largest
        unit = array("attention.probs.step") * array("value.code_step")
        shift, step = array("attention.output.shift"), array("attention.output.step")
        add("attention.output.in", reach, unit, zeros, shift, step)
    if not codes["output.in"].from_min:
        reach = config.hidden * codes["intermediate.in"].largest
        formula = slope("intermediate"), array("intermediate.bias"), array("output.shift")
        add("output.in", reach, *formula, array("output.step"), activation=config.activation)
    return points


def boundaries(
    codes: PointCodes,
    reach: int,
    slope: F64,
    offset: F64,
    shift: F64,
    step: F64,
    *,
    activation: str | None = None,
) -> Boundaries:
    """Boundaries of the codes of ``activation(slope * S + offset) + shift``.

    Slope, offset and shift are float64 [N], or [1] for all channels, the step of the codes [1].
    Raises a ConversionError with the channel if what lies below a boundary has a gap.

    Example: ``S + 1`` is not negative from -1 on and positive above it.
        >>> one, zero = np.ones(1), np.zeros(1)
        >>> boundaries(PointCodes(1), 8, one, one, zero, one)
        Boundaries(rises=array([[-2],
               [-1]], dtype=int16), falls=None)
    """
    slope = np.broadcast_to(slope, offset.shape)
    boundary, channel = np.indices((codes.high - codes.low, len(slope)))
    dips = activation == "gelu"

    def reaches(sums: I64, slack: float, at: Any = slice(None)) -> Bools:
        """Whether codes are above their boundary; with slack, surely (< 0) or maybe (> 0)."""
        n = channel[at]
        value = x = slope[n] * sums + offset[n]
        if dips:
            value = _core.gelu(x) + slack * (1 + np.maximum(x, 0))
        elif activation == "relu":
            value = np.maximum(x, 0)
        enough: Bools = _encode(value + shift[n], step, codes) > codes.low + boundary[at]
        return enough

    low, high = np.full(channel.shape, -reach), np.full(channel.shape, reach + 1)
    dip = _first(lambda sums: slope * sums + offset >= _DIP, low, high) if dips else low
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
    # Where nothing lies below a boundary, its gap may only be where that of the next one is.
    next_fall = low[0]
    for k in reversed(range(len(boundary))):
        always = fall[k] == rise[k]
        fall[k] = np.where(always, next_fall, fall[k])
        rise[k] = np.where(always, next_fall, rise[k])
        next_fall = fall[k]
    if codes.by_sign and np.array_equal(rise[0], rise[1]):
        rise = rise[1:]
    falls = narrowest(fall, reach) if (fall > -reach).any() else None
    return Boundaries(narrowest(rise - 1, reach), falls)


def _encode(values: F64, step: F64, codes: PointCodes) -> F64:
    """Codes of values, not clamped: to compare them needs no bounds."""
    found: F64
    if codes.by_sign:
        found = np.sign(values)
    elif codes.bits == 1:
        found = (values > 0.5 * step).astype(np.float64)
    else:
        ratios = values / step
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
            channel = at[1][broken[0]]
            raise ConversionError(
                f"channel {channel}: found a gap in what lies below a boundary, expected none"
            )
        first[at] = np.where(found, np.minimum(first[at], sums), first[at])
    return first
