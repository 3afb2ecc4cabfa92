"""Small packed files for the tests, and the tools to damage them on purpose."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from typing import Any

import numpy as np

from bitinfer.codes import POINTS, UNSIGNED, PointCodes

BLANK = b"0" * 64
DIGEST = re.compile(rb'\\"sha256\\": \\"(.{64})\\", \\"source\\"', re.DOTALL)

METADATA: dict[str, Any] = {
    "architecture": "bert",
    "family": "bit",
    "writer": "bitinfer test",
    "config": {
        "hidden": 8,
        "layers": 1,
        "heads": 2,
        "intermediate": 16,
        "vocab": 8,
        "positions": 16,
        "token_types": 2,
        "labels": 2,
        "activation": "relu",
        "head": "classification",
    },
    "codes": {point: PointCodes(1, point not in UNSIGNED).name for point in POINTS},
    "labels": ["negative", "positive"],
    "task": "sst-2",
    "vocab": "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\nc\né",
    "tokenizer": {"lowercase": True, "max_length": 16},
    "source": {"file": "pytorch_model.bin", "sha256": "0" * 64},
    "licence": None,
    "report": {"zeros": 0},
}


def metadata(**changes: Any) -> dict[str, Any]:
    """A valid metadata object with some fields changed."""
    return {**copy.deepcopy(METADATA), **changes}


def tensors() -> dict[str, np.ndarray]:
    """Two arrays of different types; the container does not care about their meaning."""
    return {
        "head.bias": np.arange(2, dtype=np.float32),
        "pooler.bits": np.arange(8, dtype=np.uint64)[:, None],
    }


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The container's header as an object, and the bytes of the tensors."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    """A container with this header, without a valid checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
    return len(text).to_bytes(8, "little") + text + body


def reseal(data: bytes) -> bytes:
    """The same bytes with a correct checksum, as a careful attacker would leave them."""
    found = DIGEST.search(data)
    if found is None:
        return data
    before, after = data[: found.start(1)], data[found.end(1) :]
    return before + hashlib.sha256(before + BLANK + after).hexdigest().encode() + after


def with_metadata(data: bytes, value: Any) -> bytes:
    """The container with another metadata object (or text), sealed again."""
    header, body = split(data)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    header["__metadata__"] = {"bitinfer": text}
    return reseal(join(header, body))
