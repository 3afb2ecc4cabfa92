"""The engine's kernels on their own: packed bits and the matrix products that popcount.

Codes are the values of a binarized array in units of its scale: -1 / +1 (``"pm1"``), 0 / 1
(``"u1"``) or -1 / 0 / +1 (``"ternary"``).  Bit ``k % 64`` of word ``k // 64`` of a row is set
where code k is +1; unused bits of the last word are zero.  Every sum is an exact int32 and does not
depend on the instruction set or the number of threads.

>>> a = pack_sign(np.random.default_rng(0).normal(size=(2, 100)))
>>> b = pack_sign(np.random.default_rng(1).normal(size=(3, 100)))
>>> np.array_equal(bgemm(a, b), a.unpack().astype(int) @ b.unpack().T)
True

All functions raise `InputError` for a shape or value that is not allowed, `InputTypeError` for a
type, and `UnsupportedError` for an instruction set that this machine or build lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitinfer import _core
from bitinfer.bits import pack_bits, unpack_bits, words_for
from bitinfer.checks import check_choice, check_engine, check_int
from bitinfer.errors import InputError, InputTypeError
from bitinfer.runtime.inputs import read_array

__all__ = [
    "PackedMatrix",
    "bgemm",
    "bgemm_affine",
    "bgemm_threshold",
    "pack_sign",
    "pack_threshold",
]

Kind = Literal["pm1", "u1", "ternary"]
Words = NDArray[np.uint64]

_CODES = {"pm1": (-1, 1), "u1": (0, 1), "ternary": (-1, 0, 1)}


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix of codes, one bit each (two for ``"ternary"``).  Immutable.

    Attributes:
        bits: uint64 [rows, ceil(k / 64)]; a set bit is +1.
        nonzero: For ``"ternary"`` uint64 of the same shape, a set bit is -1 or +1; else ``None``.
        k: Codes in a row.
        kind: ``"pm1"``, ``"u1"`` or ``"ternary"``.

    >>> PackedMatrix.from_codes([[1, -1, -1]]).bits
    array([[1]], dtype=uint64)
    """

    bits: Words
    nonzero: Words | None
    k: int
    kind: Kind

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, _CODES)
        object.__setattr__(self, "k", check_int("k", self.k, 1))
        object.__setattr__(self, "bits", _plane("bits", self.bits, self.k))
        if (self.nonzero is not None) != (self.kind == "ternary"):
            found = "nothing" if self.nonzero is None else "an array"
            raise InputError(f"nonzero: found {found}, expected one for kind 'ternary' only")
        if self.nonzero is not None:
            nonzero = _plane("nonzero", self.nonzero, self.k)
            object.__setattr__(self, "nonzero", nonzero)
            if nonzero.shape != self.bits.shape or (self.bits & ~nonzero).any():
                raise InputError(
                    "nonzero: expected the shape of bits, and a set bit where bits has"
                )

    @classmethod
    def from_codes(cls, codes: ArrayLike, kind: Kind = "pm1") -> PackedMatrix:
        """Pack integer codes [rows, k]; each must be one that `kind` has."""
        check_choice("kind", kind, _CODES)
        array = read_array("codes", codes)
        if array.dtype.kind not in "iu" or array.ndim != 2:
            found = f"codes: found {array.dtype} {array.shape}"
            raise InputTypeError(f"{found}, expected integers [rows, k]")
        if not np.isin(array, _CODES[kind]).all():
            raise InputError(f"codes: expected only {_CODES[kind]} for kind {kind!r}")
        nonzero = pack_bits(array != 0) if kind == "ternary" else None
        return cls(pack_bits(array > 0), nonzero, array.shape[1], kind)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, k)"""
        return len(self.bits), self.k

    @property
    def nbytes(self) -> int:
        return self.bits.nbytes + (0 if self.nonzero is None else self.nonzero.nbytes)

    def unpack(self) -> NDArray[np.int8]:
        """The codes, int8 [rows, k]."""
        ones = unpack_bits(self.bits, self.k).view(np.int8)
        if self.kind == "u1":
            return ones
        signs = 2 * ones - 1
        if self.nonzero is None:
            return signs
        return signs * unpack_bits(self.nonzero, self.k)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedMatrix, (self.bits, self.nonzero, self.k, self.kind)

    @cached_property
    def _right(self) -> _core.RightOperand:
        """The rows in the order in which kernels read the right-hand side."""
        if self.kind == "u1":
            raise InputError("b: found kind 'u1', expected 'pm1' or 'ternary' on the right")
        return _core.RightOperand(self.bits, self.nonzero, self.k)


def pack_sign(x: ArrayLike, *, isa: str | None = None) -> PackedMatrix:
    """Pack the signs of x, float32 or float64 [M, K].

    A value that is exactly 0 has sign 0: the result is ``"ternary"`` if there is one, else
    ``"pm1"``.  NaN is not allowed.

    >>> pack_sign([[0.5, -2.0]]).unpack()
    array([[ 1, -1]], dtype=int8)
    """
    values = _floats("x", x)
    bits, nonzero = _core.pack_greater(values, None, check_engine(None, isa)["isa"])
    return PackedMatrix(bits, nonzero, values.shape[1], "pm1" if nonzero is None else "ternary")


def pack_threshold(x: ArrayLike, thresholds: ArrayLike, *, isa: str | None = None) -> PackedMatrix:
    """Pack ``x > thresholds`` as 0 / 1: x float32 or float64 [M, K], thresholds float64 [K].

    >>> pack_threshold([[0.5, 2.0]], [1.0, 1.0]).unpack()
    array([[0, 1]], dtype=int8)
    """
    values = _floats("x", x)
    limits = _vector("thresholds", thresholds, np.float64)
    bits, _ = _core.pack_greater(values, limits, check_engine(None, isa)["isa"])
    return PackedMatrix(bits, None, values.shape[1], "u1")


def bgemm(
    a: PackedMatrix, b: PackedMatrix, *, isa: str | None = None, num_threads: int | None = None
) -> NDArray[np.int32]:
    """Products of all rows: ``a.unpack() @ b.unpack().T``, int32 [M, N].

    ``a`` is [M, K] of any kind, ``b`` [N, K] of kind ``"pm1"`` or ``"ternary"``, rearranged for the
    kernels once and then kept.  ``isa`` and ``num_threads`` are those of :func:`bitinfer.load`.

    >>> ones = PackedMatrix.from_codes([[1, 1, 1]])
    >>> bgemm(ones, PackedMatrix.from_codes([[1, 1, 1], [-1, 1, 1]]))
    array([[3, 1]], dtype=int32)
    """
    return _core.bgemm(*_operands(a, b), **check_engine(num_threads, isa))


def bgemm_affine(
    a: PackedMatrix,
    b: PackedMatrix,
    scale: ArrayLike,
    bias: ArrayLike,
    *,
    isa: str | None = None,
    num_threads: int | None = None,
) -> NDArray[np.float64]:
    """``scale * bgemm(a, b) + bias``, float64 [M, N]; scale and bias are float64 [N].

    >>> ones = PackedMatrix.from_codes([[1, 1, 1]])
    >>> bgemm_affine(ones, ones, [0.5], [1.0])
    array([[2.5]])
    """
    operands = _operands(a, b)
    scales, biases = _vector("scale", scale, np.float64), _vector("bias", bias, np.float64)
    return _core.bgemm_affine(*operands, scales, biases, **check_engine(num_threads, isa))


def bgemm_threshold(
    a: PackedMatrix,
    b: PackedMatrix,
    threshold: ArrayLike,
    low: ArrayLike | None = None,
    *,
    kind: Kind = "pm1",
    isa: str | None = None,
    num_threads: int | None = None,
) -> PackedMatrix:
    """Compare the products ``S = bgemm(a, b)`` with integers and keep the codes, [M, N].

    Args:
        threshold: int32 [N]: a code is +1 where ``S > threshold``.
        low: int32 [N], needed for ``"ternary"``: the code is -1 where ``S < low``, else 0.  For
            ``"u1"`` it may be given, and the code is 1 also where ``S < low``.
        kind: Codes to make.  Where S is not above the threshold, ``"pm1"`` gives -1, ``"u1"`` 0.

    >>> ones = PackedMatrix.from_codes([[1, 1, 1]])
    >>> bgemm_threshold(ones, ones, [2]).unpack()
    array([[1]], dtype=int8)
    """
    check_choice("kind", kind, _CODES)
    operands = _operands(a, b)
    limits = _vector("threshold", threshold, np.int32)
    lows = None if low is None else _vector("low", low, np.int32)
    ternary = kind == "ternary"
    if (ternary and lows is None) or (kind == "pm1" and lows is not None):
        raise InputError(
            f"low: expected for kind 'ternary', possible for 'u1', found kind {kind!r}"
        )
    bits, nonzero = _core.bgemm_threshold(
        *operands, limits, lows, ternary, **check_engine(num_threads, isa)
    )
    return PackedMatrix(bits, nonzero, b.shape[0], kind)


def _operands(
    a: PackedMatrix, b: PackedMatrix
) -> tuple[Words, Words | None, bool, _core.RightOperand]:
    for name, matrix in (("a", a), ("b", b)):
        if not isinstance(matrix, PackedMatrix):
            raise InputTypeError(f"{name}: found {type(matrix).__name__}, expected PackedMatrix")
    if a.k != b.k:
        raise InputError(f"b: found k {b.k}, expected {a.k} as in a")
    return a.bits, a.nonzero, a.kind == "u1", b._right


# The native code checks the shapes.


def _floats(name: str, value: Any) -> NDArray[Any]:
    array = read_array(name, value)
    if array.dtype not in (np.float32, np.float64):
        raise InputTypeError(f"{name}: found dtype {array.dtype}, expected float32 or float64")
    return np.asarray(array, order="C")


def _vector(name: str, value: Any, dtype: Any) -> NDArray[Any]:
    """Numbers as a type, if no value changes on the way: 2**60 + 1 is not a float64."""
    array = read_array(name, value)
    is_integer = array.dtype.kind in "iu"
    if not is_integer and not (array.dtype.kind == "f" and np.can_cast(array.dtype, dtype)):
        raise InputTypeError(f"{name}: found dtype {array.dtype}, expected {np.dtype(dtype)}")
    converted = np.asarray(array, dtype=dtype, order="C")
    if is_integer and converted.tolist() != array.tolist():
        raise InputError(f"{name}: found a value that {np.dtype(dtype)} cannot hold")
    return converted


def _plane(name: str, value: Any, k: int) -> Words:
    """A read-only plane of bits, after checking its type, its width and the unused bits."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint64:
        found = getattr(value, "dtype", type(value).__name__)
        raise InputTypeError(f"{name}: found {found}, expected an array of uint64")
    words = words_for(k)
    if value.ndim != 2 or value.shape[1] != words:
        raise InputError(f"{name}: found shape {value.shape}, expected [rows, {words}] for k {k}")
    plane = np.array(value, order="C")
    used = k - 64 * (words - 1)
    if used < 64 and (plane[:, -1] >> np.uint64(used)).any():
        raise InputError(f"{name}: found a set bit at or after k {k}, expected zeros")
    plane.flags.writeable = False
    return plane
