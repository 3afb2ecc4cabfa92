"""A binarized BERT, whichever checkpoint format it came from.

Readers produce a `Description`; the reference model, the boundaries and the converter use nothing
else.  Everything is NumPy.  Parts have the names that a packed file gives them, and are of two
kinds: matrices of signs with scales (``layer.0.query``), and float32 arrays of a checkpoint's
values (``layer.0.query.bias``).  The input of a linear becomes codes of ``x + shift``, in units of
``step``, and its output is ``(step * scale) * S + bias``, S the sum of the products of codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bitinfer.codes import POINTS, Bits, PointCodes
from bitinfer.config import Config

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]
Shapes = dict[str, tuple[int, ...]]

# The parts of a layer: each linear with the sizes of its outputs and inputs, the points of
# attention with the array that holds their step, the normalizations.
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


def matrix_shapes(config: Config) -> dict[str, tuple[int, int]]:
    """Every binarized matrix with its shape: the word embeddings, and [N, K] of the linears."""
    shapes = {"embeddings.word": (config.vocab, config.hidden)}
    for index in range(config.layers):
        for name, (outputs, inputs) in LINEARS.items():
            shapes[f"layer.{index}.{name}"] = (getattr(config, outputs), getattr(config, inputs))
    return shapes | {"pooler": (config.hidden, config.hidden)}


def array_shapes(config: Config) -> Shapes:
    """Every array of the values of a checkpoint with its shape; all are float32."""
    hidden = config.hidden
    shapes: Shapes = {
        "embeddings.position": (config.positions, hidden),
        "embeddings.token_type": (config.token_types, hidden),
        "head.weight": (config.labels, hidden),
        "head.bias": (config.labels,),
    }
    norms = ["embeddings.norm"]
    for index in range(config.layers):
        shapes |= {f"layer.{index}.{step}": (1,) for step in STEPS.values()}
        norms += [f"layer.{index}.{norm}" for norm in NORMS]
    for name in norms:
        shapes |= {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
    for name, (outputs, inputs) in matrix_shapes(config).items():
        if name == "embeddings.word":
            continue
        shapes |= {f"{name}.bias": (outputs,), f"{name}.shift": (inputs,), f"{name}.step": (1,)}
    return shapes


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

    Its arrays are, of every NAME of `matrix_shapes`, the codes ``NAME.codes`` int8 [N, K], each -1,
    0 or +1, and ``NAME.scale`` float64, [1] for the whole matrix or [N] for its rows, not negative;
    and those of `array_shapes`.
    """

    family: str  # one of `bitinfer.families`
    config: Config
    codes: Mapping[str, PointCodes]  # of every one of `bitinfer.codes.POINTS`
    arrays: Mapping[str, npt.NDArray[Any]]
    label_names: tuple[str, ...]  # one for each class
    task: str | None
    vocab: tuple[str, ...]  # token of every id; may be shorter than the word table
    lowercase: bool = True  # whether the tokenizer lower-cases its input
    source_file: str = ""  # the weights file this was read from
    source_sha256: str = ""
    notes: Notes = field(default_factory=Notes)

    @property
    def bits(self) -> Bits:
        """How many bits the parts of the model have."""
        return Bits(1, 1, tuple(self.codes[point].bits for point in POINTS))
