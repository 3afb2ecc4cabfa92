"""How exact the engine is, and float32 is not: ``python benchmarks/exactness.py`` prints JSON.

Needs PyTorch.  The accuracy needs data that does not come with the repository, in the folder
``BITINFER_SHARED`` (``../shared`` by default), and is left out where they are missing:

- ``data/sst2/test.tsv``, the 872 sentences that GLUE calls the SST-2 development set: columns
  ``sentence`` and ``label``;
- ``models/bit-sst2``, a checkpoint that was trained with the published code, with ``golden.npz``:
  ids and labels of these sentences, and the logits of that code for them, once in float64 and twice
  in float32.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bitinfer
from bitinfer.conversion.packing import from_tensors, to_tensors
from bitinfer.conversion.parity import measure_parity
from bitinfer.data.tables import read_rows
from bitinfer.description import Description
from bitinfer.families import read_checkpoint
from bitinfer.reference import Reference
from bitinfer.runtime.origin import find_model, read_model
from bitinfer.runtime.text import TokenBatch

_ROOT = Path(__file__).parents[1]
sys.path.append(str(_ROOT / "tests"))

import seeded  # noqa: E402  # beside the tests

Logits = NDArray[np.float64]

_NOTICEABLE = 1e-3  # difference of a logit: far above the rounding of float32
_SHARED = Path(os.environ.get("BITINFER_SHARED", _ROOT.parent / "shared"))
_SST2 = _SHARED / "data" / "sst2" / "test.tsv"
_GOLDEN = _SHARED / "models" / "bit-sst2" / "golden.npz"


def measure() -> dict[str, Any]:
    """Disagreement with float64 on random models and, if the data are there, on trained ones."""
    results: dict[str, Any] = {"random": [_random_model(spec) for spec in _SPECS]}
    if _SST2.is_file():
        results["sst2"] = _builtin()
    if _GOLDEN.is_file():
        results["published"] = _published()
    return results


def _builtin() -> dict[str, Any]:
    """Runs of the built-in model on the sentences of the table."""
    data = read_rows(_SST2)
    model = bitinfer.load("sst2")
    labels = np.array([int(label) for label in data.labels])
    metadata, tensors = read_model(find_model("sst2"))
    encoded = model._tokenizer.encode(data.texts, max_length=model.max_length)
    ids = np.split(encoded.ids, encoded.offsets[1:-1])
    runs = {"bitinfer": model.logits(data.texts)}
    return _compared(runs, from_tensors(tensors, metadata), ids, labels)


def _published() -> dict[str, Any]:
    """Runs of a checkpoint on the same sentences, those of the code that trained it among them."""
    model = bitinfer.load(_GOLDEN.parent)
    with np.load(_GOLDEN) as golden:
        ids = np.split(golden["ids"], golden["offsets"][1:-1])
        positions = np.concatenate([np.arange(len(row), dtype=np.int32) for row in ids])
        segments = np.zeros_like(positions)
        tokens = TokenBatch(golden["ids"], positions, segments, golden["offsets"])
        labels = golden["labels"].astype(np.int64)
        runs = {
            "bitinfer": model._run(tokens, hidden=False)["logits"],
            "published code, float64": golden["logits"],
            "published code, float32": golden["logits_float32"],
            "published code, float32, batches of 32": golden["logits_float32_batched"],
        }
    return _compared(runs, read_checkpoint(_GOLDEN.parent), ids, labels)


def _compared(
    runs: dict[str, Logits],
    description: Description,
    ids: list[NDArray[np.int32]],
    labels: NDArray[np.int64],
) -> dict[str, Any]:
    """Those runs, and float32 ones of the reference, against the float64 definition.

    The float32 runs of the reference and of the published code mean the same network; they differ
    in where they round.
    """
    single = Reference(description, dtype=torch.float32)
    definition = _logits(Reference(description), ids, 1)
    float32 = {
        "reference, float32": _logits(single, ids, 1),
        "reference, float32, batches of 32": _logits(single, ids, 32),
    }
    return {
        "sentences": len(labels),
        "runs": {
            name: {"correct": int((run.argmax(1) == labels).sum()), **_difference(run, definition)}
            for name, run in (runs | float32).items()
        },
    }


def _logits(reference: Reference, ids: list[NDArray[np.int32]], size: int) -> Logits:
    """Logits of sequences in batches, padded and masked as the published code does."""
    rows = []
    for first in range(0, len(ids), size):
        batch = ids[first : first + size]
        length = max(map(len, batch))
        padded = np.stack([np.pad(row, (0, length - len(row))) for row in batch])
        mask = np.stack([np.arange(length) < len(row) for row in batch]).astype(np.int64)
        with torch.inference_mode():
            rows.append(reference(padded, None, mask).logits.double().numpy())
    return np.concatenate(rows)


def _difference(found: Logits, wanted: Logits) -> dict[str, Any]:
    apart = np.abs(found - wanted).max(axis=1)
    return {
        "largest": float(apart.max()),
        "sentences": int((apart > _NOTICEABLE).sum()),
        "labels": int((found.argmax(1) != wanted.argmax(1)).sum()),
    }


torch.set_num_threads(1)  # short sequences: more threads wait more than they work

_SPECS = (seeded.MINI_6X384, seeded.BASE_12X768)


def _random_model(spec: seeded.Spec) -> dict[str, Any]:
    """Hidden states and logits of 8 sequences of 32 tokens, against float64."""
    with tempfile.TemporaryDirectory() as folder:
        description = read_checkpoint(seeded.write(Path(folder) / "model", spec))
    ids, segments, _ = seeded.token_ids(spec, [32] * 8)
    with torch.inference_mode():
        exact = Reference(description)(ids, segments)
        single = Reference(description, dtype=torch.float32)(ids, segments)
    hidden = [
        float((a.double() - b).norm() / b.norm())
        for a, b in zip(single.hidden, exact.hidden, strict=True)
    ]
    parity = measure_parity(description, to_tensors(description))
    return {
        "layers": spec.layers,
        "hidden": spec.hidden,
        "float32 hidden states": hidden,
        "float32 logits": float((single.logits.double() - exact.logits).abs().max()),
        "engine codes": parity.codes,
        "engine codes differing": parity.codes_differing,
        "engine logits": parity.logits_difference,
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
