"""How often the engine, and float32 PyTorch, agree with the float64 meaning of a checkpoint.

    python benchmarks/parity.py CHECKPOINT TABLE.tsv [--task sst-2] [--limit 5000]

TABLE has columns ``sentence`` and ``label``, as the tables of GLUE.  The engine is compared code by
code at every binarization point and in its logits; float32 in logits (within 1e-3) and labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from bitinfer.conversion.packing import to_metadata, to_tensors
from bitinfer.conversion.parity import unpadded
from bitinfer.data.tables import read_rows
from bitinfer.families import read_checkpoint
from bitinfer.reference import Reference, ReferenceOutput
from bitinfer.runtime.engine import make_engine
from bitinfer.runtime.text import TextTokenizer

Ids = npt.NDArray[np.int32]
BATCH = 32
FLOAT32_TOLERANCE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("table")
    parser.add_argument("--task", help="tells the training length; default: as the checkpoint says")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()

    description = read_checkpoint(options.checkpoint, task=options.task)
    metadata = to_metadata(description)
    engine = make_engine(metadata, to_tensors(description))
    float64, float32 = Reference(description), Reference(description, dtype=torch.float32)

    sentences = read_rows(options.table).texts[: options.limit]
    lowercase = description.lowercase
    tokenizer = TextTokenizer(metadata["vocab"], lowercase=lowercase, name=options.checkpoint)
    tokens = tokenizer.encode(sentences, max_length=metadata["tokenizer"]["max_length"])
    sequences = np.split(tokens.ids, tokens.offsets[1:-1])
    sequences.sort(key=len)

    exact = same_labels = float32_logits = float32_labels = done = 0
    worst = 0.0
    for batch, ids, mask in batches(sequences):
        wanted = float64(ids, None, mask, trace=True)
        rounded = float32(ids, None, mask).logits.double()
        float32_logits += int(((rounded - wanted.logits).abs().amax(1) < FLOAT32_TOLERANCE).sum())
        float32_labels += int((rounded.argmax(1) == wanted.logits.argmax(1)).sum())
        for row, sequence in enumerate(batch):
            count = len(sequence)
            found = engine.trace(
                sequence, np.arange(count, dtype=np.int32), np.zeros(count, np.int32), count, 0
            )
            logits = wanted.logits[row].numpy()
            worst = max(worst, float(np.abs(found["logits"][0] - logits).max()))
            exact += all_codes_equal(found, wanted, row, count)
            same_labels += int(found["logits"][0].argmax() == logits.argmax())
        done += len(batch)
        print(f"\r{done} of {len(sequences)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(f"sentences                              {done} ({int(tokens.offsets[-1])} tokens)")
    print(f"engine: every code equals float64      {exact}")
    print(f"engine: label equals float64           {same_labels} (logits within {worst:.1e})")
    print(f"float32: logits within {FLOAT32_TOLERANCE:g} of float64  {float32_logits}")
    print(f"float32: label equals float64          {float32_labels}")
    return 0 if exact == done else 1


def batches(sequences: list[Ids]) -> Iterator[tuple[list[Ids], Ids, Ids]]:
    for first in range(0, len(sequences), BATCH):
        batch = sequences[first : first + BATCH]
        ids = np.zeros((len(batch), len(batch[-1])), np.int32)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        yield batch, ids, mask


def all_codes_equal(
    found: dict[str, npt.NDArray[np.int8]], wanted: ReferenceOutput, row: int, count: int
) -> bool:
    for name, codes in wanted.codes.items():
        here = unpadded(name, codes[row].numpy(), count)
        if not np.array_equal(found[name], here):
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
