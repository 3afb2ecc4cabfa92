"""Binary matrix products by shape, epilogue and instruction set, beside float32 ones; one thread.

Shapes are the linears of BERT-base for one sequence of 128 tokens, for one token, and for a batch.
All calls go through Python, which costs a few microseconds: it shows only at one row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from interleaved import Call, Limit, measure

from bitinfer import _core, ops

SHAPES = [(128, 768, 768), (128, 3072, 768), (128, 768, 3072), (1, 768, 768), (4096, 768, 768)]
EPILOGUES = ("codes", "sums", "affine")
ISAS = _core.available_isas()


def shape_name(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


class Product:
    """Random codes of a shape (M, N, K), and the product of them with each epilogue.

    ``codes`` compares with a threshold and packs one bit a sum, which is what most linears of a
    model do; ``sums`` stores int32; ``affine`` stores scale * sum + bias as float64.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        m, n, k = shape
        random = np.random.RandomState(1)
        self.a = ops.PackedMatrix.from_codes(random.choice([-1, 1], (m, k)))
        self.b = ops.PackedMatrix.from_codes(random.choice([-1, 1], (n, k)))
        self.threshold = random.randint(-9, 10, n).astype(np.int32)
        self.scale, self.bias = random.random_sample((2, n))
        self.operations = 2 * m * n * k

    def call(self, epilogue: str, isa: str) -> Call:
        # Below the checks of bitinfer.ops, which cost as much as a product of one row.
        operands = (self.a.bits, None, False, self.b._right)
        calls: dict[str, Call] = {
            "codes": lambda: _core.bgemm_threshold(*operands, self.threshold, None, False, isa, 1),
            "sums": lambda: _core.bgemm(*operands, isa, 1),
            "affine": lambda: _core.bgemm_affine(*operands, self.scale, self.bias, isa, 1),
        }
        return calls[epilogue]

    def check(self, epilogue: str, isa: str) -> None:
        """Equality with the product of the codes as numbers."""
        sums = (self.a.unpack().astype(np.float32) @ self.b.unpack().T.astype(np.float32)).astype(
            np.int32
        )
        found: Any = self.call(epilogue, isa)()
        if epilogue == "codes":
            codes = ops.PackedMatrix(found[0], None, len(self.threshold), "pm1").unpack()
            np.testing.assert_array_equal(codes > 0, sums > self.threshold)
        elif epilogue == "sums":
            np.testing.assert_array_equal(found, sums)
        else:
            np.testing.assert_array_equal(found, self.scale * sums + self.bias)


def float_rivals(shape: tuple[int, int, int]) -> dict[str, Call]:
    """Products of the same shape in float32, of NumPy and, if there is one, PyTorch."""
    m, n, k = shape
    a = np.random.RandomState(2).random_sample((m, k)).astype(np.float32)
    b = np.random.RandomState(3).random_sample((n, k)).astype(np.float32)
    out = np.empty((m, n), np.float32)
    rivals: dict[str, Call] = {"numpy float32": lambda: np.matmul(a, b.T, out=out)}
    try:
        import torch
    except ImportError:
        return rivals
    torch.set_num_threads(1)
    left, right, result = torch.from_numpy(a), torch.from_numpy(b).T, torch.from_numpy(out.copy())
    return {**rivals, "torch float32": lambda: torch.mm(left, right, out=result)}


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.benchmark(group="kernels")
def test_shapes(benchmark: Any, shape: tuple[int, int, int], epilogue: str) -> None:
    product = Product(shape)
    product.check(epilogue, ISAS[0])
    measure(
        benchmark,
        product.call(epilogue, ISAS[0]),
        operations=product.operations,
        limit=Limit(ISAS[0]),
        rivals=float_rivals(shape) if epilogue == "codes" else {},
        seconds=1,
        shape=shape,
        epilogue=epilogue,
        isa=ISAS[0],
        threads=1,
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.benchmark(group="isas")
def test_isas(benchmark: Any, isa: str) -> None:
    product = Product(SHAPES[0])
    product.check("codes", isa)
    measure(
        benchmark,
        product.call("codes", isa),
        operations=product.operations,
        limit=Limit(isa),
        seconds=1,
        shape=SHAPES[0],
        epilogue="codes",
        isa=isa,
        threads=1,
    )
