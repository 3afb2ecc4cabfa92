"""Codes and their gradients, against the formulas written out for one element in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

import torch

from bitinfer.codes import PointCodes
from bitinfer.families.bit import binarize
from bitinfer.train.quantizers import initial_step, quantize, weight_codes

FLOOR = float(np.float32(1e-5))
# All bits that a student may have, with the smallest and the largest code.
RANGES = {
    (1, True): (-1, 1),
    (2, True): (-2, 1),
    (4, True): (-8, 7),
    (8, True): (-128, 127),
    (1, False): (0, 1),
    (2, False): (0, 3),
    (4, False): (0, 15),
    (8, False): (0, 255),
}
KINDS = list(RANGES)
STEPS = [0.5, 0.37, 1.0, 1e-5, FLOOR, 2 * FLOOR, 0.0, -0.3]


def effective(step: float) -> float:
    return step if step > FLOOR else FLOOR


def expected(x: float, step: float, bits: int, signed: bool) -> tuple[float, float, float]:
    """Quantized value and its derivatives by x and by the step, before the latter is scaled."""
    low, high = RANGES[bits, signed]
    a = effective(step)
    if bits == 1 and signed:
        sign = float(x > 0) - float(x < 0)
        return a * sign, float(-a <= x <= a), sign
    ratio = x / a
    if ratio < low:
        return a * low, 0.0, float(low)
    if ratio > high:
        return a * high, 0.0, float(high)
    return a * round(ratio), 1.0, round(ratio) - ratio  # round() of Python: half to even


def samples(step: float, bits: int, signed: bool) -> list[float]:
    """Multiples of a quarter step around the borders and around 0, their neighbours, and others."""
    low, high = RANGES[bits, signed]
    a = effective(step)
    quarters = {q for centre in (low, 0, high) for q in range(4 * centre - 9, 4 * centre + 10)}
    exact = [a * q / 4 for q in sorted(quarters)]
    near = [math.nextafter(a * code, way) for code in (low, high) for way in (-math.inf, math.inf)]
    random = np.random.RandomState(0).uniform(1.3 * a * low - a, 1.3 * a * high + a, 10)
    return [*exact, *near, *random.tolist(), 1e30, -1e30]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_values_and_gradients_of_each_element(bits: int, signed: bool, step: float) -> None:
    values = samples(step, bits, signed)
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(step, dtype=torch.float64, requires_grad=True)
    codes, used = quantize(x, a, PointCodes(bits, signed))
    assert used.item() == effective(step)
    quantized = used * codes
    factor = 1 / math.sqrt(len(values) * RANGES[bits, signed][1])
    for index, value in enumerate(values):
        wanted, to_x, to_step = expected(value, step, bits, signed)
        assert quantized[index].item() == wanted
        by_x, by_step = torch.autograd.grad(quantized[index], (x, a), retain_graph=True)
        # The product rule multiplies by the step what the codes divide by it.
        assert by_x[index].item() == pytest.approx(to_x, rel=1e-15, abs=0)
        assert torch.count_nonzero(by_x) == (to_x != 0)
        assert by_step.item() == pytest.approx(to_step * factor, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_gradients_of_a_product(bits: int, signed: bool) -> None:
    """Of ``(step * codes) @ matrix`` with the step outside the sum, as a student computes it."""
    random = np.random.RandomState(1)
    x = torch.tensor(random.normal(0, 2, (3, 5)), requires_grad=True)
    matrix, weights = torch.tensor(random.normal(size=(5, 4))), random.normal(size=(3, 4))
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    codes, step = quantize(x, a, PointCodes(bits, signed))
    ((codes @ matrix) * step * torch.tensor(weights)).sum().backward()
    arriving = weights @ matrix.numpy().T
    total = 0.0
    for row, column in itertools.product(range(3), range(5)):
        _, to_x, to_step = expected(x[row, column].item(), 0.7, bits, signed)
        wanted = arriving[row, column] * to_x
        assert x.grad[row, column].item() == pytest.approx(wanted, rel=1e-12)
        total += arriving[row, column] * to_step
    wanted = total / math.sqrt(15 * RANGES[bits, signed][1])
    assert a.grad.item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_codes_of_float32_and_bfloat16(bits: int, signed: bool) -> None:
    low, high = RANGES[bits, signed]
    x = torch.arange(4 * low - 4, 4 * high + 5) / 4
    codes, _ = quantize(x, torch.tensor(1.0), PointCodes(bits, signed))
    assert codes.dtype == torch.float32
    assert {*codes.tolist()} == {*range(low, high + 1)}
    assert torch.equal(codes.bfloat16().float(), codes)


def test_a_gradient_goes_through_bfloat16() -> None:
    x = torch.tensor([-3.0, -0.2, 0.4, 5.0], requires_grad=True)
    a = torch.tensor(1.0, requires_grad=True)
    codes, step = quantize(x, a, PointCodes(2, True))
    (codes.bfloat16() @ torch.ones(4, dtype=torch.bfloat16) * step).backward()
    assert x.grad.dtype == a.grad.dtype == torch.float32
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert a.grad.item() == pytest.approx((-2 + 0.2 - 0.4 + 1) / 2)


def test_32_bits() -> None:
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    codes, used = quantize(x, step, None)
    assert torch.equal(codes, x)
    assert used.item() == 1
    assert not used.requires_grad
    assert torch.autograd.gradcheck(lambda x: math.prod(quantize(x, step, None)), (x,))


@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_finite_differences_of_the_step_outside_of_the_range(bits: int, signed: bool) -> None:
    """There the quantized value is the step times a code that stays: a true gradient."""
    low, high = RANGES[bits, signed]
    values = [0.6 * (low - 1), 0.6 * (high + 1), 10 * low - 1, 10 * high]
    if bits == 1 and signed:
        values += [0.2, -0.4, 0.0]  # sign(x) whatever the step is
    x = torch.tensor(values, dtype=torch.float64)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    factor = math.sqrt(len(values) * high)

    def quantized(step: torch.Tensor) -> torch.Tensor:
        codes, used = quantize(x, step, PointCodes(bits, signed))
        return used * codes

    numeric = (quantized(step + 1e-4) - quantized(step - 1e-4)) / 2e-4
    for index in range(len(values)):
        (found,) = torch.autograd.grad(quantized(step)[index], step)
        assert found.item() * factor == pytest.approx(numeric[index].item(), rel=1e-9)


def test_a_step_at_the_floor_in_float32() -> None:
    """The floor is float32(1e-5), as the reader of checkpoints has it."""
    for step in (1e-5, float(np.nextafter(np.float32(1e-5), np.float32(0))), 0.0, -0.0, -7.0):
        _, used = quantize(torch.ones(3), torch.tensor(step), PointCodes(1, False))
        assert used.dtype == torch.float32
        assert used.item() == FLOOR
    above = float(np.nextafter(np.float32(1e-5), np.float32(1)))
    assert quantize(torch.ones(3), torch.tensor(above), PointCodes(1, False))[1].item() == above


def test_a_step_below_the_floor_comes_back() -> None:
    step = torch.tensor(-0.2, requires_grad=True)
    optimizer = torch.optim.SGD([step], lr=0.1)
    for _ in range(20):
        codes, used = quantize(torch.ones(4), step, PointCodes(1))
        optimizer.zero_grad()
        (used * codes - 1).square().sum().backward()
        optimizer.step()
    assert step.item() > 0.5


def test_a_fixed_step_has_no_gradient() -> None:
    x = torch.tensor([0.3, 4.0], requires_grad=True)
    codes, step = quantize(x, torch.tensor(0.5), PointCodes(2, False))
    (codes * step).sum().backward()
    assert not step.requires_grad
    assert x.grad.tolist() == [1, 0]


@pytest.mark.parametrize(("bits", "signed"), KINDS)
def test_initial_step(bits: int, signed: bool) -> None:
    low, high = RANGES[bits, signed]
    codes = PointCodes(bits, signed)
    assert (codes.low, codes.high) == (low, high)
    magnitude = torch.tensor(0.3, dtype=torch.float64)
    wanted = (2 if signed else 4) * 0.3 / math.sqrt(high)
    assert initial_step(magnitude, PointCodes(bits, signed)).item() == pytest.approx(
        wanted, rel=1e-15
    )


# ---- weights


def mean_and_scale(weight: torch.Tensor, rows: bool) -> tuple[torch.Tensor, torch.Tensor]:
    size = weight.detach().abs()
    return weight.detach().mean(), size.mean(1, keepdim=True) if rows else size.mean()


@pytest.mark.parametrize("rows", [True, False])
def test_weights(rows: bool) -> None:
    """The sign of ``W - mean``, as the reader has it, and a gradient that goes straight through."""
    random = np.random.RandomState(2)
    values = random.normal(0.3, 1, (6, 8)).astype(np.float32)
    weight = torch.tensor(values.astype(np.float64), requires_grad=True)
    mean, scale = mean_and_scale(weight, rows)
    codes = weight_codes(weight, mean, scale)
    expected, expected_scale = binarize(values, layerwise=not rows)
    assert np.array_equal(codes.detach().numpy(), expected)
    found = scale[:, 0] if rows else scale[None]
    np.testing.assert_allclose(found.numpy(), expected_scale, rtol=1e-15)
    arriving = torch.tensor(random.normal(size=(6, 8)))
    (scale * codes * arriving).sum().backward()
    # Weights far beyond the scale as well: there is no clip range.
    torch.testing.assert_close(weight.grad, arriving, rtol=1e-15, atol=0)


def test_weights_equal_to_the_mean() -> None:
    values = np.array([[1, -1, 0.25], [3, -2, 0.25]], np.float32)
    weight = torch.from_numpy(values).requires_grad_()
    mean, scale = mean_and_scale(weight, rows=False)
    assert mean.item() == 0.25
    codes = weight_codes(weight, mean, scale)
    assert codes.tolist() == binarize(values, layerwise=True)[0].tolist()
    assert codes.tolist() == [[1, -1, 0], [1, -1, 0]]
    (codes * scale).sum().backward()
    assert weight.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_rows_of_zeros() -> None:
    """Their scale is 0: they stand for 0 and have no gradient, of whatever sign the codes are."""
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]], requires_grad=True)
    mean, scale = mean_and_scale(weight, rows=True)
    quantized = weight_codes(weight, mean, scale) * scale
    assert quantized.tolist() == [[0, 0], [1.5, -1.5]]
    quantized.sum().backward()
    assert weight.grad.tolist() == [[0, 0], [1, 1]]
    weight = torch.zeros(2, 3, requires_grad=True)
    mean, scale = mean_and_scale(weight, rows=False)
    codes = weight_codes(weight, mean, scale)
    assert codes.tolist() == [[0] * 3] * 2
    (codes * scale).sum().backward()
    assert weight.grad.tolist() == [[0] * 3] * 2
