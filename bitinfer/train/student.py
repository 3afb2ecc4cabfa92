"""The network that is trained: a BERT with quantized weights, embeddings and activations.

Its parameters have the published names, so that its state is a checkpoint.  With few bits it
computes what `bitinfer.reference` defines, with 32 bits what a float BERT does, which also makes it
the first teacher.  It differs from the published code in one point: unsigned codes of more than one
bit begin at 0, not at the minimum of the batch, on which the answers would depend.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitinfer.codes import FLOAT, POINTS, Bits
from bitinfer.config import Config
from bitinfer.train.data import Batch
from bitinfer.train.quantizers import initial_step, quantize, weight_codes

_EPSILON = 1e-12  # of the layer norms of every BiT model


@dataclass(frozen=True)
class Outputs:
    """What a student is taught to reproduce."""

    logits: Tensor  # [B, outputs]
    hidden: tuple[Tensor, ...]  # of embeddings and every layer, [B, S, H]
    scores: tuple[Tensor, ...]  # of every layer before softmax and mask, [B, heads, S, S]


@dataclass(frozen=True)
class _Numerics:
    """How a network computes: its bits, the type of the factors of its products, its norms."""

    bits: Bits
    dtype: torch.dtype
    epsilon: float


class Student(nn.Module):
    """A BERT classifier with the given bits.  Its parameters are to be loaded.

    ``dtype`` is that of the factors of matrix products; sums, norms and the residual stream have
    the type of the parameters.
    """

    def __init__(
        self,
        config: Config,
        bits: Bits,
        *,
        dtype: torch.dtype = torch.float32,
        epsilon: float = _EPSILON,
    ) -> None:
        super().__init__()
        self.config, self.bits = config, bits
        self.numerics = _Numerics(bits, dtype, epsilon)
        layers = [_Layer(config, self.numerics) for _ in range(config.layers)]
        pooler = _Linear(config.hidden, config.hidden, self.numerics, "pooler.in")
        self.bert = nn.ModuleDict(
            {
                "embeddings": _Embeddings(config, self.numerics),
                "encoder": nn.ModuleDict({"layer": nn.ModuleList(layers)}),
                "pooler": nn.ModuleDict({"dense": pooler}),
            }
        )
        self.classifier = nn.Linear(config.hidden, config.labels)

    def forward(
        self, ids: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
    ) -> Outputs:
        """Evaluates a batch as `Batch` has it; a row needs a token, default is no padding."""
        segments = torch.zeros_like(ids) if segments is None else segments
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        parts: Any = self.bert
        hidden, scores = [parts["embeddings"](ids, segments)], []
        for layer in parts["encoder"]["layer"]:
            output, score = layer(hidden[-1], mask)
            hidden.append(output)
            scores.append(score)
        pooled = torch.tanh(parts["pooler"]["dense"](hidden[-1][:, 0], mask[:, 0]))
        return Outputs(self.classifier(pooled), tuple(hidden), tuple(scores))

    def logits(self, batch: Batch) -> Tensor:
        """Its answers alone, [B, outputs]."""
        outputs: Outputs = self(*batch.inputs)
        return outputs.logits

    @torch.no_grad()
    def begin_steps(
        self, ids: Tensor, segments: Tensor, mask: Tensor, points: Collection[str] = POINTS
    ) -> None:
        """Take steps of points from a batch, each from the values that those before give."""
        quantizers = [each for each in self.modules() if isinstance(each, Quantizer)]
        for each in quantizers:
            each.fresh = each.point in points
        self(ids, segments, mask)
        for each in quantizers:
            each.fresh = False

    def twin(self, config: Config, bits: Bits) -> Student:
        """A published model of other kinds or bits with these parameters, type and device."""
        other = type(self)(config, bits, dtype=self.numerics.dtype).to(self.classifier.weight)
        other.load_state_dict(self.state_dict())
        return other


class Quantizer(nn.Module):
    """Makes the codes of a point, with a step that its owner holds, by its published name."""

    def __init__(self, numerics: _Numerics, point: str) -> None:
        super().__init__()
        self.point = point
        self.codes = None if numerics.bits.at(point) == FLOAT else numerics.bits.codes(point)
        self.dtype = numerics.dtype
        self.fresh = False

    def forward(self, x: Tensor, step: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and step; ``real`` [B, S] or what broadcasts to x tells values from padding."""
        if self.fresh and self.codes is not None:
            magnitude = x.abs().mul(real).sum() / real.expand_as(x).sum()
            step.copy_(initial_step(magnitude, self.codes))
        codes, step = quantize(x, step, self.codes)
        return codes.to(self.dtype), step


