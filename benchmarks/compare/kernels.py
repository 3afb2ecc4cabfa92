"""Products of two matrices of bits, A [M, K] and B [N, K], by us and by others; one thread.

All start from packed operands and fill memory that they are given, if they take any; calls go
through Python, which costs each some microseconds.  The others with bits give counts that still
have to be turned into the product of the codes; int8 and floats work on the codes as numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contestants import Check, Contestant

Codes = NDArray[np.int8]


class _Product(Contestant):
    """Random codes -1 and +1 of a shape; ``_expected`` is what a call must give."""

    _expected: NDArray[Any]

    def prepare(self, cell: dict[str, Any]) -> str:
        m, n, k = cell["shape"]
        random = np.random.RandomState(1)
        a = random.choice(np.array([-1, 1], np.int8), (m, k))
        b = random.choice(np.array([-1, 1], np.int8), (n, k))
        self._load(a, b)
        self._expected = self._wanted(a.astype(np.float32) @ b.T.astype(np.float32), a, b)
        return ""

    def check(self) -> Check:
        self.prepare({"shape": (64, 256, 768)})
        found = np.asarray(self._found(self.call()))
        return Check("NumPy", float(np.abs(found - self._expected).max()), 0)

    def _load(self, a: Codes, b: Codes) -> None:
        raise NotImplementedError

    def _wanted(self, sums: NDArray[np.float32], a: Codes, b: Codes) -> NDArray[Any]:
        """By default the sums of products of codes."""
        return sums

    def _found(self, result: Any) -> Any:
        return result


class _Distances(_Product):
    """Counts of codes that differ."""

    def _wanted(self, sums: NDArray[np.float32], a: Codes, b: Codes) -> NDArray[Any]:
        distances: NDArray[np.float32] = (a.shape[1] - sums) / 2
        return distances


class Own(_Product):
    """bitinfer: codes compared with a threshold and packed again, or sums as int32."""

    def _load(self, a: Codes, b: Codes) -> None:
        from bitinfer import _core, ops

        left, right = ops.PackedMatrix.from_codes(a), ops.PackedMatrix.from_codes(b)
        operands = (left.bits, None, False, right._right)
        threshold = np.zeros(len(b), np.int32)
        isa = _core.resolve_isa(None)
        if self.kind == "codes":
            self.call = lambda: _core.bgemm_threshold(  # type: ignore[method-assign]
                *operands, threshold, None, False, isa, 1
            )
        else:
            self.call = lambda: _core.bgemm(*operands, isa, 1)  # type: ignore[method-assign]
        self._outputs = len(b)

    def call(self) -> Any:
        raise NotImplementedError("prepare first")

    def _wanted(self, sums: NDArray[np.float32], a: Codes, b: Codes) -> NDArray[Any]:
        return np.where(sums > 0, 1.0, -1.0) if self.kind == "codes" else sums

    def _found(self, result: Any) -> Any:
        from bitinfer import ops

        if self.kind == "codes":
            return ops.PackedMatrix(result[0], None, self._outputs, "pm1").unpack()
        return result


class NumKong(_Distances):
    """Distances (xor, popcount), or products of bits 0 and 1 (and, popcount)."""

    def _load(self, a: Codes, b: Codes) -> None:
        import numkong

        left, right = (np.packbits(x > 0, axis=1) for x in (a, b))
        pack = {"dots": numkong.dots_pack, "hammings": numkong.hammings_pack}[self.kind]
        self._call = {"dots": numkong.dots_packed, "hammings": numkong.hammings_packed}[self.kind]
        self._left, self._right = numkong.Tensor(left), pack(right, dtype="uint1")
        self._result = numkong.zeros((len(a), len(b)), dtype="uint32")

    def call(self) -> Any:
        return self._call(self._left, self._right, out=self._result)

    def _wanted(self, sums: NDArray[np.float32], a: Codes, b: Codes) -> NDArray[Any]:
        if self.kind == "hammings":
            return super()._wanted(sums, a, b)
        counts: NDArray[np.float32] = (a > 0).astype(np.float32) @ (b > 0).T.astype(np.float32)
        return counts


class Faiss(_Distances):
    def _load(self, a: Codes, b: Codes) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        left, right = (np.packbits(x > 0, axis=1) for x in (a, b))
        self._operands = left, right
        self._result = np.empty((len(a), len(b)), np.int32)
        arguments = (
            *map(faiss.swig_ptr, (left, right)),
            *(len(a), len(b), left.shape[1]),
            faiss.swig_ptr(self._result),
        )
        self._arguments = arguments
        self._run: Any = faiss.hammings

    def call(self) -> Any:
        self._run(*self._arguments)
        return self._result


class SimSimd(_Distances):
    def _load(self, a: Codes, b: Codes) -> None:
        self._operands = tuple(np.packbits(x > 0, axis=1) for x in (a, b))

    def call(self) -> Any:
        import simsimd

        return simsimd.cdist(*self._operands, "hamming", dtype="bin8", threads=1)


class TorchProduct(_Product):
    """int8 by oneDNN, bf16 and float32; operands laid out as a linear has them."""

    def _load(self, a: Codes, b: Codes) -> None:
        import torch

        torch.set_num_threads(1)
        dtype = {"int8": torch.int8, "bf16": torch.bfloat16, "fp32": torch.float32}[self.kind]
        left, right = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype).T
        result = torch.empty(len(a), len(b), dtype=torch.int32 if self.kind == "int8" else dtype)
        product: Any = torch._int_mm if self.kind == "int8" else torch.mm
        self._run: Any = lambda: product(left, right, out=result)

    def call(self) -> Any:
        return self._run()

    def _found(self, result: Any) -> Any:
        return result.float().numpy()


class NumpyProduct(_Product):
    def _load(self, a: Codes, b: Codes) -> None:
        self._left, self._right = a.astype(np.float32), b.astype(np.float32)
        self._result = np.empty((len(a), len(b)), np.float32)

    def call(self) -> Any:
        return np.matmul(self._left, self._right.T, out=self._result)


class Registers(Contestant):
    """As many multiply-adds as the product has by xor, popcount and add, in registers alone.

    No limit: bitinfer adds words before it counts them, which takes fewer popcounts.
    """

    def prepare(self, cell: dict[str, Any]) -> str:
        from bitinfer import _core

        m, n, k = cell["shape"]
        self._isa = _core.resolve_isa(None)
        self._probe = _core.popcount_probe
        self._steps = max(1, round(1000 * m * n * k / self._probe(self._isa, 1000)))
        return ""

    def call(self) -> Any:
        return self._probe(self._isa, self._steps)

    def check(self) -> Check:
        return Check("", 0, 0)


class Memory(Contestant):
    """Reads 256 MB, much more than a cache holds, whatever the shape."""

    _BYTES = 256 << 20

    def prepare(self, cell: dict[str, Any]) -> str:
        self._words = np.ones(self._BYTES // 8, np.uint64)
        return ""

    def call(self) -> Any:
        return self._words.max()

    def check(self) -> Check:
        return Check("", 0, 0)
