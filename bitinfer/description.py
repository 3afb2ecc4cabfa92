"""A binarized BERT, whichever checkpoint format it came from.

Readers produce a `Description`; the reference model, the flips and the converter use nothing else.
Everything is NumPy: signs as int8 codes, scales as float64, the rest as the checkpoint's float32
values.  ``S`` below is always the exact integer sum of products of codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bitinfer.codes import Bits, Codes
from bitinfer.config import Config

__all__ = [
    "LINEARS",
    "NORMS",
    "STEPS",
    "BinaryLinear",
    "BinaryMatrix",
    "Config",
    "Description",
    "Layer",
    "LayerNorm",
    "Notes",
]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]

# The parts of a layer by their names in a packed file: each linear with the sizes of its outputs
# and inputs, the points of attention with the tensor that holds their step, the normalizations.
LINEARS = {
    "query": ("hidden", "hidden"),
    "key": ("hidden", "hidden"),
    "value": ("hidden", "hidden"),
    "attention.output": ("hidden", "hidden"),
    "intermediate": ("intermediate", "hidden"),
    "output": ("hidden", "intermediate"),
}
STEPS = {
    "query": "query.code_step",
    "key": "key.code_step",
    "value": "value.code_step",
    "attention.probs": "attention.probs.step",
}
NORMS = ("attention.norm", "output.norm")


@dataclass(frozen=True, eq=False)
class BinaryMatrix:
    """Signs and scale of a binarized matrix: ``value[n, k] = scale[n] * codes[n, k]``.

    Attributes:
        codes: int8 [N, K], each -1, 0 or +1.
        scale: float64 [1] (the whole matrix) or [N] (one for each row), not negative.
    """

    codes: I8
    scale: F64

    @property
    def zeros(self) -> int:
        """How many codes are exactly 0."""
        return int(self.codes.size - np.count_nonzero(self.codes))


@dataclass(frozen=True, eq=False)
class BinaryLinear:
    """A linear layer with binarized weights and input.

    The input ``x`` becomes codes of ``x + shift``, and the output is
    ``y[n] = (step * scale[n]) * S[n] + bias[n]``.

    Attributes:
        weight: matrix [N, K].
        bias: float32 [N].
        shift: float32 [K], added to the input before its codes are taken.
        step: size of an input code, positive.
    """

    weight: BinaryMatrix
    bias: F32
    shift: F32
    step: np.float32

    @property
    def slope(self) -> F64:
        """What one unit of S adds to each output: ``step * scale``, float64 [N]."""
        scale = np.float64(self.step) * self.weight.scale
        return np.broadcast_to(scale, self.bias.shape)


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Weight and bias of a layer normalization, float32 [H]; its epsilon is 1e-12."""

    weight: F32
    bias: F32


@dataclass(frozen=True, eq=False)
class Layer:
    """One encoder layer, its parts by the names of `LINEARS`, `STEPS` and `NORMS`.

    Attributes:
        linears: the input of linear ``X`` becomes codes at the point ``X.in``.
        steps: sizes of the codes that attention multiplies, positive.
        norms: the two normalizations.
    """

    linears: Mapping[str, BinaryLinear]
    steps: Mapping[str, np.float32]
    norms: Mapping[str, LayerNorm]


@dataclass(frozen=True)
class Notes:
    """What a reader met that its user may want to know.  Names are those of the checkpoint.

    Attributes:
        dropped: parameters that have no effect in the published model.
        untrained: learned steps equal to exactly 1.0, which training probably never used.
        floored: learned steps at or below 1e-5, which the published model replaces by 1e-5.
        remarks: anything else, as sentences.
    """

    dropped: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    floored: tuple[tuple[str, float], ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Description:
    """A whole model with its labels and vocabulary.

    Attributes:
        family: name of the training recipe, one of `bitinfer.families`.
        codes: of every one of `bitinfer.codes.POINTS`.
        word: matrix [V, H]; position float32 [P, H]; token_type float32 [T, H].
        head_weight: float32 [C, H]; head_bias float32 [C].
        label_names: one for each class; empty for regression and span heads.
        vocab: token of every id; may be shorter than the word table.
        lowercase: whether the tokenizer lower-cases its input.
        source_file, source_sha256: the weights file this was read from, and its digest.
    """

    family: str
    config: Config
    codes: Mapping[str, Codes]
    word: BinaryMatrix
    position: F32
    token_type: F32
    embedding_norm: LayerNorm
    layers: tuple[Layer, ...]
    pooler: BinaryLinear
    head_weight: F32
    head_bias: F32
    label_names: tuple[str, ...]
    task: str | None
    vocab: tuple[str, ...]
    lowercase: bool = True
    source_file: str = ""
    source_sha256: str = ""
    notes: Notes = field(default_factory=Notes)

    @property
    def bits(self) -> Bits:
        """How many bits the parts of the model have."""
        return Bits.of(1, 1, {point: codes.bits for point, codes in self.codes.items()})

    def linears(self) -> Iterator[tuple[str, BinaryLinear]]:
        """Every binarized linear with its name in a packed file."""
        for index, layer in enumerate(self.layers):
            for name, linear in layer.linears.items():
                yield f"layer.{index}.{name}", linear
        yield "pooler", self.pooler

    def matrices(self) -> Iterator[tuple[str, BinaryMatrix]]:
        """Every binarized matrix with its name in a packed file."""
        yield "embeddings.word", self.word
        for name, linear in self.linears():
            yield name, linear.weight
