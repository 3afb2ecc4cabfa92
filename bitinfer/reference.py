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
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitinfer.codes import TIE, Codes
from bitinfer.description import LINEARS, NORMS, STEPS, Description
from bitinfer.errors import InputError
from bitinfer.heads import find_head

_EPSILON = 1e-12


@dataclass(frozen=True)
class ReferenceOutput:
    """Results for a padded batch [B, S], padded columns included.

    Attributes:
        logits: [B, labels]; for a span head [B, S, 2].
        pooled: tanh of the pooler, [B, H].
        hidden: embedding output and the output of every layer, each [B, S, H].
        codes: if traced, int8 codes at every point: ``codes.layer{i}.query.in`` ...
            ``codes.pooler.in``.
    """

    logits: Tensor
    pooled: Tensor
    hidden: tuple[Tensor, ...]
    codes: dict[str, Tensor]


class Reference(nn.Module):
    """The model of a `Description`.

    Args:
        description: what a checkpoint reader returned.
        dtype: ``torch.float64`` for the definition, ``torch.float32`` for the published arithmetic.

    Example:
        >>> model = Reference(read_checkpoint("bit-sst2"))
        >>> model([[101, 2307, 102]]).logits.shape
        torch.Size([1, 2])
    """

    def __init__(self, description: Description, *, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        if dtype not in (torch.float64, torch.float32):
            raise InputError(f"dtype: found {dtype}, expected torch.float64 or torch.float32")
        self.config = description.config
        self.embeddings = _Embeddings(description, dtype)
        layers = range(self.config.layers)
        self.layers = nn.ModuleList(_Layer(description, index, dtype) for index in layers)
        self.pooler = _BinaryLinear(description, "pooler", dtype)
        self.head = _Linear(description, "head", dtype)

    def forward(
        self,
        input_ids: npt.ArrayLike | Tensor,
        token_type_ids: npt.ArrayLike | Tensor | None = None,
        attention_mask: npt.ArrayLike | Tensor | None = None,
        *,
        trace: bool = False,
    ) -> ReferenceOutput:
        """Evaluates a batch.

        Args:
            input_ids: integers [B, S].  A token's position is its column, wherever padding is.
            token_type_ids: integers [B, S], default 0.
            attention_mask: 1 where a token may be attended to, else 0, [B, S], default 1.
            trace: keep the codes of every point.

        Raises:
            InputError: naming the argument, for a shape or value that the model cannot take.
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
        codes: dict[str, Tensor] = {}
        hidden = [self.embeddings(ids, segments)]
        for index, layer in enumerate(self.layers):
            points: dict[str, _Coded] = {}
            hidden.append(layer(hidden[-1], mask, points))
            codes |= {f"codes.layer{index}.{name}": each.codes for name, each in points.items()}
        first = self.pooler.encode(hidden[-1][:, 0], mask[:, :1])
        codes["codes.pooler.in"] = first.codes
        codes = {name: each.to(torch.int8) for name, each in codes.items()} if trace else {}
        pooled = torch.tanh(self.pooler(first))
        head = find_head(self.config.head, self.config.labels)
        read = hidden[-1] if head.reads == "tokens" else pooled
        return ReferenceOutput(self.head(read), pooled, tuple(hidden), codes)


class _Embeddings(nn.Module):
    codes: Tensor
    scale: Tensor
    position: Tensor
    token_type: Tensor

    def __init__(self, description: Description, dtype: torch.dtype) -> None:
        super().__init__()
        word = description.matrices["embeddings.word"]
        self.register_buffer("codes", _tensor(word.codes, torch.int8))
        self.register_buffer("scale", _tensor(word.scale, dtype).expand(len(word.codes)))
        for name in ("position", "token_type"):
            array = description.arrays[f"embeddings.{name}"]
            self.register_buffer(name, _tensor(array, dtype))
        self.norm = _LayerNorm(description, "embeddings.norm", dtype)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        word = self.scale[ids][..., None] * self.codes[ids]
        total = word + self.position[: ids.shape[1]] + self.token_type[segments]
        output: Tensor = self.norm(total)
        return output


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


class _Quantizer(nn.Module):
    """From values to the codes of one point.

    Values that are not ``real``, those of padding and of masked tokens, have no part in a minimum.
    """

    step: Tensor

    def __init__(self, codes: Codes, step: np.float32, dtype: torch.dtype) -> None:
        super().__init__()
        self.codes = codes
        self.register_buffer("step", _tensor(step, dtype))

    def forward(self, values: Tensor, real: Tensor) -> _Coded:
        if self.codes.by_sign:  # 0 where a value is exactly 0
            return _Coded(torch.sign(values), self.step)
        if self.codes.bits == 1:
            return _Coded((values > 0.5 * self.step).to(values.dtype), self.step)
        offset = None
        if self.codes.from_min:
            one_sequence = tuple(range(1, values.ndim))
            offset = values.masked_fill(~real, math.inf).amin(one_sequence, keepdim=True)
            values = values - offset
        codes = _round(values / self.step).clamp(self.codes.low, self.codes.high)
        return _Coded(codes, self.step, offset)


class _BinaryLinear(nn.Module):
    codes: Tensor
    scale: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, description: Description, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        linear, point = description.linear(name), re.sub(r"^layer\.\d+\.", "", f"{name}.in")
        self.quantize = _Quantizer(description.codes[point], linear.step, dtype)
        self.register_buffer("codes", _tensor(linear.weight.codes, dtype))
        self.register_buffer("scale", _tensor(linear.weight.scale, dtype))
        self.register_buffer("bias", _tensor(linear.bias, dtype))
        self.register_buffer("shift", _tensor(linear.shift, dtype))

    def encode(self, x: Tensor, real: Tensor) -> _Coded:
        coded: _Coded = self.quantize(x + self.shift, real)
        return coded

    def forward(self, coded: _Coded) -> Tensor:
        return _product(coded, self.codes.T, self.scale) + self.bias


class _Layer(nn.Module):
    def __init__(self, description: Description, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = description.config.heads
        for name in LINEARS:
            self._add(name, _BinaryLinear(description, f"layer.{index}.{name}", dtype))
        for point in STEPS:
            step = description.step(index, point)
            self._add(f"{point} codes", _Quantizer(description.codes[point], step, dtype))
        for name in NORMS:
            self._add(name, _LayerNorm(description, f"layer.{index}.{name}", dtype))
        self.activation = nn.ReLU() if description.config.activation == "relu" else nn.GELU()

    def _add(self, name: str, module: nn.Module) -> None:
        self.add_module(name.replace(".", " "), module)  # PyTorch allows no dots

    def _part(self, name: str) -> Any:
        return self.get_submodule(name.replace(".", " "))

    def forward(self, hidden: Tensor, mask: Tensor, points: dict[str, _Coded]) -> Tensor:
        real = mask[:, :, None]

        def linear(name: str, x: Tensor) -> Tensor:
            module = self._part(name)
            points[f"{name}.in"] = module.encode(x, real)
            output: Tensor = module(points[f"{name}.in"])
            return output

        states = [(name, linear(name, hidden)) for name in ("query", "key", "value")]
        for name, state in states:
            points[name] = self._part(f"{name} codes")(self._by_head(state), real[:, None])
        context = self._context(mask, points)
        hidden = self._part("attention.norm")(linear("attention.output", context) + hidden)
        inner = self.activation(linear("intermediate", hidden))
        output: Tensor = self._part("output.norm")(linear("output", inner) + hidden)
        return output

    def _context(self, mask: Tensor, points: dict[str, _Coded]) -> Tensor:
        query, key, value = points["query"], points["key"], points["value"]
        scores = _product(query, key.codes.transpose(2, 3), key.step)
        scores = scores / math.sqrt(query.codes.shape[3])
        keys = mask[:, None, None]
        probs = torch.softmax(scores.masked_fill(~keys, -math.inf), dim=3)
        real = keys & mask[:, None, :, None]
        coded = points["attention.probs"] = self._part("attention.probs codes")(probs, real)
        coded = replace(coded, attended=keys)
        return _product(coded, value.codes, value.step).transpose(1, 2).flatten(2)

    def _by_head(self, state: Tensor) -> Tensor:
        """[B, S, H] as [B, heads, S, H / heads]."""
        batch, length, width = state.shape
        return state.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class _Linear(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, description: Description, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", _tensor(description.arrays[f"{name}.weight"], dtype))
        self.register_buffer("bias", _tensor(description.arrays[f"{name}.bias"], dtype))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class _LayerNorm(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPSILON)


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


def _tensor(array: npt.ArrayLike, dtype: torch.dtype) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=dtype)


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
