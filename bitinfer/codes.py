"""What the few bits of a code mean, where codes stand in a model, and how a user names them.

A code of a point stands for ``constant + sum_j coefficients[j] * plane[j]``, each plane 0 or 1, in
units of the point's step.  One identity then carries every product with a row b of +-1 of K values,
``ones`` of which are +1:

    S = A - sum_j coefficients[j] * popcount(plane[j] xor b)
    A = sum_j coefficients[j] * ones + constant * (2 * ones - K)

Nothing here knows arrays, and its import takes no time: loading a model begins with it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bitinfer.errors import InputError, InputTypeError, quote

LAYER_POINTS = (
    *("query.in", "key.in", "value.in", "query", "key", "value", "attention.probs"),
    *("attention.output.in", "intermediate.in", "output.in"),
)
# Where values become codes, in the order of computation: ten places of a layer, one of the tail.
POINTS = (*LAYER_POINTS, "pooler.in")
UNSIGNED = frozenset({"attention.probs", "output.in"})
GROUPS = {"attention": ("query", "key", "value", "attention.probs"), "ffn": ("output.in",)}

MOST_BITS = 4  # that the engine runs
FLOAT = 32  # bits of a value that is not quantized
# So close to half an odd number, a ratio of value and step counts as exactly there.
TIE = 2.0**-40

_NAME = r"(signed|unsigned)-([1-8])(-from-min)?"
_BITS = r"(1|32)-(1|32)-([1-8]|32)((?:\+[a-z.]+=(?:[1-8]|32))*)"


class PointCodes(NamedTuple):
    """The codes of one point.

    Example:
        >>> PointCodes(2, signed=False).name, PointCodes.parse("signed-4").low
        ('unsigned-2', -8)
    """

    bits: int  # 1 .. 8, of which the engine runs 1 .. 4
    signed: bool = True  # codes on both sides of 0, or from 0 on
    # A value is ``step * code + o``, ``o`` the smallest value of the point in the sequence; only of
    # unsigned codes of two bits or more.
    from_min: bool = False

    @classmethod
    def parse(cls, name: str) -> PointCodes:
        """The codes of a name, or an InputError."""
        found = re.fullmatch(_NAME, name)
        codes = found and cls(int(found[2]), found[1] == "signed", bool(found[3]))
        if not codes or (codes.from_min and (codes.signed or codes.bits == 1)):
            raise InputError(
                f"codes: found {quote(name)}, expected signed-N, unsigned-N or unsigned-N-from-min"
            )
        return codes

    @property
    def name(self) -> str:
        """As a packed file spells it."""
        sign = "signed" if self.signed else "unsigned"
        return f"{sign}-{self.bits}{'-from-min' if self.from_min else ''}"

    @property
    def low(self) -> int:
        """The smallest code.  Signed codes of one bit are -1, +1 and, exactly at 0, also 0."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return max(1, (1 << (self.bits - self.signed)) - 1)

    @property
    def largest(self) -> int:
        """The largest magnitude of a code."""
        return max(-self.low, self.high)

    @property
    def by_sign(self) -> bool:
        """Whether a code is the sign of its value, so that the step has no part in it."""
        return self.signed and self.bits == 1


def allowed_codes(point: str) -> dict[str, PointCodes]:
    """The codes that the engine runs at a point, by their names."""
    kinds = [PointCodes(bits, point not in UNSIGNED) for bits in range(1, MOST_BITS + 1)]
    if point in UNSIGNED:
        kinds += [PointCodes(bits, False, True) for bits in range(2, MOST_BITS + 1)]
    return {each.name: each for each in kinds}


class Bits(NamedTuple):
    """How many bits the parts of a network have; 32 is float.

    Example:
        >>> bits = Bits.parse("1-1-1+query=4+key=4+value=4+attention.probs=4")
        >>> str(bits), bits.at("key"), bits.at("key.in")
        ('1-1-1+attention=4', 4, 1)
    """

    weights: int
    embeddings: int
    points: tuple[int, ...]  # of each of `POINTS`, 1 .. 8 or 32

    @classmethod
    def parse(cls, text: str) -> Bits:
        """Bits as they are written: ``W-E-A``, then ``+name=n`` for a group or a point.

        Groups are ``attention`` (query, key, value and attention.probs) and ``ffn`` (output.in).
        A point named beside its group wins.
        """
        if not isinstance(text, str):
            raise InputTypeError(f"bits: found {type(text).__name__}, expected str such as '1-1-2'")
        found = re.fullmatch(_BITS, text)
        if found is None:
            raise InputError(
                f"bits: found {quote(text)}, expected W-E-A (weights, embeddings, activations) "
                "such as 1-1-2, with W and E 1 or 32 and A 1 .. 8 or 32, "
                "then +group=n for other bits, such as 1-1-1+attention=4"
            )
        weights, embeddings, activations = map(int, found.groups()[:3])
        given = [each.split("=") for each in found[4].split("+")[1:]]
        named = {name: int(bits) for name, bits in given}
        if len(named) != len(given):
            raise InputError(f"bits: found the same name twice in {quote(text)}")
        for name in named:
            if name not in GROUPS and name not in POINTS:
                known = ", ".join([*GROUPS, *POINTS])
                raise InputError(f"bits: found {quote(name)} in {quote(text)}, expected {known}")
        points = dict.fromkeys(POINTS, activations)
        for name, members in GROUPS.items():
            points |= dict.fromkeys(members, named[name]) if name in named else {}
        points |= {name: bits for name, bits in named.items() if name in POINTS}
        return cls(weights, embeddings, tuple(points.values()))

    def __str__(self) -> str:
        return min(map(self._spelled, sorted({*self.points})), key=len)

    def _spelled(self, most: int) -> str:
        """As written where ``most`` are the bits of points that are not named."""
        text = f"{self.weights}-{self.embeddings}-{most}"
        alone = [point for point in POINTS if not any(point in each for each in GROUPS.values())]
        for group, members in (*GROUPS.items(), ("", alone)):
            # Point by point, or the group with exceptions.
            ways = []
            for bits in (most, *(self.at(point) for point in members if group)):
                named = {} if bits == most else {group: bits}
                named |= {name: self.at(name) for name in members if self.at(name) != bits}
                ways.append("".join(f"+{name}={n}" for name, n in named.items()))
            text += min(ways, key=len)
        return text

    @property
    def activations(self) -> int:
        """Bits of the points that are not named in the text."""
        return int(str(self).partition("+")[0].rpartition("-")[2])

    def at(self, point: str) -> int:
        """Bits of a point."""
        return self.points[POINTS.index(point)]

    def codes(self, point: str) -> PointCodes:
        """The codes that the trainer gives a point: unsigned ones begin at 0."""
        if self.at(point) == FLOAT:
            raise InputError(f"bits at {point}: found 32, which is float, expected 1 .. 8")
        return PointCodes(self.at(point), point not in UNSIGNED)

    @property
    def packable(self) -> bool:
        """Whether the engine runs such a network."""
        return self.weights == self.embeddings == 1 and max(self.points) <= MOST_BITS
