"""The models that are timed, and float networks of the same size to hold them against."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bitinfer
from bitinfer.runtime.origin import find_model, read_model
from bitinfer.runtime.text import TokenBatch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import seeded

if TYPE_CHECKING:
    from bitinfer.description import Description

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Subject:
    """A packed model to time.

    Attributes:
        path: packed file, or the name of a built-in model.
        description: what it was packed from, if that is at hand: rivals are made of it.
    """

    path: str
    description: Description | None = None


def seeded_model(folder: Path) -> Subject:
    """A BERT-base of random weights, converted, and compared with the float64 reference."""
    from bitinfer.conversion.packing import to_metadata, to_tensors
    from bitinfer.conversion.parity import measure_parity
    from bitinfer.families import read_checkpoint
    from bitinfer.runtime.format import write_packed

    description = read_checkpoint(seeded.write(folder / "base", seeded.BASE_12X768))
    tensors = to_tensors(description)
    assert measure_parity(description, tensors).exact
    path = folder / "base.safetensors"
    write_packed(path, tensors, to_metadata(description))
    return Subject(str(path), description)


def builtin_vocabulary() -> list[str]:
    """The tokens of the built-in model."""
    vocabulary: str = read_model(find_model("sst2"))[0]["vocab"]
    return vocabulary.split("\n")


def text_checkpoint(folder: Path, **changes: Any) -> Path:
    """A BiT checkpoint of random weights that knows the words of the built-in model.

    Args:
        folder: Where it goes.
        changes: What is not as in BERT-base: fields of ``seeded.Spec``.
    """
    vocabulary = builtin_vocabulary()
    sizes = {"vocab": len(vocabulary), "positions": 512, **changes}
    spec = replace(seeded.BASE_12X768, **sizes)
    saved: Path = seeded.save(folder, seeded.state_dict(spec), seeded.config(spec), vocabulary)
    return saved


def text_model(folder: Path) -> Path:
    """Such a BERT-base, packed: ``base.safetensors`` in the folder."""
    from bitinfer.conversion.convert import convert

    path = folder / "base.safetensors"
    convert(text_checkpoint(folder / "base"), path, verify=False)
    return path


def random_ids(config: dict[str, Any], batch: int, length: int) -> Ids:
    """Token ids [batch, length] of full-length sequences."""
    return np.random.RandomState(1).randint(0, config["vocab"], (batch, length)).astype(np.int32)


def engine_call(model: bitinfer.BitModel, ids: Ids) -> Callable[[], NDArray[np.float64]]:
    """From ids to logits: all that `predict` does between the tokenizer and the labels."""
    batch, length = ids.shape
    tokens = TokenBatch(
        ids=ids.reshape(-1),
        positions=np.tile(np.arange(length, dtype=np.int32), batch),
        segments=np.zeros(ids.size, dtype=np.int32),
        offsets=np.arange(0, ids.size + 1, length, dtype=np.int64),
    )
    return lambda: model._run(tokens, hidden=False)["logits"]


def operations(config: dict[str, Any], batch: int, length: int) -> int:
    """2 for every multiply-add of two codes: the binarized linears and both products of attention.

    Of the last layer only keys and values are for all tokens; the rest is for the one that is
    pooled.  Embedding, normalization, softmax and the float classifier are not counted.
    """
    hidden, inner = config["hidden"], config["intermediate"]
    keys_and_values = 2 * hidden * hidden
    others = 2 * hidden * hidden + 2 * hidden * inner + 2 * length * hidden
    layers = length * (config["layers"] * keys_and_values + (config["layers"] - 1) * others)
    return int(2 * batch * (layers + others + hidden * hidden))


def float_bert(config: dict[str, Any], ids: Ids, threads: int) -> Callable[[], object]:
    """An ordinary float32 BERT of the same size in PyTorch: what most people run."""
    import torch
    from torch import nn

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = config["hidden"]
            self.word = nn.Embedding(config["vocab"], hidden)
            self.position = nn.Embedding(config["positions"], hidden)
            self.norm = nn.LayerNorm(hidden)
            layer = nn.TransformerEncoderLayer(
                hidden, config["heads"], config["intermediate"], activation="gelu", batch_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, config["layers"])
            self.pooler = nn.Linear(hidden, hidden)
            self.head = nn.Linear(hidden, config["labels"])

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            states = self.norm(self.word(ids) + self.position.weight[: ids.shape[1]])
            states = self.encoder(states)
            logits: torch.Tensor = self.head(torch.tanh(self.pooler(states[:, 0])))
            return logits

    return _torch_call(Bert().eval(), ids, threads)


def float_reference(description: Description, ids: Ids, threads: int) -> Callable[[], object]:
    """The same binarized network in float32, as the published code evaluates it."""
    import torch

    from bitinfer.reference import Reference

    return _torch_call(Reference(description, dtype=torch.float32), ids, threads)


def _torch_call(model: Any, ids: Ids, threads: int) -> Callable[[], object]:
    import torch

    batch = torch.from_numpy(ids).long()

    def call() -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(batch)

    return call
