"""A family outside of the package, in one file: weights that are stored as signs, steps of 1/2."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitinfer.codes import POINTS, UNSIGNED, PointCodes
from bitinfer.description import Description, array_shapes, matrix_shapes
from bitinfer.families import Family, bert, register
from bitinfer.families.checkpoint import Checkpoint

SCALE = np.array([0.0625])
FILLED = {"step": 0.5, "norm.weight": 1.0}


def recognise(checkpoint: Checkpoint) -> str | None:
    return None if "signs" in checkpoint.state else "no key signs"


def read(checkpoint: Checkpoint) -> Description:
    shared = bert.read_shared(checkpoint)
    config = shared["config"]
    arrays: dict[str, Any] = {}
    for name, shape in array_shapes(config).items():
        arrays[name] = array = np.zeros(shape, np.float32)
        for ending, value in FILLED.items():
            if name.endswith(ending):
                array.fill(value)
        if name.endswith("norm.bias"):
            # No channel is exactly 0: which side of 0 it is on must not hang on a sum's order.
            array[:] = np.linspace(-0.31, 0.29, config.hidden, dtype=np.float32)
    head = bert.head_key(config)
    for name, key in (("embeddings.position", "position"), ("head.weight", f"{head}.weight")):
        arrays[name] = checkpoint.values(key)
    for name in matrix_shapes(config):
        codes = checkpoint.values(name).astype(np.int8)
        arrays |= {f"{name}.codes": codes, f"{name}.scale": SCALE}
    arrays["head.bias"] = checkpoint.values(f"{head}.bias")
    return Description(
        family="toy",
        codes={point: PointCodes(1, signed=point not in UNSIGNED) for point in POINTS},
        arrays=arrays,
        **shared,
    )


register(Family("toy", recognise, read))
