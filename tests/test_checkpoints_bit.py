"""The reader of BiT checkpoints: every published form is understood, anything else is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeded
from children import environment

from bitinfer import families
from bitinfer.codes import Bits
from bitinfer.conversion.packing import to_metadata, to_tensors
from bitinfer.description import Description, matrix_shapes
from bitinfer.errors import ConversionError, InputError, InputTypeError, UnsupportedError
from bitinfer.families import bit, read_checkpoint
from bitinfer.families.bit import STEP_FLOOR, binarize
from bitinfer.heads import find_head
from bitinfer.runtime.origin import looks_like_checkpoint

torch = pytest.importorskip("torch")

SPEC = replace(seeded.TINY, layers=1)
LAYER = "bert.encoder.layer.0"
WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = f"{LAYER}.attention.self.query"
STATE = seeded.state_dict(SPEC)


def same_model(left: Description, right: Description) -> bool:
    """Whether two descriptions pack to the same bytes, wherever they were read from."""
    a, b = to_tensors(left), to_tensors(right)
    meta_a, meta_b = to_metadata(left), to_metadata(right)
    del meta_a["source"], meta_b["source"]
    return (
        meta_a == meta_b
        and a.keys() == b.keys()
        and all(a[name].tobytes() == b[name].tobytes() for name in a)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded.write(tmp_path_factory.mktemp("published"), SPEC)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Description:
    return read_checkpoint(folder)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Description]:
    """Reads the seeded checkpoint after some changes; None removes a key or setting."""

    def read_changed(
        state: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        vocab: list[str] | None = None,
        **options: Any,
    ) -> Description:
        source = seeded.save(
            tmp_path / "changed",
            changed(STATE, state or {}),
            changed(seeded.config(SPEC), config or {}),
            seeded.vocabulary(SPEC) if vocab is None else vocab,
        )
        return read_checkpoint(source, **options)

    return read_changed


def changed(original: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {**original, **changes}
    return {key: value for key, value in merged.items() if value is not None}


# ---- the rules


def test_binarize_by_hand() -> None:
    # The mean is 0.75, so 0.5 is below it; the scale is the mean of |W|, which is 1.75.
    matrix = np.array([[1.0, -2.0], [0.5, 3.5]], np.float32)
    whole = binarize(matrix, layerwise=True)
    assert whole[0].tolist() == [[1, -1], [-1, 1]]
    assert whole[1].tolist() == [1.75]
    rows = binarize(matrix, layerwise=False)
    assert rows[0].tolist() == whole[0].tolist()
    assert rows[1].tolist() == [1.5, 2.0]
    assert rows[1].dtype == np.float64
    assert rows[0].dtype == np.int8


def test_a_weight_equal_to_the_rounded_mean_is_exactly_zero() -> None:
    # The exact mean is 0.1 (as a float32) + 1/3 ulp: it rounds to 0.1, and codes follow that.
    tenth = np.float32(0.1)
    above = np.nextafter(tenth, np.float32(1))
    assert binarize(np.array([[tenth, tenth, above]]), layerwise=True)[0].tolist() == [[0, 0, 1]]


def test_signs_are_decided_by_the_correctly_rounded_mean() -> None:
    # Weights pile up at the mean, where one unit in its last place flips many signs.
    random = np.random.RandomState(8)
    matrix = np.float32(0.1) + random.randint(-3, 4, (60, 60)).astype(np.float32) * np.float32(
        2**-27
    )
    matrix[:, 0] += np.linspace(-1, 1, 60, dtype=np.float32)
    exact = sum(map(Fraction, matrix.ravel().tolist())) / matrix.size
    mean = np.float32(float(exact))
    codes = binarize(matrix, layerwise=True)[0]
    assert np.array_equal(codes, np.sign(matrix.astype(np.float64) - np.float64(mean)))
    for direction in (-np.inf, np.inf):
        wrong = np.nextafter(mean, np.float32(direction))
        assert (np.sign(matrix - wrong) != codes).sum() > 100


def test_rows_of_zeros_have_scale_zero_and_no_zero_plane() -> None:
    matrix = np.array([[0, 0], [3, 1]], np.float32)
    found = binarize(matrix, layerwise=False)
    assert found[1].tolist() == [0, 2]
    assert (found[0] == 0).sum() == 1  # 1 is the mean; the row of zeros does not count
    # With one scale for all, a row of zeros has codes like any other.
    assert binarize(matrix, layerwise=True)[0].tolist() == [[-1, -1], [1, 0]]
    assert binarize(-matrix, layerwise=True)[0].tolist() == [[1, 1], [-1, 0]]
    assert binarize(-matrix, layerwise=False)[0].tolist() == [[-1, -1], [-1, 0]]


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("words", [True, False])
def test_layerwise_settings(read: Callable[..., Description], weights: bool, words: bool) -> None:
    found = read(config={"weight_layerwise": weights, "embed_layerwise": words})
    assert found.arrays["embeddings.word.scale"].shape == ((1,) if words else (SPEC.vocab,))
    for name in matrix_shapes(found.config).keys() - {"embeddings.word"}:
        rows = found.arrays[f"{name}.bias"].shape
        assert found.arrays[f"{name}.scale"].shape == ((1,) if weights else rows)


def test_every_parameter_goes_to_its_place(expected: Description) -> None:
    config, arrays = expected.config, expected.arrays
    assert (config.hidden, config.layers, config.heads, config.intermediate) == (32, 1, 2, 64)
    assert (config.vocab, config.positions, config.token_types, config.labels) == (64, 40, 2, 2)
    assert (config.activation, config.head) == ("relu", "classification")
    linears = {
        QUERY: "layer.0.query",
        f"{LAYER}.attention.self.key": "layer.0.key",
        f"{LAYER}.attention.self.value": "layer.0.value",
        f"{LAYER}.attention.output.dense": "layer.0.attention.output",
        f"{LAYER}.intermediate.dense": "layer.0.intermediate",
        f"{LAYER}.output.dense": "layer.0.output",
        "bert.pooler.dense": "pooler",
    }
    for key, name in linears.items():
        matrix = STATE[f"{key}.weight"]
        codes = arrays[f"{name}.codes"]
        assert np.array_equal(codes, binarize(matrix, layerwise=True)[0])
        assert np.array_equal(arrays[f"{name}.bias"], STATE[f"{key}.bias"])
        assert np.array_equal(arrays[f"{name}.shift"], STATE[f"{key}.move.bias"])
        assert arrays[f"{name}.step"] == [STATE[f"{key}.input_clip_val"]]
    modules = {
        "bert.embeddings.LayerNorm": "embeddings.norm",
        f"{LAYER}.attention.output.LayerNorm": "layer.0.attention.norm",
        f"{LAYER}.output.LayerNorm": "layer.0.output.norm",
        "classifier": "head",
    }
    for key, name in modules.items():
        assert np.array_equal(arrays[f"{name}.weight"], STATE[f"{key}.weight"])
        assert np.array_equal(arrays[f"{name}.bias"], STATE[f"{key}.bias"])
    for name in ("query", "key", "value"):
        assert arrays[f"layer.0.{name}.code_step"] == [STATE[f"{LAYER}.attention.self.clip_{name}"]]
    assert arrays["layer.0.attention.probs.step"] == [STATE[f"{LAYER}.attention.self.clip_attn"]]
    for name in ("position", "token_type"):
        key = f"bert.embeddings.{name}_embeddings.weight"
        assert np.array_equal(arrays[f"embeddings.{name}"], STATE[key])
    words = arrays["embeddings.word.scale"]
    assert np.array_equal(words, binarize(STATE[WORDS], layerwise=False)[1])
    assert expected.vocab == tuple(seeded.vocabulary(SPEC))
    assert expected.source_file == "pytorch_model.bin"


def test_dead_parameters_are_dropped(
    read: Callable[..., Description], expected: Description
) -> None:
    keys = [f"{LAYER}.attention.self.move_{letter}.bias" for letter in "qkv"]
    found = read(state={key: np.full(SPEC.hidden, 7, np.float32) for key in keys})
    assert same_model(found, expected)
    assert sorted(found.notes.dropped) == sorted(keys)


def test_a_step_of_exactly_one_is_kept_and_reported(read: Callable[..., Description]) -> None:
    key = f"{QUERY}.input_clip_val"
    found = read(state={key: np.array(1, np.float32)})
    assert found.arrays["layer.0.query.step"] == [1]
    assert found.notes.untrained == (key,)
    assert found.notes.floored == ()


@pytest.mark.parametrize("step", [-0.3, 0.0, 1e-5, 9.9e-6, -1e-45])
def test_steps_not_above_the_floor_are_raised_and_reported(
    read: Callable[..., Description], step: float
) -> None:
    key = f"{LAYER}.attention.self.clip_attn"
    found = read(state={key: np.array(step, np.float32)})
    assert found.arrays["layer.0.attention.probs.step"] == [STEP_FLOOR] == [np.float32(1e-5)]
    assert found.notes.floored == ((key, float(np.float32(step))),)


def test_the_next_step_above_the_floor_is_kept(read: Callable[..., Description]) -> None:
    step = np.nextafter(STEP_FLOOR, np.float32(1))
    found = read(state={f"{LAYER}.attention.self.clip_attn": np.array(step)})
    assert found.arrays["layer.0.attention.probs.step"] == [step]
    assert found.notes.floored == ()


# ---- the forms of a checkpoint


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_single_files(tmp_path: Path, expected: Description, wrapper: str | None) -> None:
    state = seeded.tensors(STATE)
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "bit.pt")
    (tmp_path / "config.json").write_text(json.dumps(seeded.config(SPEC)))
    (tmp_path / "vocab.txt").write_text("\n".join(seeded.vocabulary(SPEC)))
    assert same_model(read_checkpoint(tmp_path / "bit.pt"), expected)
    assert same_model(read_checkpoint(str(tmp_path)), expected)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("vocab_form", [list, "\n".join, lambda v: {t: i for i, t in enumerate(v)}])
def test_config_and_vocabulary_inside(
    tmp_path: Path, expected: Description, as_text: bool, vocab_form: Callable[..., Any]
) -> None:
    config = seeded.config(SPEC)
    content = {
        "state_dict": seeded.tensors(STATE),
        "config": json.dumps(config) if as_text else config,
        "vocab": vocab_form(seeded.vocabulary(SPEC)),
    }
    torch.save(content, tmp_path / "bit.pt")
    assert same_model(read_checkpoint(tmp_path / "bit.pt"), expected)


def test_config_and_vocabulary_given_by_the_user(
    tmp_path: Path, folder: Path, expected: Description
) -> None:
    alone = tmp_path / "alone.pt"
    torch.save(seeded.tensors(STATE), alone)
    with pytest.raises(ConversionError, match=r"config: none given, none inside alone\.pt"):
        read_checkpoint(alone)
    with pytest.raises(ConversionError, match=r"vocab: none given.*pass vocab="):
        read_checkpoint(alone, config=folder)
    forms: list[tuple[Any, Any]] = [
        (folder, folder),
        (folder / "config.json", str(folder / "vocab.txt")),
        (seeded.config(SPEC), seeded.vocabulary(SPEC)),
    ]
    for config, vocab in forms:
        assert same_model(read_checkpoint(alone, config=config, vocab=vocab), expected)


def test_what_the_user_gives_wins(tmp_path: Path) -> None:
    wrong = {"config": {"hidden_size": 1}, "vocab": ["nothing"]}
    torch.save({"model": seeded.tensors(STATE), **wrong}, tmp_path / "bit.pt")
    vocab = [*seeded.SPECIAL_TOKENS, "given"]
    found = read_checkpoint(tmp_path / "bit.pt", config=seeded.config(SPEC), vocab=vocab)
    assert found.vocab == tuple(vocab)
    assert found.notes.remarks == ("the vocabulary has 6 tokens for 64 embeddings",)


def test_spellings_of_older_checkpoints(
    read: Callable[..., Description], expected: Description
) -> None:
    state: dict[str, Any] = {}
    for key, value in STATE.items():
        old = key.replace("LayerNorm.weight", "LayerNorm.gamma")
        old = old.replace("LayerNorm.bias", "LayerNorm.beta")
        state[f"module.{old}"] = value.reshape(1) if value.shape == () else value
        state[key] = None
    state["module.bert.embeddings.position_ids"] = np.arange(40)[None]
    found = read(state=state)
    assert same_model(found, expected)
    assert "bert.embeddings.position_ids" in found.notes.dropped


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_float_types_that_lose_nothing(read: Callable[..., Description], kind: str) -> None:
    dtype = getattr(torch, kind)
    narrow = {key: tensor.to(dtype) for key, tensor in seeded.tensors(STATE).items()}
    same_values = {key: tensor.to(torch.float32) for key, tensor in narrow.items()}
    found = read(state=narrow)
    assert found.notes.remarks == (
        f"some tensors were torch.{kind}; their values are kept exactly",
    )
    assert same_model(found, read(state=same_values))


# ---- refusals: tensors


def test_every_key_is_needed(tmp_path: Path) -> None:
    folder = seeded.save(tmp_path, {}, seeded.config(SPEC), seeded.vocabulary(SPEC))
    for missing in STATE:
        state = {key: value for key, value in STATE.items() if key != missing}
        torch.save(seeded.tensors(state), folder / "pytorch_model.bin")
        with pytest.raises(ConversionError) as caught:
            read_checkpoint(folder)
        assert missing in str(caught.value)


def test_every_shape_is_checked(tmp_path: Path) -> None:
    folder = seeded.save(tmp_path, {}, seeded.config(SPEC), seeded.vocabulary(SPEC))
    for key, value in STATE.items():
        longer = np.zeros((*value.shape[:-1], (value.shape or (1,))[-1] + 1), np.float32)
        torch.save(seeded.tensors({**STATE, key: longer}), folder / "pytorch_model.bin")
        with pytest.raises(ConversionError) as caught:
            read_checkpoint(folder)
        assert str(caught.value).startswith(f"{key}: found shape {list(longer.shape)}, expected")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_every_value_must_be_finite(tmp_path: Path, bad: float) -> None:
    folder = seeded.save(tmp_path, {}, seeded.config(SPEC), seeded.vocabulary(SPEC))
    for key, value in STATE.items():
        damaged = value.copy()
        damaged.reshape(-1)[-1] = bad
        torch.save(seeded.tensors({**STATE, key: damaged}), folder / "pytorch_model.bin")
        last = [size - 1 for size in value.shape]
        with pytest.raises(ConversionError) as caught:
            read_checkpoint(folder)
        assert str(caught.value) == f"{key}: found {bad} at {last}, expected finite float32 values"


@pytest.mark.parametrize(
    "key",
    [
        "bert.encoder.layer.1.attention.self.query.weight",
        f"{QUERY}.weight_clip_val",
        f"{LAYER}.attention.self.query_1.weight",
        "cls.predictions.bias",
        "optimizer",
    ],
)
def test_unknown_keys_are_refused(read: Callable[..., Description], key: str) -> None:
    with pytest.raises(ConversionError, match=f"1 unknown: {key}; expected the 46 keys"):
        read(state={key: np.zeros(2, np.float32)})


def test_a_key_under_two_spellings_is_refused(read: Callable[..., Description]) -> None:
    for key in (f"module.{WORDS}", "bert.embeddings.LayerNorm.gamma"):
        with pytest.raises(ConversionError, match=f"{key}: found twice"):
            read(state={key: np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros((SPEC.hidden,), np.int64), "torch.int64"),
        (np.zeros((SPEC.hidden,), np.complex64), "torch.complex64"),
        (np.full((SPEC.hidden,), 0.1, np.float64), "float64 values that are not float32 values"),
        (np.full((SPEC.hidden,), 1e300, np.float64), "1e+300 at [0]"),
        (torch.zeros(SPEC.hidden).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(SPEC.hidden, device="meta"), "on meta"),
        ([0.0] * SPEC.hidden, "list"),
    ],
)
def test_types_that_are_not_plain_float32_are_refused(
    read: Callable[..., Description], value: Any, found: str
) -> None:
    with pytest.raises(ConversionError) as caught:
        read(state={f"{QUERY}.bias": value})
    assert f"{QUERY}.bias" in str(caught.value)
    assert found in str(caught.value)


# ---- refusals: settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight_bits", 2),
        ("weight_bits", 32),
        ("weight_bits", True),
        ("weight_bits", "1"),
        ("input_bits", 5),
        ("input_bits", 8),
        ("input_bits", 31),
        ("input_bits", 32),
        ("input_bits", 0),
        ("input_bits", True),
        ("unsigned_codes", "from_one"),
        ("point_bits", "2"),
        ("point_bits", {"keys": 2}),
        ("point_bits key", 5),
        ("weight_quant_method", "twn"),
        ("input_quant_method", "uniform"),
        ("sym_quant_qkvo", False),
        ("sym_quant_ffn_attn", True),
        ("input_layerwise", False),
        ("not_quantize_attention", True),
        ("not_quantize_attention", 0),
        ("hidden_act", "gelu_new"),
        ("hidden_act", None),
        ("weight_layerwise", None),
        ("weight_layerwise", 1),
        ("embed_layerwise", "no"),
        ("hidden_size", 0),
        ("hidden_size", 32.0),
        ("num_hidden_layers", None),
        ("num_attention_heads", 3),
        ("num_hidden_layers", 10**12),
        ("vocab_size", True),
        ("type_vocab_size", -1),
        ("do_lower_case", "yes"),
    ],
)
def test_settings_that_are_not_supported_are_named(
    read: Callable[..., Description], key: str, value: Any
) -> None:
    config = {"point_bits": {"key": value}} if key == "point_bits key" else {key: value}
    with pytest.raises(ConversionError, match=f"{key}: found {value!r}, expected"):
        read(config=config)


def test_a_plain_bert_config_is_refused_with_all_that_it_lacks(
    read: Callable[..., Description],
) -> None:
    with pytest.raises(ConversionError, match=r"missing weight_bits, input_bits"):
        read(config={"weight_bits": None, "input_bits": None})


# ---- bits


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [None, "from_zero"])
def test_bits_are_those_of_the_config(
    read: Callable[..., Description], bits: int, rule: str | None
) -> None:
    found = read(config={"input_bits": bits, "unsigned_codes": rule})
    suffix = "-from-min" if bits > 1 and rule is None else ""
    for point, codes in found.codes.items():
        unsigned = point in ("attention.probs", "output.in")
        assert codes.name == (f"unsigned-{bits}{suffix}" if unsigned else f"signed-{bits}")
    assert len(found.codes) == 11
    assert str(found.bits) == f"1-1-{bits}"


def test_points_may_have_other_bits(read: Callable[..., Description]) -> None:
    settings = bit.quantization(Bits.parse("1-1-1+attention=4+output.in=2"))
    found = read(config=settings)
    assert str(found.bits) == "1-1-1+attention=4+ffn=2"
    assert found.codes["output.in"].name == "unsigned-2"


def without_quantization(tmp_path: Path, **settings: Any) -> Path:
    plain = {k: v for k, v in seeded.config(SPEC).items() if k not in bit.quantization(BITS)}
    return seeded.save(tmp_path / "p", STATE, {**plain, **settings}, seeded.vocabulary(SPEC))


BITS = Bits.parse("1-1-1")


def test_bits_are_never_assumed(tmp_path: Path) -> None:
    """The keys and shapes of 1-1-1, 1-1-2 and 1-1-4 are the same."""
    folder = without_quantization(tmp_path)
    with pytest.raises(ConversionError, match=r"same keys.*config=.*bits= \(--bits 1-1-2\)"):
        read_checkpoint(folder)
    for text in ("1-1-1", "1-1-2", "1-1-4"):
        found = read_checkpoint(folder, bits=text)
        assert str(found.bits) == text
        assert found.codes["output.in"].from_min == (text != "1-1-1")
        assert "weight_layerwise" in found.notes.remarks[0]


def test_bits_may_not_contradict_the_config(tmp_path: Path, folder: Path) -> None:
    assert read_checkpoint(folder, bits="1-1-1").notes.remarks == ()
    with pytest.raises(ConversionError, match=r"input_bits: found 1, expected what bits 1-1-2"):
        read_checkpoint(folder, bits="1-1-2")
    with pytest.raises(ConversionError, match="weight_bits: found 32, expected 1"):
        read_checkpoint(without_quantization(tmp_path), bits="32-1-1")
    with pytest.raises(ConversionError, match="bits: found 1-32-1, expected embeddings of 1 bit"):
        read_checkpoint(folder, bits="1-32-1")
    with pytest.raises(InputError, match="bits: found '1-1-9'"):
        read_checkpoint(folder, bits="1-1-9")


# ---- families


def test_other_checkpoints_are_of_no_family(read: Callable[..., Description]) -> None:
    shifts = {key: None for key in STATE if key.endswith(".move.bias")}
    with pytest.raises(ConversionError, match=r"no family that is known \(bit: no key ends in"):
        read(state=shifts)


def test_a_family_is_one_file(
    tmp_path: Path, expected: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands outside of the package, for checkpoints that say what they are."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families.families()))
    toy = families.Family(
        "toy",
        lambda checkpoint: None if "toy" in checkpoint.state else "no key toy",
        lambda checkpoint: replace(expected, family="toy", task=checkpoint.task),
    )
    families.register(toy)
    with pytest.raises(InputError, match="family 'toy': found one of that name"):
        families.register(toy)
    config, vocab = seeded.config(SPEC), seeded.vocabulary(SPEC)
    folder = seeded.save(tmp_path / "toy", {"toy": np.zeros(1, "f")}, config, vocab)
    found = read_checkpoint(folder, task="mine")
    assert (found.family, found.task) == ("toy", "mine")
    assert read_checkpoint(seeded.save(tmp_path / "bit", STATE, config, vocab)).family == "bit"
    both = seeded.save(tmp_path / "both", {**STATE, "toy": np.zeros(1, "f")}, config, vocab)
    with pytest.raises(ConversionError, match=r"found a checkpoint of \['bit', 'toy'\]"):
        read_checkpoint(both)


def test_other_settings_are_ignored(
    read: Callable[..., Description], expected: Description
) -> None:
    other = {"torchscript": True, "pruned_heads": {}, "clip_init_val": 1, "anything": [1]}
    assert same_model(read(config=other), expected)


def test_epsilon_of_the_config_is_not_used_but_reported(
    read: Callable[..., Description], expected: Description
) -> None:
    found = read(config={"layer_norm_eps": 1e-5})
    assert same_model(found, expected)
    assert "layer_norm_eps is 1e-05" in found.notes.remarks[0]


def test_labels_are_counted_by_the_classifier(read: Callable[..., Description]) -> None:
    with pytest.raises(ConversionError, match=r"classifier\.weight: found shape \[2, 32\].*3 rows"):
        read(config={"num_labels": 3})
    assert read(config={"num_labels": None}).config.labels == 2


def test_exactly_one_head(read: Callable[..., Description]) -> None:
    span = {"qa_outputs.weight": np.zeros((2, 32), np.float32), "qa_outputs.bias": np.zeros(2, "f")}
    with pytest.raises(ConversionError, match=r"head: found \['classifier\.weight', 'qa_outputs"):
        read(state=span)
    without = {"classifier.weight": None, "classifier.bias": None}
    with pytest.raises(ConversionError, match="head: found none"):
        read(state=without)
    found = read(state=span | without)
    assert found.config.head == "span"
    assert found.label_names == ()
    with pytest.raises(
        ConversionError, match=r"found shape \[2, 32\], expected 3 rows \(num_labels\)"
    ):
        read(state=span | without, config={"num_labels": 3})
    wide = {"qa_outputs.weight": np.zeros((3, 32), np.float32), "qa_outputs.bias": np.zeros(3, "f")}
    with pytest.raises(ConversionError, match=r"qa_outputs\.weight: found shape \[3, 32\]"):
        read(state=wide | without)


# ---- labels and tasks


def head(rows: int) -> dict[str, Any]:
    return {
        "classifier.weight": np.zeros((rows, SPEC.hidden), np.float32),
        "classifier.bias": np.zeros(rows, np.float32),
    }


@pytest.mark.parametrize(
    ("rows", "config", "options", "expected_names", "expected_task"),
    [
        (2, {}, {}, ("0", "1"), None),
        (3, {}, {"labels": ["a", "b", "c"]}, ("a", "b", "c"), None),
        (3, {}, {"task": "MNLI"}, ("contradiction", "entailment", "neutral"), "mnli"),
        (3, {"finetuning_task": "mnli"}, {}, ("contradiction", "entailment", "neutral"), "mnli"),
        (2, {"finetuning_task": "rte"}, {}, ("entailment", "not_entailment"), "rte"),
        (2, {"finetuning_task": "qnli"}, {}, ("entailment", "not_entailment"), "qnli"),
        (2, {"finetuning_task": "rte"}, {"task": "SST2"}, ("0", "1"), "sst-2"),
        (2, {"id2label": {"0": "bad", "1": "good"}}, {"task": "sst-2"}, ("bad", "good"), "sst-2"),
        (2, {"id2label": {"1": "good", "0": "bad"}}, {}, ("bad", "good"), None),
        (2, {"id2label": {"0": "1", "1": "0"}}, {}, ("1", "0"), None),
        (2, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}, ("0", "1"), None),
        (3, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}, ("0", "1", "2"), None),
        (
            2,
            {"id2label": {"0": "bad", "1": "good"}},
            {"labels": ["no", "yes"]},
            ("no", "yes"),
            None,
        ),
        (2, {"finetuning_task": "mnli"}, {"labels": ["a", "b"]}, ("a", "b"), "mnli"),
        (2, {}, {"labels": ["a", "b"], "task": "sst-2"}, ("a", "b"), "sst-2"),
        (2, {"finetuning_task": "banking"}, {}, ("0", "1"), "banking"),
        (1, {"finetuning_task": "sts-b"}, {}, (), "sts-b"),
        (1, {"id2label": {"0": "LABEL_0"}}, {}, (), None),
    ],
)
def test_labels(
    read: Callable[..., Description],
    rows: int,
    config: dict[str, Any],
    options: dict[str, Any],
    expected_names: tuple[str, ...],
    expected_task: str | None,
) -> None:
    found = read(state=head(rows), config={"num_labels": rows, **config}, **options)
    assert found.label_names == expected_names
    assert found.task == expected_task
    assert (find_head("classification", found.config.labels).kind == "regression") == (rows == 1)


@pytest.mark.parametrize(
    ("rows", "config", "options", "message"),
    [
        (2, {}, {"labels": ["a"]}, "labels: found 1 names, expected 2"),
        (2, {}, {"labels": ["a", "a"]}, "labels: found the same name twice"),
        (1, {}, {"labels": ["a"]}, "labels: found 1 names, expected 0"),
        (2, {}, {"task": "mnil"}, "task: found 'mnil', expected one of cola, sst-2"),
        (2, {}, {"task": "mnli"}, "task 'mnli': found a classification head with 2 outputs"),
        (2, {}, {"task": "sts-b"}, "task 'sts-b': found a classification head with 2 outputs"),
        (2, {}, {"task": "squad"}, "expected a span head"),
        (2, {}, {"task": "mnli", "labels": ["a", "b"]}, "task 'mnli': found a classification head"),
        (2, {}, {"task": "squad", "labels": ["a", "b"]}, "expected a span head"),
        (
            2,
            {"id2label": {"0": "a", "1": "b", "2": "c"}},
            {},
            "id2label: found 3 names, expected 2",
        ),
        (2, {"id2label": {"0": "a", "2": "b"}}, {}, "id2label: found .* expected a name for each"),
        (2, {"id2label": {"0": "a", "1": None}}, {}, "id2label: found .* expected a name for each"),
    ],
)
def test_labels_that_do_not_fit(
    read: Callable[..., Description],
    rows: int,
    config: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ConversionError, match=message):
        read(state=head(rows), config={"num_labels": rows, **config}, **options)


def test_labels_must_be_strings(read: Callable[..., Description]) -> None:
    for labels in ("ab", [1, 2]):
        with pytest.raises(InputTypeError, match="labels"):
            read(labels=labels)


# ---- vocabulary


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]"], r"vocab: missing \[SEP\]"),
        ([*seeded.SPECIAL_TOKENS, "a", "a"], "vocab: found 'a' twice, again as token 6"),
        ([*seeded.SPECIAL_TOKENS, "", "a"], "vocab: found '' as token 5"),
        ([*seeded.SPECIAL_TOKENS, *map(str, range(60))], "found 65 tokens, expected at most"),
    ],
)
def test_vocabularies_that_do_not_fit(
    read: Callable[..., Description], vocab: list[str], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        read(vocab=vocab)


def test_only_line_feeds_end_a_token(folder: Path, tmp_path: Path) -> None:
    tokens = [*seeded.SPECIAL_TOKENS, "a\u2028b", "\u0085", "c"]
    for ending in ("\n", "\r\n"):
        vocab = tmp_path / "vocab.txt"
        vocab.write_bytes((ending.join(tokens) + ending).encode())
        assert read_checkpoint(folder, vocab=vocab).vocab == tuple(tokens)


def test_vocabulary_must_be_utf8_and_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name in ("latin.txt", "absent.txt"):
        with pytest.raises(ConversionError, match=f"vocab: cannot read '{name}'"):
            read_checkpoint(folder, vocab=tmp_path / name)
    with pytest.raises(ConversionError, match="ids are not 0"):
        read_checkpoint(folder, vocab={"[PAD]": 1})  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match="ids are not 0"):
        read_checkpoint(folder, vocab={"[PAD]": 0, "[UNK]": "1"})  # type: ignore[arg-type]


def test_lowercase_is_read_from_the_files(read: Callable[..., Description], tmp_path: Path) -> None:
    assert read().lowercase
    assert not read(config={"do_lower_case": False}).lowercase
    (tmp_path / "changed" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not read().lowercase


# ---- files that are no checkpoint


class Opened:
    """Creates a file when unpickled: stands for any code in a hostile checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    torch.save({"state_dict": seeded.tensors(STATE), "config": Opened(trap)}, tmp_path / "bit.pt")
    with pytest.raises(ConversionError, match=r"bit\.pt: not a PyTorch file of plain tensors"):
        read_checkpoint(tmp_path / "bit.pt")
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", b"\x80\x02."])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bit.pt").write_bytes(content)
    with pytest.raises(ConversionError, match=r"bit\.pt: not a PyTorch file"):
        read_checkpoint(tmp_path / "bit.pt")


