"""There is room: a family and a head of one file each, outside of the package, run end to end."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import seeded

import bitinfer
from bitinfer import families
from bitinfer.description import LINEARS
from bitinfer.errors import ConversionError, FormatError, UnsupportedError
from bitinfer.heads import Head, registry
from bitinfer.runtime.format import read_packed, write_packed
from bitinfer.runtime.model import BitModel

pytest.importorskip("torch", reason="checkpoints are read with PyTorch")

SPEC = seeded.Spec(labels=3)
TAGS = ["warm", "funny", "long"]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are there for one test."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families.families()))
    monkeypatch.setattr(registry, "_HEADS", list(registry.heads()))
    for module in ("toy_family", "toy_head"):
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.import_module(module)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder in the form of the toy family, with the head of tags."""
    random = np.random.RandomState(3)

    def signs(outputs: int, inputs: int) -> seeded.F32:
        return random.choice(np.float32([-1, 1]), (outputs, inputs))

    linears = {name: [getattr(SPEC, size) for size in both] for name, both in LINEARS.items()}
    state = {
        "signs": np.zeros(1, np.float32),
        "embeddings.word": signs(SPEC.vocab, SPEC.hidden),
        "position": random.randint(-9, 10, (SPEC.positions, SPEC.hidden)).astype(np.float32) / 64,
        "pooler": signs(SPEC.hidden, SPEC.hidden),
        "tagger.weight": signs(SPEC.labels, SPEC.hidden),
        "tagger.bias": np.float32([0.5, 0, -0.5]),
    }
    for index in range(SPEC.layers):
        state |= {f"layer.{index}.{name}": signs(*sizes) for name, sizes in linears.items()}
    settings = {**seeded.config(SPEC), "id2label": dict(enumerate(TAGS))}
    return seeded.save(tmp_path / "toy", state, settings, seeded.vocabulary(SPEC))


@pytest.mark.usefixtures("rooms")
def test_from_checkpoint_to_prediction(checkpoint: Path, tmp_path: Path) -> None:
    packed = tmp_path / "toy.safetensors"
    report = bitinfer.convert(checkpoint, packed)
    assert report.parity is not None
    assert report.parity.exact
    model = bitinfer.load(packed)
    assert model.labels == TAGS
    assert model.info()["family"] == "toy"
    found = model.predict_proba(["a b c", "d"])
    assert found.shape == (2, 3)
    assert not np.allclose(found.sum(axis=1), 1)  # tags do not exclude each other
    best = model.predict("a b c", top_k=None)
    assert [p.score for p in best] == sorted(found[0].tolist(), reverse=True)
    assert bitinfer.load(checkpoint).predict("a b c", top_k=None) == best


def test_without_them(checkpoint: Path, tmp_path: Path, rooms: None) -> None:
    packed = tmp_path / "toy.safetensors"
    bitinfer.convert(checkpoint, packed, verify=False)
    tags = registry._HEADS.pop()
    with pytest.raises(FormatError, match="head': found 'tags', expected 'classification' or"):
        bitinfer.load(packed)
    registry.register(tags)
    assert isinstance(bitinfer.load(packed), BitModel)
    del families._FAMILIES["toy"]
    assert isinstance(bitinfer.load(packed), BitModel)  # how it was trained is no matter any more
    with pytest.raises(ConversionError, match="no family that is known"):
        bitinfer.convert(checkpoint, tmp_path / "other")


def test_a_head_that_reads_nothing(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is an encoder: its matrix, of one row, is there and is not used."""

    class Bare(Head):
        name = kind = key = "bare"
        reads = "none"
        outputs = range(1, 2)

    monkeypatch.setattr(registry, "_HEADS", [*registry.heads(), Bare()])
    model = bitinfer.load(packed(labels=1))
    metadata, tensors = read_packed(packed(labels=1))
    config = {**metadata["config"], "head": "bare"}
    tensors["head.weight"] = tensors["head.weight"] + 1
    write_packed(tmp_path / "m", tensors, {**metadata, "config": config})
    encoder = bitinfer.load(tmp_path / "m")
    np.testing.assert_array_equal(encoder.encode(["a b", "c"]), model.encode(["a b", "c"]))
    found, expected = encoder.forward([[1, 2, 3]]), model.forward([[1, 2, 3]])
    np.testing.assert_array_equal(found.last_hidden_state, expected.last_hidden_state)
    np.testing.assert_array_equal(found.pooler_output, expected.pooler_output)
    assert found.logits.shape == (1, 0)
    for method in (encoder.predict, encoder.predict_proba, encoder.logits):
        with pytest.raises(UnsupportedError, match="this model has a bare head; use forward"):
            method("a")
