"""A packed file of format 1, made in 2026 by release 0.1.0.  It must load for ever.

It stands for all files that users have.  If this test fails, mend the reader: neither the file nor
the numbers below may ever be replaced.  A new format gets a new file and a test of its own.

The file holds every tensor that the format knows.  It was converted from the checkpoint of
``seeded.Spec(hidden=72, layers=2, heads=3, intermediate=100, vocab=57, positions=20, labels=3,
activation="gelu", cancelling=True, length=12, seed=11)`` after setting to 0 some pairs of opposite
weights in each matrix, and with small steps for the inputs of ``output.dense``.  The logits were
within 1e-16 of the float64 reference.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import environment

from bitinfer import _core
from bitinfer.conversion.packing import from_tensors, to_tensors
from bitinfer.runtime.format import read_packed

FILE = Path(__file__).parent / "data" / "format-1.safetensors"
SHA256 = "73e4a64b23c1b96043481382f098991e55da9bcc35ec67a102231a4fcafded8f"

# Text, its tokens, the second text's first token (or their number), and the logits.
CASES: list[tuple[Any, list[int], int, list[str]]] = [
    (
        "",
        [2, 3],
        2,
        ["0x1.e07c9a3a54916p-5", "0x1.deeae05d34d54p-3", "0x1.14f677317c549p-4"],
    ),
    (
        "a b c",
        [2, 5, 6, 7, 3],
        5,
        ["0x1.50b5821344e7ep-5", "0x1.06c10c2f2c1cbp-2", "0x1.4975be7d99343p-5"],
    ),
    (
        "Aab, k l ##m aa ab zzz",
        [2, 5, 31, 32, 1, 15, 16, 1, 1, 17, 5, 31, 5, 32, 30, 3],
        16,
        ["0x1.47f26f6e5022ep-5", "0x1.43f7984802986p-3", "0x1.8e48675cc77e2p-5"],
    ),
    (
        ["a b", "c d e"],
        [2, 5, 6, 3, 7, 8, 9, 3],
        4,
        ["-0x1.ba96dbd965ec0p-10", "0x1.7d7b07a90f6d4p-3", "-0x1.8c030ffad22e0p-11"],
    ),
    (
        "a b c d e f g h i j k l m n o p q r s t u v",  # cut to 16 tokens
        [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 3],
        16,
        ["-0x1.08192a2e62e85p-4", "0x1.4d9c2a5395b20p-3", "0x1.3d485bcc38408p-7"],
    ),
]

RUN = """
import json, sys, bitinfer
import numpy as np
path, isa, cases = json.loads(sys.argv[1])
model = bitinfer.load(path, isa=isa)
texts = [text for text, ids, second, logits in cases]
found = {"labels": model.labels, "texts": model.logits(texts).tolist(), "ids": []}
for text, ids, second, logits in cases:
    columns = np.arange(len(ids), dtype=np.int32)
    types = (columns >= second).astype(np.int32)
    trace = model._core.trace(np.int32(ids), columns, types, len(ids), 0)
    found["ids"].append(trace["logits"].ravel().tolist())
found["heavy"] = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps(found))
"""


def test_the_file_is_the_one_of_2026() -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    metadata, tensors = read_packed(FILE)
    assert metadata["format_version"] == "1"
    for name in ("embeddings.word", "layer.0.query", "layer.1.output", "pooler"):
        assert {f"{name}.bits", f"{name}.zero_rows", f"{name}.nonzero"} <= set(tensors)
    for point in ("query", "key", "value", "attention.output.in"):
        assert tensors[f"layer.1.{point}.rises"].shape == (2, 72)
    assert tensors["layer.1.output.in.rises"].shape == (1, 100)
    assert tensors["layer.1.output.in.falls"].shape == (1, 100)


def test_its_thresholds_are_the_rises_and_falls_of_its_formulas() -> None:
    """What the reader makes of them is what a conversion makes today of steps and shifts."""
    metadata, tensors = read_packed(FILE)
    again = to_tensors(from_tensors(tensors, metadata))
    assert again.keys() == tensors.keys()
    for name, array in again.items():
        assert array.dtype == tensors[name].dtype, name
        assert np.array_equal(array, tensors[name]), name


@pytest.mark.parametrize("isa", _core.available_isas())
def test_it_gives_the_same_bits(isa: str) -> None:
    command = [sys.executable, "-c", RUN, json.dumps([str(FILE), isa, CASES])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    assert found["labels"] == ["no", "perhaps", "yes"]
    expected = [logits for _, _, _, logits in CASES]
    for way in ("texts", "ids"):
        assert [[value.hex() for value in row] for row in found[way]] == expected, way