def test_truncated_file_is_refused(folder: Path, tmp_path: Path) -> None:
    data = (folder / "pytorch_model.bin").read_bytes()
    (tmp_path / "bit.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConversionError, match="not a PyTorch file"):
        read_checkpoint(tmp_path / "bit.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "found a list, expected a state dict"),
        ({"model": {}, "state_dict": {}}, r"found state dicts under \['state_dict', 'model'\]"),
        ({"state_dict": {}, "config": [1], "vocab": []}, "config: found a list"),
        ({"state_dict": {}, "config": "{", "vocab": []}, "config: not JSON"),
        ({"state_dict": {}, "config": "[]", "vocab": []}, "config: found a list"),
        ({"state_dict": {}, "config": "[" * 10**5, "vocab": []}, "config: not JSON"),
        ({"state_dict": {}, "config": {}, "vocab": 3}, "vocab: found int"),
        ({"state_dict": {3: torch.zeros(1)}, "config": {}, "vocab": seeded.SPECIAL_TOKENS}, "^3: "),
    ],
)
def test_contents_that_are_no_checkpoint(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "bit.pt")
    with pytest.raises(ConversionError, match=message):
        read_checkpoint(tmp_path / "bit.pt")


def test_folders_need_exactly_one_weights_file(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"absent: .* No such file or directory"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(ConversionError, match=r"found none, expected pytorch_model\.bin"):
        read_checkpoint(tmp_path)
    for name in ("a.pt", "b.bin"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConversionError, match=r"found \['a\.pt', 'b\.bin'\]"):
        read_checkpoint(tmp_path)


def test_without_torch_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedError, match=r"install bitinfer\[torch\]"):
        read_checkpoint(folder)


