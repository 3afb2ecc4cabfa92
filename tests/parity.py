"""What the parity tests share: engines from descriptions, runs of them, and how runs compare."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bitinfer._core import Model
from bitinfer.codes import LAYER_POINTS, POINTS
from bitinfer.config import SIZES
from bitinfer.conversion.packing import to_metadata, to_tensors
from bitinfer.conversion.parity import unpadded
from bitinfer.description import Description
from bitinfer.heads import find_head
from bitinfer.runtime.engine import make_engine

Array = npt.NDArray[Any]
Codes = dict[str, Array]

# Folders of what the published code computes in float64.
GOLDEN = (
    "cls-128x2",
    "edge-gelu-128x2",
    "edge-rowwise-80x2",
    "edge-zeros-96x2",
    "mnli-192x3-gelu",
    "squad-128x2",
    "stsb-128x2-hd32",
)
# The same with more bits, each sequence run alone.
MORE_BITS = (
    "bit-w1a2-128x2",
    "bit-w1a2-squad-128x2",
    "bit-w1a4-128x2",
    "bit-edge-ties-w1a4-96x2",
)

_DTYPES = ("uint64", "int32", "int16", "float32", "float64")


def engine(
    description: Description, isa: str | None = None, num_threads: int | None = None
) -> Model:
    tensors = to_tensors(description)
    return make_engine(to_metadata(description), tensors, isa=isa, num_threads=num_threads)


def has_zero_weights(description: Description) -> bool:
    return any(".zero_rows" in name for name in to_tensors(description))


def trace(
    model: Model,
    ids: Array,
    segments: Array | None = None,
    *,
    layer: int = 0,
    hidden: Array | None = None,
) -> Codes:
    """One unpadded sequence, every token attended to."""
    count = len(ids)
    types = np.zeros(count, np.int32) if segments is None else segments.astype(np.int32)
    positions = np.arange(count, dtype=np.int32)
    return model.trace(ids.astype(np.int32), positions, types, count, 0, layer, hidden)


def forward(
    model: Model, sequences: list[Array], *, hidden: bool = True, first: Array | None = None
) -> dict[str, Array]:
    """A ragged batch of unpadded sequences of the first segment, pooled at their ``first``."""
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    return model.forward(
        np.concatenate(sequences).astype(np.int32),
        positions,
        np.zeros_like(positions),
        offsets,
        lengths,
        offsets[:-1] + (np.zeros_like(lengths) if first is None else first),
        hidden,
    )


def point_of(name: str) -> str:
    """``codes.layer3.query.in`` and ``codes.pooler.in`` without what precedes the point."""
    return name.split(".", 2)[2] if name.startswith("codes.layer") else "pooler.in"


def differences(found: Codes, expected: dict[str, Array], length: int) -> dict[str, int]:
    """How many codes differ, for each name where some do; ``expected`` may be padded."""
    result = {}
    for name, codes in expected.items():
        wanted = unpadded(name, codes, length)
        assert found[name].shape == wanted.shape, name
        wrong = int((found[name] != wanted).sum())
        if wrong:
            result[name] = wrong
    return result


def code_names(layers: int) -> Iterator[str]:
    for index in range(layers):
        for point in LAYER_POINTS:
            yield f"codes.layer{index}.{point}"
    yield "codes.pooler.in"


def digest(found: Codes, layers: int) -> str:
    """SHA-256 of all codes of a sequence, as int8 in the order of `code_names`."""
    sha = hashlib.sha256()
    for name in code_names(layers):
        sha.update(np.ascontiguousarray(found[name], np.int8).tobytes())
    return sha.hexdigest()


# ---- the replay program's streams (tests/native/replay.cpp)


def replay_input(description: Description, sequences: list[Array]) -> bytes:
    config = description.config
    parts = [struct.pack("<8q", *(getattr(config, name) for name in SIZES))]
    reads = find_head(config.head, config.labels).reads
    kinds = (config.activation == "gelu", ("none", "pooled", "tokens").index(reads))
    parts.append(struct.pack("<2q", *kinds))
    for point in POINTS:
        codes = description.codes[point]
        parts.append(struct.pack("<3q", codes.bits, codes.signed, codes.from_min))
    tensors = to_tensors(description)
    parts.append(struct.pack("<q", len(tensors)))
    for name, array in tensors.items():
        raw = name.encode()
        parts.append(struct.pack("<q", len(raw)) + raw)
        parts.append(struct.pack("<2q", _DTYPES.index(array.dtype.name), array.ndim))
        parts.append(struct.pack(f"<{array.ndim}q", *array.shape) + array.tobytes())
    parts.append(struct.pack("<q", len(sequences)))
    for ids in sequences:
        parts.append(struct.pack("<q", len(ids)) + ids.astype("<i4").tobytes())
    return b"".join(parts)


def replay_output(raw: bytes, description: Description, lengths: list[int]) -> list[Codes]:
    """What `trace` would return, without hidden states, for each sequence."""
    config = description.config
    head_size = config.hidden // config.heads
    at = 0

    def take(dtype: str, *shape: int) -> Array:
        nonlocal at
        array = np.frombuffer(raw, dtype, int(np.prod(shape)), at).reshape(shape)
        at += array.nbytes
        return array

    results = []
    for length in lengths:
        found: Codes = {}
        for name in code_names(config.layers):
            point = point_of(name)
            if point == "attention.probs":
                found[name] = take("i1", config.heads, length, length)
            elif point in ("query", "key", "value"):
                found[name] = take("i1", length, config.heads, head_size).transpose(1, 0, 2)
            elif point == "output.in":
                found[name] = take("i1", length, config.intermediate)
            elif point == "pooler.in":
                found[name] = take("i1", config.hidden)
            else:
                found[name] = take("i1", length, config.hidden)
        rows = length if config.head == "span" else 1
        found["logits"] = take("<f8", rows, config.labels)
        results.append(found)
    assert at == len(raw)
    return results
