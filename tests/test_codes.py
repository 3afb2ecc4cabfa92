"""Codes as planes, and how bits are spelled.  The identities are what every product rests on."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitinfer.codes import GROUPS, LAYER_POINTS, POINTS, UNSIGNED, Bits, PointCodes, allowed_codes
from bitinfer.errors import InputError, InputTypeError

KINDS = [
    *(PointCodes(bits) for bits in (1, 2, 3, 4)),
    *(PointCodes(bits, False) for bits in (1, 2, 3, 4)),
    *(PointCodes(bits, False, True) for bits in (2, 3, 4)),
]


def test_names_and_ranges() -> None:
    for codes in KINDS:
        assert PointCodes.parse(codes.name) == codes
    assert (PointCodes(1).low, PointCodes(1).high) == (-1, 1)
    assert (PointCodes(4).low, PointCodes(4).high) == (-8, 7)
    assert (PointCodes(3, False).low, PointCodes(3, False).high) == (0, 7)
    assert PointCodes(2, False, True).name == "unsigned-2-from-min"


@pytest.mark.parametrize(
    "name", ["", "signed", "signed-0", "signed-9", "signed-2-from-min", "unsigned-1-from-min"]
)
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(InputError, match="codes: found"):
        PointCodes.parse(name)


def test_allowed_codes() -> None:
    assert set(allowed_codes("query")) == {f"signed-{n}" for n in (1, 2, 3, 4)}
    assert set(allowed_codes("output.in")) == {
        *(f"unsigned-{n}" for n in (1, 2, 3, 4)),
        *(f"unsigned-{n}-from-min" for n in (2, 3, 4)),
    }
    assert set(LAYER_POINTS) > UNSIGNED
    assert len(POINTS) == 11


def planes_of(kind: PointCodes, zeros: bool) -> tuple[int, tuple[int, ...]]:
    """The constant and the coefficients: signs have a second plane where an exact 0 can occur."""
    if kind.by_sign:
        return -1, (1, 1) if zeros else (2,)
    return kind.low, tuple(1 << plane for plane in range(kind.bits))


def split(codes: np.ndarray, kind: PointCodes, zeros: bool) -> np.ndarray:
    """Planes [J, ...] of codes."""
    if kind.by_sign:
        return np.stack([codes > 0, codes >= 0]) if zeros else (codes > 0)[None]
    return np.stack([(codes - kind.low) >> plane & 1 for plane in range(kind.bits)]).astype(bool)


def random_codes(
    kind: PointCodes, zeros: bool, shape: tuple[int, ...], random: np.random.Generator
) -> np.ndarray:
    codes = random.integers(kind.low, kind.high + 1, shape)
    if kind.by_sign and not zeros:
        codes[codes == 0] = 1
    return codes


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    zeros=st.booleans(),
    count=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_with_signs(kind: PointCodes, zeros: bool, count: int, seed: int) -> None:
    """S = A - sum_j c_j popcount(plane_j xor b)."""
    random = np.random.default_rng(seed)
    codes = random_codes(kind, zeros, (count,), random)
    row = random.integers(0, 2, count).astype(bool)
    constant, coefficients = planes_of(kind, zeros)
    planes = split(codes, kind, zeros)
    assert np.array_equal(constant + np.tensordot(coefficients, planes, 1), codes)
    ones = int(row.sum())
    total = sum(coefficients) * ones + constant * (2 * ones - count)
    total -= sum(
        c * int((plane ^ row).sum()) for c, plane in zip(coefficients, planes, strict=True)
    )
    assert total == int((codes * np.where(row, 1, -1)).sum())


@settings(max_examples=200, deadline=None)
@given(
    left=st.sampled_from(KINDS),
    right=st.sampled_from(KINDS),
    count=st.integers(1, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_with_halves(left: PointCodes, right: PointCodes, count: int, seed: int) -> None:
    """A code on the right is (c0 + sum c_j / 2) halves of all ones and c_j / 2 halves of +-1."""
    random = np.random.default_rng(seed)
    x = random_codes(left, True, (count,), random)
    y = random_codes(right, True, (count,), random)
    constant, coefficients = planes_of(right, True)
    planes = split(y, right, True)
    twice = (2 * constant + sum(coefficients)) * int(x.sum())  # the half of all ones
    for coefficient, plane in zip(coefficients, planes, strict=True):
        twice += coefficient * int((x * np.where(plane, 1, -1)).sum())
    assert twice == 2 * int((x * y).sum())


@settings(max_examples=100, deadline=None)
@given(table=st.lists(st.integers(0, 15), min_size=1, max_size=60))
def test_output_planes_are_parities_of_flips(table: list[int]) -> None:
    """A plane of any table of codes over sums is where it starts, xor the parity of its flips."""
    for plane in range(4):
        bits = [code >> plane & 1 for code in table]
        flips = [s for s in range(1, len(bits)) if bits[s] != bits[s - 1]]
        found = [bits[0] ^ sum(flip <= s for flip in flips) % 2 for s in range(len(bits))]
        assert found == bits


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1-1-1", "1-1-1"),
        ("32-32-32", "32-32-32"),
        ("1-1-8", "1-1-8"),
        ("1-1-1+attention=4", "1-1-1+attention=4"),
        ("1-1-1+query=4+key=4+value=4+attention.probs=4", "1-1-1+attention=4"),
        ("1-1-2+output.in=4", "1-1-2+ffn=4"),
        ("1-1-2+ffn=2+query.in=2", "1-1-2"),
        ("1-1-1+key=2+attention=4", "1-1-1+attention=4+key=2"),
        ("1-1-1+attention=4+ffn=2+pooler.in=3", "1-1-1+attention=4+ffn=2+pooler.in=3"),
        ("1-1-1" + "".join(f"+{point}=2" for point in POINTS), "1-1-2"),
        ("1-1-1+key=3", "1-1-1+key=3"),
    ],
)
def test_spelling(text: str, canonical: str) -> None:
    bits = Bits.parse(text)
    assert str(bits) == canonical
    assert Bits.parse(canonical) == bits


@given(st.lists(st.sampled_from([1, 2, 4]), min_size=11, max_size=11))
def test_spelling_is_read_back(bits: list[int]) -> None:
    points = dict(zip(POINTS, bits, strict=True))
    found = Bits.parse(str(Bits(1, 1, tuple(points[point] for point in POINTS))))
    assert {point: found.at(point) for point in POINTS} == points


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1-1",
        "2-1-1",
        "1-1-9",
        "1-1-0",
        "1-1-1+",
        "1-1-1+key",
        "1-1-1+key=9",
        "1-1-1 ",
        "1-1-01",
    ],
)
def test_not_bits(text: str) -> None:
    with pytest.raises(InputError, match="bits: found"):
        Bits.parse(text)


def test_wrong_names() -> None:
    with pytest.raises(InputError, match=r"'keys' in .* expected attention, ffn, query.in"):
        Bits.parse("1-1-1+keys=2")
    with pytest.raises(InputError, match="twice"):
        Bits.parse("1-1-1+key=2+key=4")
    with pytest.raises(InputTypeError, match="found int"):
        Bits.parse(112)  # type: ignore[arg-type]


def test_codes_of_bits() -> None:
    bits = Bits.parse("1-1-1+attention=4")
    assert bits.codes("attention.probs").name == "unsigned-4"
    assert bits.codes("query").name == "signed-4"
    assert bits.codes("output.in").name == "unsigned-1"
    with pytest.raises(InputError, match=r"pooler.in: found 32"):
        Bits.parse("1-1-32").codes("pooler.in")


def test_packable() -> None:
    packable = {"1-1-1", "1-1-4", "1-1-3+ffn=1"}
    for text in (*packable, "32-1-1", "1-32-1", "1-1-5", "1-1-32", "1-1-1+key=8"):
        assert Bits.parse(text).packable == (text in packable)


def test_groups_are_points() -> None:
    assert set(itertools.chain(*GROUPS.values())) <= set(POINTS)


def test_no_numpy() -> None:
    command = "import sys, bitinfer.codes; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)
