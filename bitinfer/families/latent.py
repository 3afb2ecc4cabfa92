"""Float weights that lead back to given signs and scales.

A checkpoint does not hold signs and scales but weights W, from which a reader takes the codes
``sign(W - mean(W))`` and the scale ``mean|W|``.  So weights are looked for that lead back to the
very codes and scales:

- The mean is made exactly 0, so that signs are signs and a zero is a zero: the positive weights of
  a row and the negative ones have the same sum, half of ``K * scale``, added as exact integers.
- Weights of one sign are all but equal; what equal float32 values cannot sum to is left to one or
  two small ones.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from bitinfer.description import F32, F64, I8
from bitinfer.errors import ConversionError
from bitinfer.families.exact import UNIT_EXPONENT

_DIGITS = 24  # of a float32


def latent_weights(codes: I8, scale: F64) -> F32:
    """Weights float32 [N, K] with the codes and scales of a matrix, as far as float32 can say them.

    The caller reads them back and compares.  Raises a ConversionError where a row holds too few
    weights of one sign to carry its scale.
    """
    values = np.zeros(codes.shape, np.float32)
    rows = values.reshape(len(scale), -1)  # a view
    for row, signs, size in zip(rows, codes.reshape(rows.shape), scale.tolist(), strict=True):
        half = _half_sum(len(row), size)
        for sign in (1, -1) if half else ():
            places = np.flatnonzero(signs == sign)
            row[places] = sign * _split(half, len(places))
    return values


def _half_sum(count: int, scale: float) -> int:
    """Half of ``count * scale``, in units of 2**-149, with as few digits as name the scale."""
    if scale == 0:
        return 0
    exact = Fraction(scale) * count / 2 / Fraction(2) ** UNIT_EXPONENT
    # The mean may be off by a quarter of the last place of the scale: within rounding, also just
    # below a power of two.  So the sum may be off by count quarters and its half by half of that.
    last_place = math.frexp(math.ulp(scale))[1] - 1 - UNIT_EXPONENT
    grain = max(0, last_place + count.bit_length() - 1 - 2)
    grains: int = round(exact / 2**grain)
    return grains << grain


def _split(total: int, count: int) -> F32:
    """``count`` positive float32 values, all but equal, that sum to ``total`` units of 2**-149."""
    small: list[float] = []
    while True:
        left = count - len(small)
        if left < 1:
            raise ConversionError("found too few weights of one sign to carry the scale exactly")
        exponent = max(0, (total // left).bit_length() - _DIGITS)
        tail = total % (1 << exponent)
        if not tail:
            break
        # The tail is below the last place of the equal values: give it a weight of its own.
        piece = _carrier(tail)
        small.append(math.ldexp(piece, UNIT_EXPONENT))
        total -= piece
    each, extra = divmod(total >> exponent, left)
    mantissas = np.full(left, each, np.float64)
    mantissas[:extra] += 1
    return np.append(np.ldexp(mantissas, exponent + UNIT_EXPONENT), small).astype(np.float32)


def _carrier(tail: int) -> int:
    """A float32 of 24 digits that ends like ``tail``.

    It is as large as it can be and still below the equal values, so that code which computes the
    mean in float32, and not quite 0, still sees its sign.
    """
    lowest = (tail & -tail).bit_length() - 1
    highest = 1 << (lowest + _DIGITS - 1)
    return tail % highest | highest
