"""Checkpoint to packed file and back: the same network, the same bytes, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from bitinfer.bits import pack_bits, unpack_bits
from bitinfer.conversion import convert as converter
from bitinfer.conversion.convert import (
    convert,
    pack_checkpoint,
)
from bitinfer.conversion.export import export_float
from bitinfer.conversion.packing import (
    from_tensors,
    to_metadata,
    to_tensors,
)
from bitinfer.conversion.parity import _SAMPLE_LENGTHS, Parity, measure_parity
from bitinfer.errors import ConversionError, InputError, InputTypeError
from bitinfer.families import bit, latent, read_checkpoint
from bitinfer.families.bit import binarize
from bitinfer.runtime import sizes
from bitinfer.runtime.format import read_packed

torch = pytest.importorskip("torch")

SPECS = {
    "tiny": seeded.TINY,
    "160 wide": seeded.WIDE_160,
    "gelu rowwise": replace(seeded.WIDE_160, activation="gelu", weight_layerwise=False),
    "cancelling": replace(seeded.WIDE_160, cancelling=True),
    "cancelling rowwise": replace(seeded.TINY, cancelling=True, weight_layerwise=False),
    "exact zeros": replace(seeded.TINY, exact_zeros=40, embed_layerwise=True),
    "exact zeros and activations": replace(seeded.TINY, exact_zeros=9, activation="gelu"),
    "span": replace(seeded.TINY, head="span"),
    "regression": replace(seeded.TINY, labels=1),
    "two bits": replace(seeded.TINY, bits="1-1-2", activation="gelu"),
    "two bits from min": replace(seeded.TINY, bits="1-1-2", from_min=True, exact_zeros=9),
    "four bits from min": replace(seeded.WIDE_160, bits="1-1-4", from_min=True),
    "mixed": replace(seeded.TINY, bits="1-1-1+attention=4+ffn=2", head="span"),
    "one token type": replace(seeded.TINY, token_types=1, positions=7),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[seeded.Spec], Path]:
    """The folder of a seeded checkpoint, written once."""
    made: dict[seeded.Spec, Path] = {}

    def write(spec: seeded.Spec) -> Path:
        if spec not in made:
            made[spec] = seeded.write(tmp_path_factory.mktemp("source"), spec)
        return made[spec]

    return write


@pytest.fixture
def tiny(source: Callable[[seeded.Spec], Path]) -> Path:
    return source(seeded.TINY)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """One digest of names, types, shapes and bytes."""
    hasher = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hasher.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return hasher.hexdigest()


def assert_equal(left: Any, right: Any, where: str = "description") -> None:
    """Equality of nested dataclasses with arrays, to the bit."""
    if is_dataclass(left):
        for field in fields(left):
            if field.name not in ("notes",):
                name = f"{where}.{field.name}"
                assert_equal(getattr(left, field.name), getattr(right, field.name), name)
    elif isinstance(left, Mapping):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_equal(left[name], right[name], f"{where}[{name!r}]")
    elif isinstance(left, tuple):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_equal(a, b, f"{where}[{index}]")
    else:
        assert type(left) is type(right), where
        assert np.array_equal(left, right), where
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None), where


# ---- the packed engine computes what the reference computes


@pytest.mark.parametrize("name", SPECS)
def test_engine_equals_the_reference(source: Callable[[seeded.Spec], Path], name: str) -> None:
    description = read_checkpoint(source(SPECS[name]))
    parity = measure_parity(description, to_tensors(description))
    assert parity.codes_differing == 0
    assert parity.first_difference is None
    assert parity.logits_difference < 1e-12
    assert parity.exact
    assert parity.codes > 1000 * parity.sequences


DECIDED_BY_THRESHOLDS = (
    *("self.query.bias", "self.key.bias", "self.value.bias", "intermediate.dense.bias"),
    *("attention.output.dense.move.bias", "output.dense.move.bias"),
)


def test_engine_equals_the_reference_at_the_ends_of_thresholds(tmp_path: Path) -> None:
    """Channels that are always or never on, rows without scale, zeros beside them."""
    spec = replace(seeded.TINY, cancelling=True, weight_layerwise=False)
    state = seeded.state_dict(spec)
    for key, value in state.items():
        if key.endswith(DECIDED_BY_THRESHOLDS):
            value[:4] = [1e30, -1e30, 0, 0]
        if key.endswith(("self.query.weight", "self.value.weight", "intermediate.dense.weight")):
            value[3] = 0
    folder = seeded.save(tmp_path, state, seeded.config(spec), seeded.vocabulary(spec))
    description = read_checkpoint(folder)
    tensors = to_tensors(description)
    assert tensors["layer.0.query.rises"][1, :4].tolist() == [-33, 32, 0, 32]
    assert tensors["layer.0.query.rises"][0, [0, 1, 3]].tolist() == [-33, 32, -33]
    parity = measure_parity(description, tensors)
    assert parity.codes_differing == 0
    assert parity.logits_difference < 1e-9


def test_engine_equals_the_reference_where_all_probabilities_are_half_a_step(
    tmp_path: Path,
) -> None:
    description = read_checkpoint(seeded.save(tmp_path, *seeded.uniform_attention(length=8)))
    assert 8 in _SAMPLE_LENGTHS
    assert measure_parity(description, to_tensors(description)).exact


@pytest.mark.parametrize(
    "point",
    [
        "layer.1.query",
        "layer.0.attention.output.in",
        "layer.1.output.in",
    ],
)
def test_parity_notices_one_wrong_rise(tiny: Path, point: str) -> None:
    description = read_checkpoint(tiny)
    tensors = to_tensors(description)
    rises = tensors[f"{point}.rises"].copy()
    rises[-1, 0] += 2
    tensors[f"{point}.rises"] = rises
    parity = measure_parity(description, tensors)
    assert parity.codes_differing > 0
    layer, _, name = point.removeprefix("layer.").partition(".")
    assert parity.first_difference == f"codes.layer{layer}.{name}"
    assert not parity.exact


def test_parity_notices_a_wrong_head(tiny: Path) -> None:
    description = read_checkpoint(tiny)
    tensors = to_tensors(description)
    tensors["head.bias"] = tensors["head.bias"] + np.float32(1e-3)
    parity = measure_parity(description, tensors)
    assert parity.codes_differing == 0
    assert not parity.exact


# ---- tensors and back


def test_bits_by_hand() -> None:
    bits = np.zeros((2, 67), bool)
    bits[0, [0, 63, 64]] = True
    bits[1, 66] = True
    words = pack_bits(bits)
    assert words.dtype == np.uint64
    assert words.tolist() == [[1 | 1 << 63, 1], [0, 4]]
    assert np.array_equal(unpack_bits(words, 67), bits)


@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_bits_round_trip(columns: int, seed: int) -> None:
    bits = np.random.RandomState(seed).random_sample((3, columns)) < 0.5
    words = pack_bits(bits)
    assert words.shape == (3, -(-columns // 64))
    assert np.array_equal(unpack_bits(words, columns), bits)
    for row in range(3):
        value = sum(int(word) << 64 * index for index, word in enumerate(words[row]))
        assert value == sum(1 << k for k in range(columns) if bits[row, k])


@pytest.mark.parametrize("name", SPECS)
def test_descriptions_round_trip(source: Callable[[seeded.Spec], Path], name: str) -> None:
    description = read_checkpoint(source(SPECS[name]))
    again = from_tensors(to_tensors(description), to_metadata(description))
    assert_equal(again, description)


def test_exact_zeros_are_marked_in_their_rows_only(source: Callable[[seeded.Spec], Path]) -> None:
    description = read_checkpoint(source(replace(seeded.TINY, exact_zeros=9)))
    tensors = to_tensors(description)
    codes = description.arrays["layer.0.query.codes"]
    rows = np.flatnonzero((codes == 0).any(1))
    assert 0 < len(rows) <= 9
    assert (codes == 0).sum() == 9
    assert np.array_equal(tensors["layer.0.query.zero_rows"], rows)
    assert np.array_equal(unpack_bits(tensors["layer.0.query.nonzero"], 32), codes[rows] != 0)
    assert not (tensors["layer.0.query.bits"][rows] & ~tensors["layer.0.query.nonzero"]).any()
    assert "embeddings.word.zero_rows" not in tensors


# ---- the file


@pytest.mark.parametrize(
    ("spec", "state", "packed"),
    [
        (
            seeded.TINY,
            "7ef3ff86ec706ac6e4203e7e039e03ccb283c7d1708ce61884aaca34c1c07894",
            "748d81ed2fe886a23bd652ff7e2c7476e8cf1369f351751b1affc06317397884",
        ),
        (
            SPECS["exact zeros and activations"],
            "33bade04ac3731ad6a3f34fde5a31bee83716fde6f642c88dfb6e0f5b5d901d7",
            "92e3a3511067ec9c227b7fc24c6ada5057cd573e45fe13baef879f9a6d50795a",
        ),
    ],
    ids=["relu", "gelu"],
)
def test_the_same_checkpoint_gives_the_same_bytes_everywhere(
    tmp_path: Path, spec: seeded.Spec, state: str, packed: str
) -> None:
    """Digests from another day and machine: conversion depends on neither."""
    assert digest(seeded.state_dict(spec)) == state
    assert digest(to_tensors(read_checkpoint(seeded.write(tmp_path, spec)))) == packed


def test_convert_writes_a_file_that_says_what_it_is(tiny: Path, tmp_path: Path) -> None:
    report = convert(
        tiny,
        tmp_path / "a.safetensors",
        labels=["bad", "good"],
        task="sst2",
        licence="CC-BY-NC-4.0",
    )
    metadata, tensors = read_packed(tmp_path / "a.safetensors")
    description = read_checkpoint(tiny, labels=["bad", "good"], task="sst2")
    assert digest(tensors) == digest(to_tensors(description))
    assert metadata["labels"] == ["bad", "good"]
    assert metadata["task"] == "sst-2"
    assert metadata["licence"] == "CC-BY-NC-4.0"
    assert metadata["vocab"].split("\n") == seeded.vocabulary(seeded.TINY)
    assert metadata["tokenizer"] == {"lowercase": True, "max_length": 40}
    weights = (tiny / "pytorch_model.bin").read_bytes()
    assert metadata["source"] == {
        "file": "pytorch_model.bin",
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert metadata["report"] == json.loads(json.dumps(report.asdict()))
    assert_equal(from_tensors(tensors, metadata), description)


def test_equal_inputs_give_equal_files(tiny: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(tiny, tmp_path / name)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    assert str(tmp_path).encode() not in data
    assert str(tiny).encode() not in data


def test_bits_that_the_config_does_not_tell_are_named_by_the_user(
    tiny: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny / "config.json").read_text())
    del config["input_bits"]
    with pytest.raises(ConversionError, match=r"missing input_bits; .*bits= \(--bits 1-1-2\)"):
        convert(tiny, tmp_path / "a", config=config)
    convert(tiny, tmp_path / "a", config=config, bits="1-1-2")
    assert read_packed(tmp_path / "a")[0]["codes"]["output.in"] == "unsigned-2-from-min"


def test_pack_checkpoint_is_convert_without_a_file(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path / "a", verify=False)
    metadata, tensors = read_packed(tmp_path / "a")
    in_memory, arrays = pack_checkpoint(tiny)
    assert digest(arrays) == digest(tensors)
    del metadata["sha256"]
    assert in_memory == metadata


@pytest.mark.parametrize(
    ("given", "task", "positions", "expected"),
    [
        (None, None, 40, 40),
        (None, "sst-2", 40, 40),
        (None, "sst-2", 100, 64),
        (None, "mnli", 512, 128),
        (None, "imdb", 512, 512),
        (9, "sst-2", 40, 9),
    ],
)
def test_max_length(
    tiny: Path, given: int | None, task: str | None, positions: int, expected: int
) -> None:
    description = read_checkpoint(tiny)
    config = description.config._replace(positions=positions)
    found = to_metadata(replace(description, config=config, task=task), max_length=given)
    assert found["tokenizer"]["max_length"] == expected


@pytest.mark.parametrize("max_length", [2, 41])
def test_max_length_that_does_not_fit(tiny: Path, tmp_path: Path, max_length: int) -> None:
    with pytest.raises(InputError, match=f"max_length: found {max_length}, expected 3..40"):
        convert(tiny, tmp_path / "a", max_length=max_length)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_told_otherwise(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(tmp_path / "absent", target)  # refused before anything is read
    assert target.read_text() == "precious"
    convert(tiny, target, overwrite=True, verify=False)
    read_packed(target)


def test_a_target_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        convert(tmp_path / "absent", tmp_path / "folder" / "a")


@pytest.mark.parametrize("option", [{"task": 5}, {"licence": b"MIT"}, {"max_length": "9"}])
def test_options_of_the_wrong_type(tiny: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(InputTypeError, match=f"{next(iter(option))}: found (int|bytes|str)"):
        convert(tiny, tmp_path / "a", **option)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_never_replaced(tiny: Path) -> None:
    weights = tiny / "pytorch_model.bin"
    before = weights.read_bytes()
    with pytest.raises(InputError, match="found a checkpoint, which is not replaced"):
        convert(tiny, weights, overwrite=True, verify=False)
    assert weights.read_bytes() == before


def test_nothing_is_written_when_parity_fails(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Parity(5, 98, 1000, 3, "codes.layer1.query", 0.2)
    monkeypatch.setattr(converter, "measure_parity", lambda *_: wrong)
    with pytest.raises(
        ConversionError, match=r"found 3 of 1,000 codes differ .* at codes\.layer1\.query"
    ):
        convert(tiny, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    convert(tiny, tmp_path / "a", verify=False)


# ---- the report


def test_report_names_what_was_met(tmp_path: Path) -> None:
    spec = replace(seeded.TINY, exact_zeros=9)
    state: dict[str, Any] = seeded.state_dict(spec)
    layer = "bert.encoder.layer.0.attention.self"
    state[f"{layer}.clip_query"] = np.array(1, np.float32)
    state[f"{layer}.clip_attn"] = np.array(-0.25, np.float32)
    folder = seeded.save(tmp_path / "s", state, seeded.config(spec), seeded.vocabulary(spec)[:-1])
    report = convert(folder, tmp_path / "a.safetensors")
    assert set(report.zeros) == {f"layer.{i}.{name}" for i in (0, 1) for name in LINEARS} | {
        "pooler"
    }
    assert min(report.zeros.values()) == 9
    assert report.untrained == (f"{layer}.clip_query",)
    assert report.floored == ((f"{layer}.clip_attn", -0.25),)
    assert len(report.dropped) == 6
    assert report.parity is not None
    assert report.parity.exact
    text = str(report)
    for part in (
        "pytorch_model.bin -> ",
        "the vocabulary has 63 tokens for 64 embeddings",
        "move_q.bias",
        "(6 in all)",
        "layer.0.query 9",
        f"1.0, probably never trained: {layer}.clip_query",
        f"used as 1e-5: {layer}.clip_attn -0.25",
        f"0 of {report.parity.codes:,} codes differ",
    ):
        assert part in text
    stored = report.asdict()
    assert json.loads(json.dumps(stored)) == stored
    assert str(tmp_path) not in json.dumps(stored)
    assert replace(report, destination="elsewhere").asdict() == stored
    noisy = replace(report, parity=replace(report.parity, logits_difference=1e-15))
    assert noisy.asdict() == stored


LINEARS = ("query", "key", "value", "attention.output", "intermediate", "output")


def test_report_without_parity_says_so(tiny: Path, tmp_path: Path) -> None:
    report = convert(tiny, tmp_path / "a", verify=False)
    assert report.parity is None
    assert report.asdict()["parity"] is None
    assert "parity: not measured" in str(report)


def test_sizes_are_those_of_checkpoint_and_file(tiny: Path, tmp_path: Path) -> None:
    report = convert(tiny, tmp_path / "a", verify=False)
    _, tensors = read_packed(tmp_path / "a")
    vocabulary = report.sizes["vocabulary"][1]
    before = sum(before for before, _ in report.sizes.values()) - vocabulary
    after = sum(after for _, after in report.sizes.values()) - vocabulary
    live = {k: v for k, v in seeded.state_dict(seeded.TINY).items() if ".move_" not in k}
    assert before == sum(value.nbytes for value in live.values())
    assert after == sum(value.nbytes for value in tensors.values())
    assert sizes.by_part((n, t.nbytes) for n, t in tensors.items()).keys() <= report.sizes.keys()
    assert "other" not in report.sizes


# ---- back to float


@pytest.mark.parametrize("name", SPECS)
def test_export_means_the_same_network(
    source: Callable[[seeded.Spec], Path], tmp_path: Path, name: str
) -> None:
    convert(source(SPECS[name]), tmp_path / "a.safetensors", verify=False)
    export_float(tmp_path / "a.safetensors", tmp_path / "float")
    metadata, tensors = read_packed(tmp_path / "a.safetensors")
    again, arrays = pack_checkpoint(tmp_path / "float")
    assert digest(arrays) == digest(tensors)
    for key in ("config", "codes", "family", "labels", "task", "vocab", "tokenizer"):
        assert again[key] == metadata[key], key
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "float"}


def test_export_keeps_labels_task_and_case(tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    options = {"labels": ["1", "0"], "task": "sst-2", "config": {**config, "do_lower_case": False}}
    convert(tiny, tmp_path / "a", verify=False, **options)
    export_float(tmp_path / "a", tmp_path / "float")
    found = read_checkpoint(tmp_path / "float")
    assert (found.label_names, found.task, found.lowercase) == (("1", "0"), "sst-2", False)


def test_export_of_the_trained_model(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "bit-sst2"
    convert(folder, tmp_path / "a", verify=False)
    _, tensors = read_packed(tmp_path / "a")
    assert tensors["layer.0.output.nonzero"].shape[0] <= 8
    export_float(tmp_path / "a", tmp_path / "float")
    assert digest(pack_checkpoint(tmp_path / "float")[1]) == digest(tensors)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([-1, 0, 1]), min_size=24, max_size=300),
    st.floats(2.0**-60, 2.0**20),
)
def test_any_codes_and_scale_come_back(codes: list[int], scale: float) -> None:
    row = np.array([1, -1] * 8 + codes, np.int8)[None]
    values = bit._weights("w", row, np.array([scale]))
    assert values.dtype == np.float32
    back = binarize(values, layerwise=True)
    assert np.array_equal(back[0], row)
    assert back[1] == [scale]


@settings(max_examples=200)
@given(st.integers(2**24, 2**60), st.integers(0, 100), st.integers(8, 500))
def test_split_sums_exactly_with_values_that_are_all_but_equal(
    digits: int, exponent: int, count: int
) -> None:
    total = digits * count + 1 << exponent
    values = latent._split(total, count)
    assert values.dtype == np.float32
    assert len(values) == count
    assert (values > 0).all()
    assert sum(map(Fraction, values.tolist())) == Fraction(total, 2**149)
    assert values.max() <= 1.2 * np.median(values)


def test_matrices_that_float32_cannot_carry_are_refused() -> None:
    one_sided = np.ones((2, 8), np.int8), np.array([0.1])
    with pytest.raises(ConversionError, match="w: found too few weights of one sign"):
        bit._weights("w", *one_sided)
    below = np.array([[1, -1] * 8], np.int8), np.array([1e-60])
    with pytest.raises(ConversionError, match="w: found no float32 weights"):
        bit._weights("w", *below)


def test_export_refuses_an_existing_folder(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path / "a", verify=False)
    (tmp_path / "float").mkdir()
    with pytest.raises(FileExistsError, match="expected a new folder"):
        export_float(tmp_path / "a", tmp_path / "float")
    assert list((tmp_path / "float").iterdir()) == []


def test_export_leaves_nothing_behind_when_it_fails(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tiny, tmp_path / "a", verify=False)

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_float(tmp_path / "a", tmp_path / "float")
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
