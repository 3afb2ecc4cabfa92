"""A family outside of the package, in one file: weights that are stored as signs, steps of 1/2."""

from __future__ import annotations

import numpy as np

from bitinfer.codes import POINTS, UNSIGNED, Codes
from bitinfer.description import (
    LINEARS,
    NORMS,
    STEPS,
    BinaryLinear,
    BinaryMatrix,
    Description,
    Layer,
    LayerNorm,
)
from bitinfer.families import Family, Wishes, bert, register
from bitinfer.families.checkpoint import CheckpointFiles

STEP = np.float32(0.5)
SCALE = np.array([0.0625])


def recognise(files: CheckpointFiles) -> str | None:
    return None if "signs" in files.state else "no key signs"


def read(files: CheckpointFiles, wishes: Wishes) -> Description:
    config = bert.read_config(files)
    _, names = bert.task_and_names(files, config, wishes)
    head = bert.head_key(config)
    # No channel is exactly 0: which side of 0 it is on must not hang on the order of a sum.
    slope = np.linspace(-0.31, 0.29, config.hidden, dtype=np.float32)
    norm = LayerNorm(np.ones(config.hidden, np.float32), slope)

    def linear(key: str) -> BinaryLinear:
        weight = matrix(key)
        outputs, inputs = weight.codes.shape
        zeros = np.zeros(max(outputs, inputs), np.float32)
        return BinaryLinear(weight, bias=zeros[:outputs], shift=zeros[:inputs], step=STEP)

    def matrix(key: str) -> BinaryMatrix:
        return BinaryMatrix(bert.read_values(files, key).astype(np.int8), SCALE)

    return Description(
        family="toy",
        config=config,
        codes={point: Codes(1, signed=point not in UNSIGNED) for point in POINTS},
        word=matrix("word"),
        position=bert.read_values(files, "position"),
        token_type=np.zeros((config.token_types, config.hidden), np.float32),
        embedding_norm=norm,
        layers=tuple(
            Layer(
                linears={name: linear(f"{index}.{name}") for name in LINEARS},
                steps=dict.fromkeys(STEPS, STEP),
                norms=dict.fromkeys(NORMS, norm),
            )
            for index in range(config.layers)
        ),
        pooler=linear("pooler"),
        head_weight=bert.read_values(files, f"{head}.weight"),
        head_bias=bert.read_values(files, f"{head}.bias"),
        label_names=names,
        task=None,
        vocab=files.vocab,
        source_file=files.file,
        source_sha256=files.sha256,
    )


register(Family("toy", recognise, read))
