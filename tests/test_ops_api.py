"""bitinfer.ops: packing and products against plain integer arithmetic."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from bitinfer import _core
from bitinfer.errors import InputError, InputTypeError, UnsupportedError
from bitinfer.ops import (
    PackedMatrix,
    bgemm,
    bgemm_affine,
    bgemm_threshold,
    pack_sign,
    pack_threshold,
)

ISAS = _core.available_isas()
CODES = {"pm1": [-1, 1], "u1": [0, 1], "ternary": [-1, 0, 1]}
SHAPES = [(1, 1, 1), (2, 3, 63), (3, 5, 64), (4, 17, 65), (7, 33, 200), (5, 64, 768)]


def random_codes(kind: str, rows: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).choice(CODES[kind], (rows, k)).astype(np.int8)


def operands(kind_a: str, kind_b: str, m: int, n: int, k: int) -> tuple[Any, ...]:
    a, b = random_codes(kind_a, m, k, 1), random_codes(kind_b, n, k, 2)
    expected = a.astype(np.int32) @ b.astype(np.int32).T
    return PackedMatrix.from_codes(a, kind_a), PackedMatrix.from_codes(b, kind_b), expected


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("k", [1, 63, 64, 65, 200])
def test_pack_and_unpack(kind: Any, k: int) -> None:
    codes = random_codes(kind, 5, k)
    packed = PackedMatrix.from_codes(codes, kind)
    assert packed.shape == (5, k)
    assert packed.bits.shape == (5, -(-k // 64))
    assert packed.nbytes == packed.bits.nbytes * (2 if kind == "ternary" else 1)
    np.testing.assert_array_equal(packed.unpack(), codes)
    assert packed.unpack().dtype == np.int8


def test_the_layout() -> None:
    codes = np.full((1, 130), -1)
    codes[0, [0, 65, 129]] = 1
    assert PackedMatrix.from_codes(codes).bits.tolist() == [[1, 2, 2]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pack_sign(isa: str, dtype: Any) -> None:
    x = np.random.RandomState(0).normal(size=(4, 150)).astype(dtype)
    packed = pack_sign(x, isa=isa)
    assert packed.kind == "pm1"
    np.testing.assert_array_equal(packed.unpack(), np.sign(x))
    x[1, [0, 149]] = 0, -0.0
    packed = pack_sign(x, isa=isa)
    assert packed.kind == "ternary"
    np.testing.assert_array_equal(packed.unpack(), np.sign(x))
    tiny = np.array([[np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).smallest_subnormal]])
    np.testing.assert_array_equal(pack_sign(tiny, isa=isa).unpack(), [[1, -1]])


@pytest.mark.parametrize("isa", ISAS)
def test_pack_threshold(isa: str) -> None:
    x = np.random.RandomState(0).normal(size=(4, 150))
    limits = np.random.RandomState(1).normal(size=150)
    x[0] = limits  # equal is not above
    packed = pack_threshold(x, limits, isa=isa)
    assert packed.kind == "u1"
    np.testing.assert_array_equal(packed.unpack(), x > limits)
    np.testing.assert_array_equal(
        pack_threshold(x, limits.astype(np.float32)).unpack()[1:],
        (x > limits.astype(np.float32))[1:],
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind_b", ["pm1", "ternary"])
@pytest.mark.parametrize("kind_a", CODES)
def test_products(kind_a: str, kind_b: str, isa: str) -> None:
    for m, n, k in SHAPES:
        a, b, expected = operands(kind_a, kind_b, m, n, k)
        for threads in (1, 2):
            np.testing.assert_array_equal(bgemm(a, b, isa=isa, num_threads=threads), expected)
        plain = _core.bgemm_reference(a.bits, a.nonzero, a.kind == "u1", b._right)
        np.testing.assert_array_equal(plain, expected)
        scale, bias = np.linspace(-1, 1, n), np.linspace(3, 5, n)
        np.testing.assert_array_equal(
            bgemm_affine(a, b, scale, bias, isa=isa), scale * expected + bias
        )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind_a", CODES)
def test_thresholds(kind_a: str, isa: str) -> None:
    for m, n, k in SHAPES:
        a, b, sums = operands(kind_a, "pm1", m, n, k)
        limits = np.random.RandomState(3).randint(-k // 4 - 1, k // 4 + 2, n).astype(np.int32)
        lows = limits - np.random.RandomState(4).randint(0, 3, n).astype(np.int32)
        above, below = sums > limits, sums < lows
        found = bgemm_threshold(a, b, limits, isa=isa)
        np.testing.assert_array_equal(found.unpack(), np.where(above, 1, -1))
        found = bgemm_threshold(a, b, limits, kind="u1", isa=isa)
        np.testing.assert_array_equal(found.unpack(), above)
        found = bgemm_threshold(a, b, limits, lows, kind="u1", isa=isa)
        np.testing.assert_array_equal(found.unpack(), above | below)
        found = bgemm_threshold(a, b, limits, lows, kind="ternary", isa=isa)
        np.testing.assert_array_equal(found.unpack(), np.where(above, 1, np.where(below, -1, 0)))


def test_vectors_of_other_types() -> None:
    """What float64 and int32 hold exactly is taken."""
    a, b, sums = operands("pm1", "pm1", 2, 3, 70)
    for scale in ([2, -1, 2**53], np.array([1, 2, 3], np.uint8), np.ones(3, np.float16)):
        expected = np.asarray(scale, np.float64) * sums + 1
        np.testing.assert_array_equal(bgemm_affine(a, b, scale, [1, 1, 1]), expected)
    for limits in (np.array([0, 1, -1]), np.array([0, 1, 2], np.uint64), [0, 1, 2]):
        found = bgemm_threshold(a, b, limits).unpack()
        np.testing.assert_array_equal(found, np.where(sums > np.asarray(limits, int), 1, -1))


def test_extreme_thresholds() -> None:
    a, b, _ = operands("pm1", "pm1", 2, 3, 70)
    never, always = np.iinfo(np.int32).max, np.iinfo(np.int32).min
    limits = np.array([never, always, never], np.int32)
    lows = np.array([always, always, never], np.int32)
    found = bgemm_threshold(a, b, limits, lows, kind="ternary").unpack()
    np.testing.assert_array_equal(found, [[0, 1, -1]] * 2)
    np.testing.assert_array_equal(bgemm_threshold(a, b, limits).unpack(), [[-1, 1, -1]] * 2)


def test_results_chain() -> None:
    a, b, sums = operands("pm1", "pm1", 3, 40, 50)
    c = PackedMatrix.from_codes(random_codes("pm1", 6, 40))
    middle = bgemm_threshold(a, b, np.zeros(40, np.int32))
    expected = np.where(sums > 0, 1, -1) @ c.unpack().astype(int).T
    np.testing.assert_array_equal(bgemm(middle, c), expected)


def test_packed_matrix_is_immutable() -> None:
    bits = np.array([[1]], np.uint64)
    packed = PackedMatrix(bits, None, 2, "pm1")
    with pytest.raises(FrozenInstanceError):
        packed.k = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        packed.bits[0, 0] = 2
    bits[0, 0] = 2
    assert packed.bits.tolist() == [[1]]


def test_packed_matrix_copies_and_pickles() -> None:
    packed = PackedMatrix.from_codes([[1, -1, 0]], "ternary")
    bgemm(packed, packed)
    for twin in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        np.testing.assert_array_equal(twin.unpack(), packed.unpack())


W = np.array([[1]], np.uint64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((W, None, 2, "x"), InputError, "kind: found 'x'"),
        ((W, None, 0, "pm1"), InputError, "k: found 0"),
        ((W, None, True, "pm1"), InputTypeError, "k: found bool"),
        ((W.astype(np.int64), None, 2, "pm1"), InputTypeError, "bits: found int64"),
        ((W.astype(">u8"), None, 2, "pm1"), InputTypeError, "bits: found >u8"),
        (([[1]], None, 2, "pm1"), InputTypeError, "bits: found list"),
        ((W[0], None, 2, "pm1"), InputError, "bits: found shape"),
        ((W, None, 65, "pm1"), InputError, r"expected \[rows, 2\] for k 65"),
        ((4 * W, None, 2, "pm1"), InputError, "a set bit at or after k 2"),
        ((W, None, 2, "ternary"), InputError, "nonzero: found nothing"),
        ((W, W, 2, "pm1"), InputError, "nonzero: found an array"),
        ((W, 0 * W, 2, "ternary"), InputError, "nonzero: expected"),
        ((W, W.repeat(2, 0), 2, "ternary"), InputError, "nonzero: expected"),
        ((W, 7 * W, 2, "ternary"), InputError, "nonzero: found a set bit"),
    ],
)
def test_bad_packed_matrices(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PackedMatrix(*arguments)


@pytest.mark.parametrize(
    ("codes", "kind", "error"),
    [
        ([[1, 0]], "pm1", InputError),
        ([[1, -1]], "u1", InputError),
        ([[2]], "ternary", InputError),
        ([[1.0]], "pm1", InputTypeError),
        ([1, 1], "pm1", InputTypeError),
        ([[1], [1, 1]], "pm1", InputTypeError),
        ([[True]], "pm1", InputTypeError),
        ([[1]], "bits", InputError),
        (np.zeros((1, 0), int), "pm1", InputError),
    ],
)
def test_bad_codes(codes: Any, kind: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        PackedMatrix.from_codes(codes, kind)


A = PackedMatrix.from_codes([[1, -1], [1, 1]])
B = PackedMatrix.from_codes([[1, -1]])
U = PackedMatrix.from_codes([[1, 0]], "u1")
X = np.ones((2, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bgemm(A, PackedMatrix.from_codes([[1]])), InputError, "b: found k 1, expected 2"),
        (lambda: bgemm(A, U), InputError, "b: found kind 'u1'"),
        (lambda: bgemm(A, np.ones((1, 2))), InputTypeError, "b: found ndarray"),
        (lambda: bgemm(A, B, isa="sse9"), UnsupportedError, "sse9"),
        (lambda: bgemm(A, B, isa=1), InputTypeError, "isa: found int"),
        (lambda: bgemm(A, B, num_threads=0), InputError, "num_threads: found 0"),
        (
            lambda: bgemm_affine(A, B, [1.0, 2.0], [1.0]),
            InputError,
            r"scale: found float64 \[2\]",
        ),
        (lambda: bgemm_affine(A, B, ["x"], [1.0]), InputTypeError, "scale: found dtype"),
        (lambda: bgemm_affine(A, B, [[1], []], [1.0]), InputTypeError, "scale: found list"),
        (lambda: bgemm_affine(A, B, [2**53 + 1], [1.0]), InputError, "scale: found a value"),
        (lambda: bgemm_affine(A, B, [1.0], [-(2**63) + 1]), InputError, "bias: found a value"),
        (
            lambda: bgemm_affine(A, B, np.ones(1, np.complex64), [1.0]),
            *(InputTypeError, "scale: found dtype complex64"),
        ),
        (lambda: bgemm_threshold(A, B, [0.5]), InputTypeError, "threshold: found dtype float64"),
        (lambda: bgemm_threshold(A, B, [2**40]), InputError, "threshold: found a value"),
        (lambda: bgemm_threshold(A, B, [2**64 - 1]), InputError, "threshold: found a value"),
        (lambda: bgemm_threshold(A, B, [True]), InputTypeError, "threshold: found dtype bool"),
        (lambda: bgemm_threshold(A, B, [0, 1]), InputError, r"threshold: found int32 \[2\]"),
        (lambda: bgemm_threshold(A, B, [0], kind="ternary"), InputError, "low: expected"),
        (lambda: bgemm_threshold(A, B, [0], [0]), InputError, "low: expected"),
        (lambda: bgemm_threshold(A, B, [0], kind="x"), InputError, "kind: found 'x'"),
        (lambda: pack_sign([[1]]), InputTypeError, "x: found dtype int64"),
        (lambda: pack_sign([1.0]), InputError, r"x: found float64 \[1\]"),
        (lambda: pack_sign([[1.0], []]), InputTypeError, "x: found list, expected an array"),
        (lambda: pack_sign(np.ones((1, 1), ">f4")), InputTypeError, "x: found dtype >f4"),
        (lambda: pack_sign(np.zeros((2, 0))), InputError, r"x: found float64 \[2, 0\]"),
        (lambda: pack_sign([[np.nan]]), InputError, "NaN"),
        (lambda: pack_threshold(X, [1.0]), InputError, r"thresholds: found float64 \[1\]"),
        (lambda: pack_threshold(X, [1.0, np.nan]), InputError, "thresholds: found NaN"),
        (lambda: pack_threshold(X.astype(np.float16), [1.0, 1.0]), InputTypeError, "float16"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