class _Linear(nn.Module):
    """``x W^T + b`` of the codes of a shifted input and a weight."""

    def __init__(self, inputs: int, outputs: int, numerics: _Numerics, point: str) -> None:
        super().__init__()
        self.bits = numerics.bits.weights
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.move = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(inputs))})
        self.input_clip_val = nn.Parameter(torch.ones(()))
        self.quantizer = Quantizer(numerics, point)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        codes, step = self.quantizer(x + self.move["bias"], self.input_clip_val, real[..., None])
        weight: Tensor = self.weight
        if self.bits != FLOAT:
            constant = weight.detach()
            scale = constant.abs().mean(1)
            weight = weight_codes(weight, constant.mean(), scale[:, None])
            step = step * scale
        output: Tensor = functional.linear(codes, weight.to(codes.dtype)).to(x.dtype) * step
        return output + self.bias


class _Embeddings(nn.Module):
    def __init__(self, config: Config, numerics: _Numerics) -> None:
        super().__init__()
        self.bits = numerics.bits.embeddings
        # Only rows of words that occur have a gradient, and a batch has few.
        self.word_embeddings = nn.Embedding(config.vocab, config.hidden, sparse=True)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(config.token_types, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=numerics.epsilon)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        words = self.word_embeddings(ids)
        if self.bits != FLOAT:
            scale = words.detach().abs().mean(-1, keepdim=True)
            mean = self.word_embeddings.weight.detach().mean()
            words = weight_codes(words, mean, scale) * scale
        total = words + self.position_embeddings.weight[: ids.shape[1]]
        output: Tensor = self.LayerNorm(total + self.token_type_embeddings(segments))
        return output


class _Layer(nn.Module):
    def __init__(self, config: Config, numerics: _Numerics) -> None:
        super().__init__()
        attention = _Attention(config, numerics)
        output = _Output(config.hidden, config, numerics, "attention.output.in")
        self.attention = nn.ModuleDict({"self": attention, "output": output})
        dense = _Linear(config.hidden, config.intermediate, numerics, "intermediate.in")
        self.intermediate = nn.ModuleDict({"dense": dense})
        self.activation = functional.relu if config.activation == "relu" else functional.gelu
        self.output = _Output(config.intermediate, config, numerics, "output.in")

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        context, scores = self.attention["self"](hidden, mask)
        hidden = self.attention["output"](context, hidden, mask)
        inner = self.activation(self.intermediate["dense"](hidden, mask))
        return self.output(inner, hidden, mask), scores


class _Output(nn.Module):
    """Back to the residual stream."""

    def __init__(self, inputs: int, config: Config, numerics: _Numerics, point: str) -> None:
        super().__init__()
        self.dense = _Linear(inputs, config.hidden, numerics, point)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=numerics.epsilon)

    def forward(self, x: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self.LayerNorm(self.dense(x, mask) + residual)
        return output


class _Attention(nn.Module):
    def __init__(self, config: Config, numerics: _Numerics) -> None:
        super().__init__()
        self.heads = config.heads
        points = {name: name for name in ("query", "key", "value")}
        for name in points:
            setattr(self, name, _Linear(config.hidden, config.hidden, numerics, f"{name}.in"))
        points["attn"] = "attention.probs"
        for name in points:
            setattr(self, f"clip_{name}", nn.Parameter(torch.ones(())))
        quantizers = {name: Quantizer(numerics, point) for name, point in points.items()}
        self.quantizers = nn.ModuleDict(quantizers)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = [self._codes(name, hidden, mask) for name in ("query", "key", "value")]
        (query, query_step), (key, key_step), (value, value_step) = found
        factor = query_step * key_step / math.sqrt(query.shape[3])
        scores = (query @ key.transpose(2, 3)).to(hidden.dtype) * factor
        columns = mask[:, None, None]
        probs = torch.softmax(scores.masked_fill(~columns, -math.inf), dim=3)
        real = columns & mask[:, None, :, None]
        codes, step = self.quantizers["attn"](probs, self.clip_attn, real)
        context = (codes @ value).to(hidden.dtype) * (step * value_step)
        return context.transpose(1, 2).flatten(2), scores

    def _codes(self, name: str, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, heads, S, H / heads] and their step."""
        x: Tensor = getattr(self, name)(hidden, mask)
        codes, step = self.quantizers[name](x, getattr(self, f"clip_{name}"), mask[..., None])
        return codes.unflatten(2, (self.heads, -1)).transpose(1, 2), step
