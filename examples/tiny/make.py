"""Makes a toy task and a toy BERT to begin from, so that training can be tried in a minute.

    python examples/tiny/make.py FOLDER

A text is a shuffle of words: two of its topic, one of another topic, the rest of no topic at all.
The BERT, 2 layers x 64, has random weights.  The same bytes are made on every machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

ROWS = {"train": 2000, "dev": 400, "test": 400}
TOPICS = {
    "food": "bread butter dinner flour kitchen oven recipe salt soup spoon",
    "music": "band chorus drum guitar melody piano rhythm singer song violin",
    "weather": "cloud cold fog forecast frost rain snow storm sunny wind",
}
OTHERS = """a all always and are at before but can every for from good has here i in is it last
long my never new not of old on one our she some that the there they this today was we with
"""
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HIDDEN, LAYERS, INTERMEDIATE, POSITIONS = 64, 2, 128, 32
SPREAD = 0.1  # of the weights: three times as wide as usual, as so small a BERT learns faster then


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a toy task and a toy BERT.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args(arguments).folder
    # Its streams are frozen, those of the newer generators are not.
    random = np.random.RandomState(0)
    (folder / "encoder").mkdir(parents=True, exist_ok=True)
    write_tables(folder, random)
    write_encoder(folder / "encoder", random)


def write_tables(folder: Path, random: np.random.RandomState) -> None:
    """``train.tsv``, ``dev.tsv`` and ``test.tsv``; no text twice."""
    rows: dict[str, str] = {}
    while len(rows) < sum(ROWS.values()):
        topic = list(TOPICS)[random.randint(len(TOPICS))]
        rows[text(topic, random)] = topic
    lines = iter(f"{text}\t{label}\n" for text, label in rows.items())
    for name, count in ROWS.items():
        table = "".join(["text\tlabel\n", *(next(lines) for _ in range(count))])
        (folder / f"{name}.tsv").write_text(table, encoding="utf-8", newline="\n")


def text(topic: str, random: np.random.RandomState) -> str:
    rest = [each for each in TOPICS if each != topic]
    other = rest[random.randint(len(rest))]
    words = [
        *random.choice(TOPICS[topic].split(), 2, replace=False),
        random.choice(TOPICS[other].split()),
        *random.choice(OTHERS.split(), random.randint(3, 9)),
    ]
    return " ".join(words[i] for i in random.permutation(len(words)))


def write_encoder(folder: Path, random: np.random.RandomState) -> None:
    """A folder as published encoders have it: ``config.json``, ``vocab.txt`` and weights."""
    words = sorted({*OTHERS.split(), *" ".join(TOPICS.values()).split()})
    vocab = [*SPECIAL_TOKENS, *words]
    settings = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": INTERMEDIATE,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": len(vocab),
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    tensors = {}
    for name, shape in shapes(len(vocab)):
        if name.endswith("bias"):
            tensors[name] = np.zeros(shape, np.float32)
        elif "LayerNorm" in name:
            tensors[name] = np.ones(shape, np.float32)
        else:
            tensors[name] = random.uniform(-SPREAD, SPREAD, shape).astype(np.float32)
    (folder / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))


def shapes(vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a BERT's tensors."""
    for table, rows in (("word", vocab), ("position", POSITIONS), ("token_type", 2)):
        yield f"embeddings.{table}_embeddings.weight", (rows, HIDDEN)
    yield from norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            yield from linear(f"{prefix}.attention.self.{name}", HIDDEN, HIDDEN)
        yield from linear(f"{prefix}.attention.output.dense", HIDDEN, HIDDEN)
        yield from norm(f"{prefix}.attention.output.LayerNorm")
        yield from linear(f"{prefix}.intermediate.dense", HIDDEN, INTERMEDIATE)
        yield from linear(f"{prefix}.output.dense", INTERMEDIATE, HIDDEN)
        yield from norm(f"{prefix}.output.LayerNorm")
    yield from linear("pooler.dense", HIDDEN, HIDDEN)


def linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (HIDDEN,)
    yield f"{name}.bias", (HIDDEN,)


if __name__ == "__main__":
    main()