def test_a_torch_that_a_file_can_subvert_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("2.5.1", "2.9.1+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(UnsupportedError, match=rf"found PyTorch {re.escape(version)}.*2\.10"):
            read_checkpoint(folder)
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git1")
    read_checkpoint(folder)


def test_compressed_files_are_refused(folder: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bit.pt"
    with (
        zipfile.ZipFile(folder / "pytorch_model.bin") as plain,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record), zipfile.ZIP_DEFLATED)
        packed.writestr("archive/data/bomb", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(ConversionError, match=r"bit\.pt: found records of \d+ bytes in a file of"):
        read_checkpoint(bomb)


def test_a_tensor_must_be_stored_in_full(read: Callable[..., Description]) -> None:
    state = seeded.tensors(STATE)
    state["bert.pooler.dense.bias"] = torch.zeros(1).expand(32)
    with pytest.raises(ConversionError, match=r"pooler\.dense\.bias: found fewer stored values"):
        read(state=state)


# ---- recognizing a checkpoint


def test_looks_like_checkpoint_goes_by_content(folder: Path, tmp_path: Path) -> None:
    assert looks_like_checkpoint(folder)
    assert looks_like_checkpoint(folder / "pytorch_model.bin")
    legacy = tmp_path / "legacy.safetensors"
    torch.save(seeded.tensors(STATE), legacy, _use_new_zipfile_serialization=False)
    assert looks_like_checkpoint(legacy)
    packed = tmp_path / "packed.pt"
    packed.write_bytes((8).to_bytes(8, "little") + b'{"a": 1}')
    for path in (packed, tmp_path, tmp_path / "absent", folder / "vocab.txt", Path("/dev/null")):
        assert not looks_like_checkpoint(path)


def test_old_torch_files_are_read(tmp_path: Path, folder: Path, expected: Description) -> None:
    legacy = tmp_path / "legacy.bin"
    torch.save(seeded.tensors(STATE), legacy, _use_new_zipfile_serialization=False)
    assert same_model(read_checkpoint(legacy, config=folder, vocab=folder), expected)


def test_looking_does_not_import_torch(folder: Path) -> None:
    code = (
        "import sys; from bitinfer.runtime.origin import looks_like_checkpoint as look; "
        f"assert look({str(folder)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
