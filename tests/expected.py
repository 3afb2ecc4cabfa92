"""Answers for the seeded checkpoints, kept in the repository.

``python tests/expected.py`` recomputes them with the float64 reference and rewrites the file.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import parity
import seeded

from bitinfer.description import Description
from bitinfer.families import read_checkpoint

FILE = Path(__file__).parent / "data" / "seeded.json"

# Lengths on both sides of the words and tiles of the kernels; ids from a frozen stream.
CASES: dict[str, tuple[seeded.Spec, list[int]]] = {
    "tiny": (seeded.TINY, [1, 2, 17, 40]),
    "tiny-gelu-span": (seeded.Spec(activation="gelu", head="span"), [1, 33, 40]),
    "tiny-rows": (
        seeded.Spec(weight_layerwise=False, embed_layerwise=True, labels=3),
        [5, 24],
    ),
    "tiny-zeros": (seeded.Spec(exact_zeros=300), [3, 31, 40]),
    "cancelling": (seeded.Spec(hidden=96, heads=3, intermediate=160, cancelling=True), [4, 24, 39]),
    "odd-heads": (seeded.Spec(hidden=130, heads=10, intermediate=70), [7, 40]),
    "wide-160": (seeded.WIDE_160, [1, 29, 40]),
    "mini-6x384": (seeded.MINI_6X384, [9, 24, 31, 128]),
    "base-12x768": (seeded.BASE_12X768, [5, 24, 26]),
    "two-bits": (seeded.Spec(bits="1-1-2"), [1, 17, 40]),
    "two-bits-from-min": (seeded.Spec(bits="1-1-2", from_min=True, exact_zeros=300), [1, 17, 40]),
    "three-bits-gelu": (seeded.Spec(bits="1-1-3", activation="gelu", head="span"), [2, 39]),
    "four-bits-cancelling": (
        seeded.Spec(hidden=96, heads=3, intermediate=160, cancelling=True, bits="1-1-4"),
        [4, 24, 39],
    ),
    "four-bits-from-min": (
        replace(seeded.WIDE_160, activation="gelu", bits="1-1-4", from_min=True),
        [1, 29, 40],
    ),
    "attention-4": (seeded.Spec(hidden=130, heads=10, bits="1-1-1+attention=4"), [7, 40]),
    "ffn-2": (seeded.Spec(bits="1-1-1+ffn=2+pooler.in=3", from_min=True), [7, 40]),
    "mini-two-bits": (replace(seeded.MINI_6X384, bits="1-1-2"), [9, 128]),
    "mini-two-bits-from-min": (replace(seeded.MINI_6X384, bits="1-1-2", from_min=True), [9, 64]),
    "mini-four-bits": (replace(seeded.MINI_6X384, bits="1-1-4"), [9, 64]),
    "base-two-bits": (replace(seeded.BASE_12X768, bits="1-1-2"), [5, 26]),
    "base-four-bits-from-min": (replace(seeded.BASE_12X768, bits="1-1-4", from_min=True), [5, 26]),
}


def description_of(name: str) -> Description:
    with tempfile.TemporaryDirectory() as folder:
        return read_checkpoint(seeded.write(Path(folder) / name, CASES[name][0]))


def sequences_of(name: str) -> list[npt.NDArray[np.int32]]:
    spec, lengths = CASES[name]
    ids, _, _ = seeded.token_ids(spec, lengths)
    return [row[:length].astype(np.int32) for row, length in zip(ids, lengths, strict=True)]


def answers(name: str) -> list[dict[str, Any]]:
    """What the reference says of every sequence of a case."""
    from bitinfer.reference import Reference

    description = description_of(name)
    model = Reference(description)
    result = []
    for ids in sequences_of(name):
        output = model(ids[None], trace=True)
        codes = {key: value[0].numpy() for key, value in output.codes.items()}
        logits = np.atleast_2d(output.logits[0].numpy())
        result.append(
            {
                "codes_sha256": parity.digest(codes, description.config.layers),
                "logits": [[value.hex() for value in row] for row in logits.tolist()],
            }
        )
    return result


def load() -> dict[str, list[dict[str, Any]]]:
    stored: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text())
    return stored


def logits_of(answer: dict[str, Any]) -> npt.NDArray[np.float64]:
    return np.array([[float.fromhex(value) for value in row] for row in answer["logits"]])


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({name: answers(name) for name in CASES}, indent=1) + "\n")
