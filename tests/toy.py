"""Tables that can be learned and tiny BERTs of random weights, for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Toy", "make", "write_bert", "write_table"]

WORDS = {
    "bad": "awful bad dull poor",
    "fine": "fair fine okay usual",
    "good": "good great lovely superb",
}
FILL = "a and as film in is it of one so story that the this was with"
VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *FILL.split(),
    *" ".join(WORDS.values()).split(),
]
ROWS = {"train": 240, "dev": 60}


@dataclass(frozen=True)
class Toy:
    """Files of a task.

    Attributes:
        encoder, teacher: BERTs of random weights, without and with a head of three classes.
        train, dev: tables.
    """

    encoder: Path
    teacher: Path
    train: Path
    dev: Path


def make(folder: Path) -> Toy:
    """The task of telling three kinds of texts apart."""
    random = np.random.RandomState(0)
    tables = {}
    for name, count in ROWS.items():
        rows = []
        for _ in range(count):
            label = list(WORDS)[random.randint(len(WORDS))]
            rows.append([text(label, random), label])
        tables[name] = write_table(folder / f"{name}.tsv", rows)
    return Toy(
        write_bert(folder / "encoder"),
        write_bert(folder / "teacher", outputs=3, id2label=dict(enumerate(WORDS))),
        tables["train"],
        tables["dev"],
    )


def text(kind: str, random: np.random.RandomState) -> str:
    """Words that say nothing and one of a kind."""
    words = [*random.choice(FILL.split(), random.randint(2, 9)), random.choice(WORDS[kind].split())]
    return " ".join(words[index] for index in random.permutation(len(words)))


def write_table(
    path: Path, rows: Sequence[Sequence[object]], header: str = "sentence\tlabel"
) -> Path:
    """Rows with tabs between the columns."""
    lines = [header, *("\t".join(map(str, row)) for row in rows), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_bert(folder: Path, outputs: int | None = None, seed: int = 0, **settings: Any) -> Path:
    """A Hugging Face folder, 1 layer x 32; ``outputs`` None is one without a head."""
    import torch
    from safetensors.torch import save
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 32, "vocab_size": len(VOCAB)}
    # So few and small layers need larger weights than usual, or all texts look alike.
    config = BertConfig(**sizes, initializer_range=0.15, **settings)
    if outputs is not None and "id2label" not in settings:
        config.num_labels = outputs
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = BertModel if outputs is None else BertForSequenceClassification
        state = kind(config).state_dict()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*VOCAB, ""]))
    return folder
