"""Elastic binarization and its gradients (BiT, section 3.2), as codes and steps.

A quantized tensor is ``step * codes``: the functions here return the codes, small integers, and the
caller multiplies the sum of a product by the steps.  Codes are exact in bfloat16, so that products
of codes are as well, as long as their sums are below 2^8.

Gradients, with ``x_q = step * code(x, step)``:

- ``x``: straight through where ``x / step`` lies inside the range of codes, 0 outside.
- ``step``, one bit signed: ``d x_q / d step = sign(x)``.
- ``step``, else: ``round(x / step) - x / step`` inside the range, the nearest code outside (LSQ,
  Esser et al., ICLR 2020).
- a weight: straight through; its scale counts as a constant.

What the codes do not say of these follows from the product rule where the caller multiplies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitinfer.codes import PointCodes
from bitinfer.families.bit import STEP_FLOOR


def initial_step(magnitude: Tensor, codes: PointCodes) -> Tensor:
    """The step to begin with, from the mean absolute value of the first batch.

    ``2 * mean|x| / sqrt(Q)``, Q the largest code, twice as much if unsigned (LSQ; BiT).
    """
    return (2.0 if codes.signed else 4.0) / math.sqrt(codes.high) * magnitude


def quantize(x: Tensor, step: Tensor, codes: PointCodes | None) -> tuple[Tensor, Tensor]:
    """Codes of a tensor, its shift added, and the step to multiply their products by.

    The gradient of the learned step is scaled by ``1 / sqrt(numel * Q)``.  Without codes the tensor
    is left as it is, with a step of 1.
    """
    if codes is None:
        return x, step.new_ones(())
    factor, value = 1 / math.sqrt(x.numel() * codes.high), step.detach()
    # The gradient reaches a step below the floor too: it must be able to come back.
    step = value.clamp_min(float(STEP_FLOOR)) + factor * (step - value)
    # The product rule gives sum(gradient * code) to the step where the caller multiplies: of a sign
    # that is all, inside the range x / step is still to be taken from it.
    ratio = (x / (step.detach() if codes.by_sign else step)).clamp(codes.low, codes.high)
    exact = torch.sign(x) if codes.by_sign else ratio.round()
    return _straight_through(exact, ratio), step


def weight_codes(weight: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Signs of ``weight - mean``, for a weight [N, K] that stands for ``scale * codes``.

    The scale, of the matrix or of its rows [N, 1], and the mean are constants.
    """
    # A row of zeros stands for 0 whatever its codes are: no gradient arrives, none goes on.
    return _straight_through(
        torch.sign(weight - mean), weight * torch.where(scale > 0, 1 / scale, 0)
    )


def _straight_through(values: Tensor, smooth: Tensor) -> Tensor:
    """Exactly the values, with the gradient of what they are rounded from."""
    return values.detach() + (smooth - smooth.detach())
