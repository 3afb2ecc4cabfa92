"""The definition of what a binarized BERT computes, in float64 PyTorch.

Written from the formulas and sharing nothing with the engine, so that the two can be compared bit
by bit.  Every matrix product is one of codes, small integers, whose float64 sums are exact; steps
and scales are applied to the exact sum:  ``y = (step * scale) * S + bias``.

With ``dtype=torch.float32`` the same network is evaluated as the published code does: codes are
multiplied by their steps and scales first and the products summed in float32.  A binarized network
amplifies one flipped bit to a different answer, so that run differs from float64, and from itself
on another machine.  It is there to be compared with, never to be matched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitinfer import description as neutral
from bitinfer.errors import InputError

__all__ = ["Reference", "ReferenceOutput"]

_EPSILON = 1e-12


@dataclass(frozen=True)
class ReferenceOutput:
    """Results for a padded batch [B, S], padded columns included.

    Attributes:
        logits: [B, labels]; for a span head [B, S, 2].
        pooled: tanh of the pooler, [B, H].
        hidden: embedding output and the output of every layer, each [B, S, H].
        codes: if traced, int8 codes at every binarization point: ``codes.layer{i}.query.in`` ...
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
        >>> model = Reference(read_bit("bit-sst2"))
        >>> model([[101, 2307, 102]]).logits.shape
        torch.Size([1, 2])
    """

    def __init__(
        self, description: neutral.Description, *, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        if dtype not in (torch.float64, torch.float32):
            raise InputError(f"dtype: found {dtype}, expected torch.float64 or torch.float32")
        config = description.config
        self.config = config
        self.embeddings = _Embeddings(description, dtype)
        self.layers = nn.ModuleList(_Layer(config, each, dtype) for each in description.layers)
        self.pooler = _BinaryLinear(description.pooler, dtype)
        self.head = _Linear(description.head_weight, description.head_bias, dtype)

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
            trace: keep the codes of every binarization point.

        Raises:
            InputError: naming the argument, for a shape or value that the model cannot take.
        """
        ids, segments, mask = self._checked(input_ids, token_type_ids, attention_mask)
        codes: dict[str, Tensor] = {}
        hidden = [self.embeddings(ids, segments)]
        for index, layer in enumerate(self.layers):
            points: dict[str, Tensor] = {}
            hidden.append(layer(hidden[-1], mask, points))
            if trace:
                codes |= {
                    f"codes.layer{index}.{name}": c.to(torch.int8) for name, c in points.items()
                }
        first = self.pooler.signed_codes(hidden[-1][:, 0])
        if trace:
            codes["codes.pooler.in"] = first.to(torch.int8)
        pooled = torch.tanh(self.pooler(first))
        read = hidden[-1] if self.config.head == "span" else pooled
        return ReferenceOutput(self.head(read), pooled, tuple(hidden), codes)

    def _checked(
        self,
        input_ids: npt.ArrayLike | Tensor,
        token_type_ids: npt.ArrayLike | Tensor | None,
        attention_mask: npt.ArrayLike | Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ids = _integers("input_ids", input_ids, self.config.vocab)
        if ids.ndim != 2 or ids.shape[1] > self.config.positions or ids.numel() == 0:
            raise InputError(
                f"input_ids: found shape {list(ids.shape)}, "
                f"expected [batch, 1 .. {self.config.positions}]"
            )
        if token_type_ids is None:
            segments = torch.zeros_like(ids)
        else:
            segments = _integers("token_type_ids", token_type_ids, self.config.token_types)
        if attention_mask is None:
            mask = torch.ones_like(ids)
        else:
            mask = _integers("attention_mask", attention_mask, 2)
        for name, value in (("token_type_ids", segments), ("attention_mask", mask)):
            if value.shape != ids.shape:
                raise InputError(
                    f"{name}: found shape {list(value.shape)}, expected {list(ids.shape)}"
                )
        empty = (mask == 0).all(1)
        if empty.any():
            # The published code adds -10000 to every score, which leaves the softmax as it was: a
            # fully masked sequence behaves as if nothing were masked.
            row = int(empty.nonzero()[0])
            raise InputError(f"attention_mask: row {row} is all 0, expected at least one 1")
        return ids, segments, mask == 1


class _Embeddings(nn.Module):
    codes: Tensor
    scale: Tensor
    position: Tensor
    token_type: Tensor

    def __init__(self, description: neutral.Description, dtype: torch.dtype) -> None:
        super().__init__()
        word = description.word
        self.register_buffer("codes", _tensor(word.codes, torch.int8))
        self.register_buffer("scale", _tensor(word.scale, dtype).expand(len(word.codes)))
        self.register_buffer("position", _tensor(description.position, dtype))
        self.register_buffer("token_type", _tensor(description.token_type, dtype))
        self.norm = _LayerNorm(description.embedding_norm, dtype)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        word = self.scale[ids][..., None] * self.codes[ids]
        total = word + self.position[: ids.shape[1]] + self.token_type[segments]
        output: Tensor = self.norm(total)
        return output


class _Layer(nn.Module):
    def __init__(self, config: neutral.Config, layer: neutral.Layer, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention = _Attention(config, layer, dtype)
        self.attention_output = _BinaryLinear(layer.attention_output, dtype)
        self.attention_norm = _LayerNorm(layer.attention_norm, dtype)
        self.intermediate = _BinaryLinear(layer.intermediate, dtype)
        self.activation = nn.ReLU() if config.activation == "relu" else nn.GELU()
        self.output = _BinaryLinear(layer.output, dtype)
        self.output_norm = _LayerNorm(layer.output_norm, dtype)

    def forward(self, hidden: Tensor, mask: Tensor, points: dict[str, Tensor]) -> Tensor:
        context = self.attention(hidden, mask, points)
        codes = points["attention.output.in"] = self.attention_output.signed_codes(context)
        hidden = self.attention_norm(self.attention_output(codes) + hidden)
        codes = points["intermediate.in"] = self.intermediate.signed_codes(hidden)
        inner = self.activation(self.intermediate(codes))
        codes = points["output.in"] = self.output.unsigned_codes(inner)
        output: Tensor = self.output_norm(self.output(codes) + hidden)
        return output


class _Attention(nn.Module):
    query_step: Tensor
    key_step: Tensor
    value_step: Tensor
    probs_step: Tensor

    def __init__(self, config: neutral.Config, layer: neutral.Layer, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = _BinaryLinear(layer.query, dtype)
        self.key = _BinaryLinear(layer.key, dtype)
        self.value = _BinaryLinear(layer.value, dtype)
        self.register_buffer("query_step", _tensor(layer.query_step, dtype))
        self.register_buffer("key_step", _tensor(layer.key_step, dtype))
        self.register_buffer("value_step", _tensor(layer.value_step, dtype))
        self.register_buffer("probs_step", _tensor(layer.probs_step, dtype))

    def forward(self, hidden: Tensor, mask: Tensor, points: dict[str, Tensor]) -> Tensor:
        points["query.in"] = self.query.signed_codes(hidden)
        points["key.in"] = self.key.signed_codes(hidden)
        points["value.in"] = self.value.signed_codes(hidden)
        query = points["query"] = self._heads(torch.sign(self.query(points["query.in"])))
        key = points["key"] = self._heads(torch.sign(self.key(points["key.in"])))
        value = points["value"] = self._heads(torch.sign(self.value(points["value.in"])))
        scores = _product(query, self.query_step, key.transpose(2, 3), self.key_step)
        scores = scores / math.sqrt(query.shape[3])
        probs = torch.softmax(scores.masked_fill(~mask[:, None, None], -math.inf), dim=3)
        codes = points["attention.probs"] = (probs > 0.5 * self.probs_step).to(probs.dtype)
        context = _product(codes, self.probs_step, value, self.value_step)
        return context.transpose(1, 2).flatten(2)

    def _heads(self, codes: Tensor) -> Tensor:
        """[B, S, H] as [B, heads, S, H / heads]."""
        batch, length, width = codes.shape
        return codes.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class _BinaryLinear(nn.Module):
    codes: Tensor
    scale: Tensor
    bias: Tensor
    shift: Tensor
    step: Tensor

    def __init__(self, linear: neutral.BinaryLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("codes", _tensor(linear.weight.codes, dtype))
        self.register_buffer("scale", _tensor(linear.weight.scale, dtype))
        self.register_buffer("bias", _tensor(linear.bias, dtype))
        self.register_buffer("shift", _tensor(linear.shift, dtype))
        self.register_buffer("step", _tensor(linear.step, dtype))

    def signed_codes(self, x: Tensor) -> Tensor:
        """Codes -1, 0, +1 of an input; 0 only where input and shift cancel."""
        return torch.sign(x + self.shift)

    def unsigned_codes(self, x: Tensor) -> Tensor:
        """Codes 0, 1 of an input: 1 strictly above half a step."""
        return (x + self.shift > 0.5 * self.step).to(x.dtype)

    def forward(self, codes: Tensor) -> Tensor:
        return _product(codes, self.step, self.codes.T, self.scale) + self.bias


class _Linear(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: neutral.F32, bias: neutral.F32, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", _tensor(weight, dtype))
        self.register_buffer("bias", _tensor(bias, dtype))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class _LayerNorm(_Linear):
    def __init__(self, norm: neutral.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__(norm.weight, norm.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPSILON)


def _product(left: Tensor, left_step: Tensor, right: Tensor, right_step: Tensor) -> Tensor:
    """Product of two matrices of codes and steps: ``(left_step * left) @ (right_step * right)``.

    In float64 the sum of codes is taken first, because it is exact.  In float32 the factors are
    multiplied out first, because that is what the published code does.
    """
    if left.dtype == torch.float64:
        return (left_step * right_step) * (left @ right)
    return (left_step * left) @ (right_step * right)


def _tensor(array: npt.ArrayLike, dtype: torch.dtype) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=dtype)


def _integers(name: str, value: npt.ArrayLike | Tensor, end: int) -> Tensor:
    """An integer tensor with every value in ``0 .. end - 1``."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: not an array of integers: {error}") from error
    if tensor.is_floating_point() or tensor.is_complex():
        raise InputError(f"{name}: found {tensor.dtype}, expected integers")
    tensor = tensor.long()
    outside = tensor[(tensor < 0) | (tensor >= end)]
    if len(outside):
        raise InputError(f"{name}: found {int(outside[0])}, expected 0 .. {end - 1}")
    return tensor
