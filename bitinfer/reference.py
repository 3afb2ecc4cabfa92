"""The definition of what a binarized BERT computes, in float64 PyTorch.

Written from the formulas and sharing nothing with the engine, so that the two can be compared bit
by bit.  Sums of codes, small integers, are exact in float64; steps and scales are applied to them:
``y = (step * scale) * S + bias``.  Where codes count from the smallest value ``o`` of their point,
``(o * scale) * R`` is added, R the sum of the other factor; ``o`` is taken over one sequence
without its padding, so what a sequence means does not depend on what shares its batch.

With ``dtype=torch.float32`` the same network is evaluated as the published code does: codes are
multiplied by steps and scales first and the products summed in float32.  One flipped bit grows to a
different answer, so that run differs from float64, and from itself on another machine: it is there
to be compared with, never to be matched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from bitinfer.codes import TIE
from bitinfer.description import STEPS, Description
from bitinfer.errors import InputError
from bitinfer.heads import find_head

_EPSILON = 1e-12


@dataclass(frozen=True)
class ReferenceOutput:
    """Results for a padded batch [B, S], padded columns included."""

    logits: Tensor  # [B, labels]; for a span head [B, S, 2]
    pooled: Tensor  # [B, H] tanh of the pooler
    hidden: tuple[Tensor, ...]  # embedding output and the output of every layer, each [B, S, H]
    codes: dict[str, Tensor]  # int8, if traced: codes.layer{i}.query.in ... codes.pooler.in


class Reference:
    """The model of a `Description`: in float64 the definition, in float32 the published arithmetic.

    Example:
        >>> model = Reference(read_checkpoint("bit-sst2"))
        >>> model([[101, 2307, 102]]).logits.shape
        torch.Size([1, 2])
    """

    def __init__(self, description: Description, *, dtype: torch.dtype = torch.float64) -> None:
        if dtype not in (torch.float64, torch.float32):
            raise InputError(f"dtype: found {dtype}, expected torch.float64 or torch.float32")
        self.config, self.codes = description.config, description.codes
        self.tensors = {}
        for name, array in description.arrays.items():
            kind = torch.int8 if name == "embeddings.word.codes" else dtype
            self.tensors[name] = torch.tensor(np.asarray(array), dtype=kind)

    def __call__(
        self,
        input_ids: npt.ArrayLike | Tensor,
        token_type_ids: npt.ArrayLike | Tensor | None = None,
        attention_mask: npt.ArrayLike | Tensor | None = None,
        *,
        trace: bool = False,
    ) -> ReferenceOutput:
        """Evaluates a batch of integers [B, S]; asked to trace, it keeps the codes of every point.

        A token's position is its column, wherever padding is.  The mask is 1 where a token may be
        attended to.
        """
        ids = _integers("input_ids", input_ids, self.config.vocab)
        if ids.ndim != 2 or ids.shape[1] > self.config.positions or ids.numel() == 0:
            raise InputError(
                f"input_ids: found shape {list(ids.shape)}, "
                f"expected [batch, 1 .. {self.config.positions}]"
            )
        segments, mask = torch.zeros_like(ids), torch.ones_like(ids)
        if token_type_ids is not None:
            segments = _integers("token_type_ids", token_type_ids, self.config.token_types, ids)
        if attention_mask is not None:
            mask = _integers("attention_mask", attention_mask, 2, ids)
        if len(empty := (mask == 0).all(1).nonzero()):
            # The published code adds -10000 to every score, which leaves the softmax as it was: a
            # fully masked sequence behaves as if nothing were masked.
            raise InputError(f"attention_mask: row {int(empty[0])} is all 0, expected a 1")
        return self._run(ids, segments, mask == 1, trace)

    def _run(self, ids: Tensor, segments: Tensor, mask: Tensor, trace: bool) -> ReferenceOutput:
        words, scale = (self.tensors[f"embeddings.word.{part}"] for part in ("codes", "scale"))
        total = scale.expand(len(words))[ids][..., None] * words[ids]
        total = total + self.tensors["embeddings.position"][: ids.shape[1]]
        total = total + self.tensors["embeddings.token_type"][segments]
        hidden = [self._norm("embeddings.norm", total)]
        points: dict[str, _Coded] = {}
        for index in range(self.config.layers):
            hidden.append(self._layer(f"layer.{index}.", hidden[-1], mask, points))
        pooled = torch.tanh(self._linear("", "pooler", hidden[-1][:, 0], mask[:, :1], points))
        head = find_head(self.config.head, self.config.labels)
        read = hidden[-1] if head.reads == "tokens" else pooled
        logits = linear(read, self.tensors["head.weight"], self.tensors["head.bias"])
        codes = {
            f"codes.{name.replace('layer.', 'layer')}": each.codes.to(torch.int8)
            for name, each in points.items()
        }
        return ReferenceOutput(logits, pooled, tuple(hidden), codes if trace else {})

    def _layer(self, layer: str, hidden: Tensor, mask: Tensor, points: dict[str, _Coded]) -> Tensor:
        """The output of a layer; ``layer`` is what the names of its parts begin with."""
        real = mask[:, :, None]
        projected = {}
        for name in ("query", "key", "value"):
            projected[name] = self._linear(layer, name, hidden, real, points)
        for name, state in projected.items():
            by_head = state.view(*state.shape[:2], self.config.heads, -1).transpose(1, 2)
            self._encode(layer, name, by_head, real[:, None], points)
        context = self._context(layer, mask, points)
        x = self._linear(layer, "attention.output", context, real, points)
        hidden = self._norm(f"{layer}attention.norm", x + hidden)
        inner = self._linear(layer, "intermediate", hidden, real, points)
        inner = torch.relu(inner) if self.config.activation == "relu" else gelu(inner)
        x = self._linear(layer, "output", inner, real, points)
        return self._norm(f"{layer}output.norm", x + hidden)

    def _context(self, layer: str, mask: Tensor, points: dict[str, _Coded]) -> Tensor:
        query, key, value = (points[f"{layer}{name}"] for name in ("query", "key", "value"))
        scores = _product(query, key.codes.transpose(2, 3), key.step)
        scores = scores / math.sqrt(query.codes.shape[3])
        keys = mask[:, None, None]
        probs = torch.softmax(scores.masked_fill(~keys, -math.inf), dim=3)
        real = keys & mask[:, None, :, None]
        coded = self._encode(layer, "attention.probs", probs, real, points)
        coded = replace(coded, attended=keys)
        return _product(coded, value.codes, value.step).transpose(1, 2).flatten(2)

    def _linear(
        self, layer: str, name: str, x: Tensor, real: Tensor, points: dict[str, _Coded]
    ) -> Tensor:
        shifted = x + self.tensors[f"{layer}{name}.shift"]
        return self.apply(layer + name, self._encode(layer, f"{name}.in", shifted, real, points))

    def apply(self, name: str, coded: _Coded) -> Tensor:
        """The output of a linear by its name, such as ``layer.0.query``."""
        codes, scale, bias = (self.tensors[f"{name}.{part}"] for part in ("codes", "scale", "bias"))
        return _product(coded, codes.T, scale) + bias

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, _EPSILON)

    def _encode(
        self, layer: str, point: str, values: Tensor, real: Tensor, points: dict[str, _Coded]
    ) -> _Coded:
        """The codes of a point, which are put into ``points``.

        Values that are not ``real``, those of padding and of masked tokens, have no part in a
        minimum.
        """
        codes, offset = self.codes[point], None
        step = self.tensors[layer + (STEPS.get(point) or f"{point.removesuffix('.in')}.step")]
        if codes.by_sign:  # 0 where a value is exactly 0
            found = torch.sign(values)
        elif codes.bits == 1:
            found = (values > 0.5 * step).to(values.dtype)
        else:
            if codes.from_min:
                one_sequence = tuple(range(1, values.ndim))
                offset = values.masked_fill(~real, math.inf).amin(one_sequence, keepdim=True)
                values = values - offset
            found = _round(values / step).clamp(codes.low, codes.high)
        points[layer + point] = coded = _Coded(found, step, offset)
        return coded


@dataclass(frozen=True)
class _Coded:
    """Values as ``step * codes + offset``; without the offset at keys that are not ``attended``."""

    codes: Tensor
    step: Tensor
    offset: Tensor | None = None
    attended: Tensor | None = None

    def values(self) -> Tensor:
        if self.offset is None:
            return self.step * self.codes
        offset = self.offset if self.attended is None else self.offset * self.attended
        return self.step * self.codes + offset


def _product(left: _Coded, right: Tensor, scale: Tensor) -> Tensor:
    """Product of values and a matrix of codes with scales: ``left.values() @ (scale * right)``.

    In float64 sums of codes are taken first, because they are exact.  In float32 the factors are
    multiplied out first, because that is what the published code does.
    """
    if left.codes.dtype != torch.float64:
        return left.values() @ (scale * right)
    product = (left.step * scale) * (left.codes @ right)
    if left.offset is None:
        return product
    ones = torch.ones_like(left.codes)
    if left.attended is not None:
        ones = ones * left.attended
    return product + (left.offset * scale) * (ones @ right)


def _round(ratios: Tensor) -> Tensor:
    """To the nearest integer, half to even, where what is within `TIE` of a half is a half."""
    nearest = torch.round(ratios)
    tie = (ratios - nearest).abs() >= 0.5 - TIE
    return torch.where(tie, 2 * torch.round(ratios / 2), nearest)


def _integers(
    name: str, value: npt.ArrayLike | Tensor, end: int, like: Tensor | None = None
) -> Tensor:
    """An integer tensor with every value in ``0 .. end - 1``, of the shape of ``like``."""
    tensor = torch.as_tensor(value)
    if tensor.is_floating_point() or tensor.is_complex():
        raise InputError(f"{name}: found {tensor.dtype}, expected integers")
    tensor = tensor.long()
    if len(outside := tensor[(tensor < 0) | (tensor >= end)]):
        raise InputError(f"{name}: found {int(outside[0])}, expected 0 .. {end - 1}")
    if like is not None and tensor.shape != like.shape:
        raise InputError(f"{name}: found shape {[*tensor.shape]}, expected {[*like.shape]}")
    return tensor
