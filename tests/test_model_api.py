"""What a caller can pass to a model and what comes back."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import environment

import bitinfer
from bitinfer.errors import (
    ConversionError,
    FormatError,
    InputError,
    InputTypeError,
    UnsupportedError,
)
from bitinfer.results import Prediction

Packed = Callable[..., Path]
TEXTS = ["a b c", "", "aab aac aad aae", "q", "z y x w v u t", "a b c"]
LABELS = ["0", "1", "2"]


@pytest.fixture(scope="module")
def model(packed: Packed) -> bitinfer.BitModel:
    return bitinfer.load(packed(labels=3), num_threads=1)


@pytest.fixture(scope="module")
def regression(packed: Packed) -> bitinfer.BitModel:
    return bitinfer.load(packed(labels=1), num_threads=1)


@pytest.fixture(scope="module")
def span(packed: Packed) -> bitinfer.BitModel:
    return bitinfer.load(packed(head="span"), num_threads=1)


# ---- loading


def test_load_by_path_kind(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(labels=3)
    expected = bitinfer.load(path).logits(TEXTS)
    for other in (path, str(path), os.fsencode(path), os.path.relpath(path)):
        np.testing.assert_array_equal(bitinfer.load(other).logits(TEXTS), expected)
    disguised = tmp_path / "sst2"
    disguised.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    # An existing path wins over the name of a built-in model, whatever its ending.
    np.testing.assert_array_equal(bitinfer.load("sst2").logits(TEXTS), expected)


def test_load_converts_checkpoints_in_memory(packed: Packed, tmp_path: Path) -> None:
    path = packed(labels=3)
    folder = path.with_suffix("")
    expected = bitinfer.load(path)
    for source in (folder, folder / "pytorch_model.bin"):
        found = bitinfer.load(source)
        np.testing.assert_array_equal(found.logits(TEXTS), expected.logits(TEXTS))
        assert found.info()["bytes"] == expected.info()["bytes"]
        assert found.info()["sha256"] is None
        assert found.info()["source"] == expected.info()["source"]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"'no-such-model': no such file or folder, nor a built-in"
    ):
        bitinfer.load("no-such-model")
    for name in ("", "nul\0byte", "\ud800", "../sst2"):
        with pytest.raises(InputError, match="no such file"):
            bitinfer.load(name)


def test_load_rejects_other_files(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"hello")
    with pytest.raises(FormatError, match="m: "):
        bitinfer.load(tmp_path / "m")
    with pytest.raises(ConversionError, match="weights file"):
        bitinfer.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_load_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(InputError, match="found a pipe or device"):
            bitinfer.load(path)


def test_models_are_made_by_load() -> None:
    with pytest.raises(InputTypeError, match=r"found str; models are made by bitinfer\.load"):
        bitinfer.BitModel("sst2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "cuda"}, UnsupportedError),
        ({"num_threads": 0}, InputError),
        ({"num_threads": True}, InputTypeError),
        ({"num_threads": 1.5}, InputTypeError),
        ({"num_threads": 2**31}, InputError),
        ({"num_threads": 1025}, InputError),
        ({"isa": "sse9"}, UnsupportedError),
        ({"isa": ""}, UnsupportedError),
        ({"isa": "avx2\0"}, InputError),
        ({"isa": "\ud800"}, InputError),
        ({"isa": 3}, InputTypeError),
    ],
)
def test_load_options(packed: Packed, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        bitinfer.load(packed(labels=3), **options)


@pytest.mark.parametrize("path", [None, 3, ["sst2"]])
def test_load_needs_a_path(path: Any) -> None:
    with pytest.raises(InputTypeError, match=f"path: found {type(path).__name__}"):
        bitinfer.load(path)


def test_file_whose_tensors_do_not_fit(packed: Packed, tmp_path: Path) -> None:
    from bitinfer.runtime.format import read_packed, write_packed

    metadata, tensors = read_packed(packed(labels=3))
    del tensors["pooler.bias"]
    write_packed(tmp_path / "m", tensors, metadata)
    with pytest.raises(FormatError, match=r"m: .*pooler\.bias"):
        bitinfer.load(tmp_path / "m")


# ---- what the model is


def test_properties(model: bitinfer.BitModel, packed: Packed) -> None:
    assert model.labels == LABELS
    assert model.config["hidden"] == 32
    assert model.max_length == 40
    model.labels.append("changed")
    model.config["hidden"] = 0
    assert model.labels == LABELS
    assert model.config["hidden"] == 32
    assert "BitModel(" in repr(model)


def test_info(model: bitinfer.BitModel, packed: Packed) -> None:
    info = json.loads(json.dumps(model.info()))
    size = packed(labels=3).stat().st_size
    assert 0.5 * size < info["bytes"]["total"] < size  # the rest is the header
    assert info["isa"] == bitinfer.available_isas()[0] or os.environ.get("BITINFER_ISA")
    assert info["num_threads"] == 1
    assert info["model"] == str(packed(labels=3))
    assert info["bits"] == "1-1-1"
    model.info()["config"]["hidden"] = 0
    assert model.info()["config"]["hidden"] == 32


# ---- texts


def test_predict_follows_the_kind_of_input(model: bitinfer.BitModel) -> None:
    best = model.predict("a b c")
    assert isinstance(best, Prediction)
    many: Any = model.predict(TEXTS)
    assert many[0] == many[-1] == best
    assert model.predict(iter(TEXTS)) == many
    assert model.predict(text for text in TEXTS) == many
    assert model.predict(np.array(TEXTS)) == many
    assert model.predict(["a b c"]) == [best]
    assert model.predict([]) == []
    assert model.predict([], top_k=None) == []
    assert model.predict("") == many[1]


def test_top_k(model: bitinfer.BitModel) -> None:
    ranked: Any = model.predict("a b c", top_k=None)
    assert [p.score for p in ranked] == sorted((p.score for p in ranked), reverse=True)
    assert sorted(p.label for p in ranked) == LABELS
    assert sum(p.score for p in ranked) == pytest.approx(1, abs=1e-12)
    assert [p.index for p in ranked] == [LABELS.index(p.label) for p in ranked]
    assert model.predict("a b c", top_k=2) == ranked[:2]
    assert model.predict("a b c", top_k=1) == ranked[0]
    assert model.predict(["a b c"], top_k=np.int64(3)) == [ranked]


def test_scores_are_the_probabilities(model: bitinfer.BitModel) -> None:
    probabilities = model.predict_proba(TEXTS)
    logits = model.logits(TEXTS)
    assert probabilities.shape == logits.shape == (len(TEXTS), 3)
    assert probabilities.dtype == logits.dtype == np.float64
    for row, ranking in zip(probabilities, model.predict(TEXTS, top_k=None), strict=True):
        assert [row[p.index] for p in ranking] == [p.score for p in ranking]
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-14)
    assert model.predict_proba("a").shape == model.logits("a").shape == (3,)
    assert model.predict_proba([]).shape == model.logits([]).shape == (0, 3)


def test_ways_to_pass_pairs(model: bitinfer.BitModel) -> None:
    expected = model.logits(["a b", "c"], ["b", "a a"])
    for texts in (
        [("a b", "b"), ("c", "a a")],
        [["a b", "b"], ["c", "a a"]],
        [{"text": "a b", "text_pair": "b"}, {"text": "c", "text_pair": "a a"}],
        [("a b", "b"), {"text": "c", "text_pair": "a a"}],
        iter([("a b", "b"), ("c", "a a")]),
    ):
        np.testing.assert_array_equal(model.logits(texts), expected)
    np.testing.assert_array_equal(model.logits(["a b", "c"], ("b", "a a")), expected)
    np.testing.assert_array_equal(model.logits("a b", "b"), expected[0])
    np.testing.assert_array_equal(model.logits(("a b", "b")), expected[0])
    np.testing.assert_array_equal(model.logits({"text": "a b", "text_pair": "b"}), expected[0])
    np.testing.assert_array_equal(model.logits(iter(["a b", "c"]), iter(["b", "a a"])), expected)
    single = model.logits(["a b", "c"])
    assert not np.array_equal(single, expected)
    np.testing.assert_array_equal(model.logits(["a b", ("c", None)]), single)
    np.testing.assert_array_equal(model.logits(["a b", "c"], [None, ""]), single)
    np.testing.assert_array_equal(model.logits([{"text": "a b"}, {"text": "c"}]), single)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), InputTypeError, "texts: found int"),
        ((None,), InputTypeError, "texts: found NoneType"),
        ((b"bytes",), InputTypeError, "texts: found bytes"),
        ((memoryview(b"bytes"),), InputTypeError, "texts: found memoryview"),
        ((np.array("a"),), InputTypeError, "texts: found ndarray"),
        ((str,), InputTypeError, "texts: found type"),
        ((("a", "b", "c"),), InputError, "text 0: found 3 texts in a tuple"),
        ((["a", 3],), InputTypeError, "text 1: found int, expected str"),
        ((["a"] * 40 + [None],), InputTypeError, "text 40: found NoneType, expected str"),
        ((["a", ("a", 3)],), InputTypeError, "second text 1: found int, expected str"),
        ((["a", "\udc80"],), InputError, r"text 1: lone surrogate U\+DC80 at position 0"),
        ((["a", ["a"]],), InputError, "text 1: found 1 texts in a list, expected a pair"),
        ((["a", {"txt": "b"}],), InputError, "text 1: found keys"),
        ((["a", "b"], ["c"]), InputError, "text_pairs: found 1, expected 2"),
        ((iter(["a", "b"]), ["c"]), InputError, "ends at index 1"),
        ((iter(["a"]), ["c", "d"]), InputError, "ends at index 1"),
        ((["a", "b"], "c"), InputTypeError, "text_pairs: found str"),
        ((["a"], 3), InputTypeError, "text_pairs: found int"),
        ((["a"], np.array("a")), InputTypeError, "text_pairs: found ndarray"),
        ((["a"], {"a": "b"}), InputTypeError, "text_pairs: found dict"),
        ((("a", "b"), "c"), InputError, "found a pair, and text_pairs as well"),
        (([("a", "b")], ["c"]), InputError, "text 0: found a pair"),
        (("a", 3), InputTypeError, "second text 0: found int, expected str"),
    ],
)
def test_bad_texts(
    model: bitinfer.BitModel, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.predict(*arguments)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"top_k": 0}, InputError),
        ({"top_k": -1}, InputError),
        ({"top_k": 4}, InputError),
        ({"top_k": True}, InputTypeError),
        ({"top_k": 1.0}, InputTypeError),
        ({"batch_size": 0}, InputError),
        ({"batch_size": -3}, InputError),
        ({"batch_size": 2**70}, InputError),
        ({"batch_size": True}, InputTypeError),
        ({"batch_size": "8"}, InputTypeError),
        ({"max_length": 2}, InputError),
        ({"max_length": 41}, InputError),
        ({"max_length": False}, InputTypeError),
        ({"truncation": 1}, InputTypeError),
        ({"truncation": "longest_first"}, InputTypeError),
        ({"show_progress_bar": "yes"}, InputTypeError),
    ],
)
def test_bad_options(
    model: bitinfer.BitModel, options: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = options
    for texts in ("a", ["a"], []):
        with pytest.raises(error, match=f"{name}: found"):
            model.predict(texts, **options)


def test_truncation(model: bitinfer.BitModel) -> None:
    long = "a " * 50
    np.testing.assert_array_equal(model.logits(long), model.logits("a " * 38))
    np.testing.assert_array_equal(
        model.logits(long, max_length=5), model.logits("a a a", truncation=False)
    )
    with pytest.raises(InputError, match="text 33: 52 tokens, at most 40 fit"):
        model.predict([*["a"] * 33, long], truncation=False)


def test_regression(regression: bitinfer.BitModel) -> None:
    assert regression.labels == []
    values = regression.logits(TEXTS)
    assert values.shape == (len(TEXTS),)
    assert regression.predict("a b c") == Prediction(None, values[0], None)
    assert regression.predict(TEXTS) == [Prediction(None, value, None) for value in values]
    assert regression.predict(["a b c"], top_k=None) == [[Prediction(None, values[0], None)]]
    assert regression.logits("a b c") == values[0]
    with pytest.raises(UnsupportedError, match="regression"):
        regression.predict_proba("a")
    with pytest.raises(InputError, match="top_k"):
        regression.predict("a", top_k=2)


def test_span(span: bitinfer.BitModel) -> None:
    assert span.labels == []
    for method in (span.predict, span.predict_proba, span.logits):
        with pytest.raises(UnsupportedError, match="span head"):
            method("a")
    assert span.encode(["a", "b"]).shape == (2, 32)


# ---- embeddings


def test_encode(model: bitinfer.BitModel) -> None:
    for pooling in ("cls", "mean", "pooler"):
        vectors = model.encode(TEXTS, pooling=pooling)
        assert vectors.shape == (len(TEXTS), 32)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(model.encode(TEXTS[0], pooling=pooling), vectors[0])
        assert model.encode([], pooling=pooling).shape == (0, 32)
        normal = model.encode(TEXTS, pooling=pooling, normalize_embeddings=True)
        np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, rtol=1e-6)
        scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(normal, scaled, rtol=1e-5, atol=1e-7)


def test_encode_is_what_forward_computes(model: bitinfer.BitModel) -> None:
    ids = np.array([[2, 5, 6, 7, 3]])  # [CLS] a b c [SEP]
    output = model.forward(ids)
    np.testing.assert_array_equal(model.encode("a b c"), output.last_hidden_state[0, 0])
    np.testing.assert_array_equal(model.encode("a b c", pooling="pooler"), output.pooler_output[0])
    np.testing.assert_allclose(
        model.encode("a b c", pooling="mean"), output.last_hidden_state[0].mean(axis=0), rtol=1e-5
    )
    np.testing.assert_array_equal(model.logits("a b c").astype(np.float32), output.logits[0])


def test_encode_options(model: bitinfer.BitModel) -> None:
    with pytest.raises(InputError, match="pooling: found 'max', expected 'cls' or 'mean'"):
        model.encode("a", pooling="max")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="pooling"):
        model.encode("a", pooling=None)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="normalize_embeddings"):
        model.encode("a", normalize_embeddings=1)  # type: ignore[arg-type]


def test_normalizing_a_zero_vector() -> None:
    from bitinfer.runtime.model import _normalize

    np.testing.assert_array_equal(
        _normalize(np.array([[0.0, 0.0], [3.0, 4.0]])), [[0, 0], [0.6, 0.8]]
    )


# ---- nothing depends on the company a text is in


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_do_not_matter(model: bitinfer.BitModel, batch_size: int) -> None:
    backwards = TEXTS[::-1]
    np.testing.assert_array_equal(
        model.logits(backwards, batch_size=batch_size)[::-1], model.logits(TEXTS)
    )
    for pooling in ("cls", "mean", "pooler"):
        np.testing.assert_array_equal(
            model.encode(backwards, pooling=pooling, batch_size=batch_size)[::-1],
            model.encode(TEXTS, pooling=pooling),
        )


def test_a_stream_is_not_read_ahead(model: bitinfer.BitModel) -> None:
    seen: list[int] = []
    runs: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(50):
            # What was read before but not yet run is never more than a batch.
            assert number - sum(runs) < 8
            seen.append(number)
            yield "a b c"

    def run(batch: Any, *, hidden: bool) -> Any:
        runs.append(len(batch.offsets) - 1)
        return type(model)._run(model, batch, hidden=hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_run", run)
        assert len(model.predict(texts(), batch_size=8)) == 50
        assert runs == [8] * 6 + [2]
        for method in (model.logits, model.predict_proba, model.encode):
            runs.clear()
            assert len(method(texts(), batch_size=8)) == 50


def test_errors_of_a_stream_are_the_callers(model: bitinfer.BitModel) -> None:
    def texts() -> Iterator[str]:
        yield "a"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        model.predict(texts(), batch_size=1)


# ---- arrays


def padded(rows: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def test_padding_does_not_matter(model: bitinfer.BitModel) -> None:
    rows = [[2, 9, 3], [2, 9, 10, 11, 12, 3], [2, 3]]
    ids, mask = padded(rows, 6)
    wide_ids, wide_mask = padded(rows, 40)
    output, wide = model.forward(ids, mask), model.forward(wide_ids, wide_mask)
    np.testing.assert_array_equal(output.logits, wide.logits)
    np.testing.assert_array_equal(output.pooler_output, wide.pooler_output)
    np.testing.assert_array_equal(output.last_hidden_state, wide.last_hidden_state[:, :6])
    assert not wide.last_hidden_state[wide_mask == 0].any()
    for i, row in enumerate(rows):
        alone = model.forward([row])
        np.testing.assert_array_equal(alone.logits[0], output.logits[i])
        np.testing.assert_array_equal(
            alone.last_hidden_state[0], output.last_hidden_state[i, : len(row)]
        )


def reference(packed: Packed, **changes: Any) -> Any:
    path = packed(**changes)  # skips where PyTorch is missing
    from bitinfer.conversion.packing import from_tensors
    from bitinfer.reference import Reference
    from bitinfer.runtime.format import read_packed

    metadata, tensors = read_packed(path)
    return Reference(from_tensors(tensors, metadata))


MASKS = [
    [1, 1, 1, 1, 1, 1],
    [1, 0, 1, 1, 0, 1],  # holes
    [0, 0, 1, 1, 1, 1],  # padding on the left: column 0 asks although it is masked
    [0, 1, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 1],
    [1, 0, 0, 0, 0, 0],
]


@pytest.mark.parametrize("changes", [{"labels": 3}, {"labels": 1}, {"head": "span"}])
def test_masks_as_the_reference(packed: Packed, changes: dict[str, Any]) -> None:
    ids = np.random.RandomState(0).randint(0, 64, (6, 6))
    types = np.random.RandomState(1).randint(0, 2, (6, 6))
    mask = np.array(MASKS)
    expected = reference(packed, **changes)(ids, types, mask)
    found = bitinfer.load(packed(**changes)).forward(ids, mask, types)
    real = mask.astype(bool)
    span = "head" in changes
    logits = expected.logits.numpy()
    assert found.logits.shape == logits.shape
    chosen = real if span else slice(None)
    np.testing.assert_allclose(found.logits[chosen], logits[chosen], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.pooler_output, expected.pooled.numpy(), atol=1e-6)
    hidden = expected.hidden[-1].numpy()
    np.testing.assert_allclose(found.last_hidden_state[real], hidden[real], rtol=1e-6, atol=1e-6)
    assert not found.last_hidden_state[~real].any()
    assert not span or not found.logits[~real].any()
    assert {array.dtype for array in found} == {np.dtype(np.float32)}


class OnlyArray:
    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)


class OnlyDlpack:
    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


def test_kinds_of_arrays(model: bitinfer.BitModel) -> None:
    ids, mask = padded([[2, 9, 3], [2, 9, 10, 11, 12, 3]], 6)
    expected = model.forward(ids, mask).logits
    frozen = ids.copy()
    frozen.flags.writeable = False
    kinds = [
        *(ids.astype(kind) for kind in ("i1", "u2", "i4", "u8", ">i4")),
        *(frozen, np.asfortranarray(ids), ids.repeat(2, axis=1)[:, ::2], ids.tolist()),
        *(OnlyArray(ids), OnlyDlpack(ids)),
    ]
    for kind in kinds:
        np.testing.assert_array_equal(model.forward(kind, mask).logits, expected)
    for kind in (mask.astype(bool), mask.astype("u1"), mask.tolist(), OnlyArray(mask)):
        np.testing.assert_array_equal(model.forward(ids, kind).logits, expected)


def test_torch_tensors(model: bitinfer.BitModel) -> None:
    torch = pytest.importorskip("torch")
    ids, mask = padded([[2, 9, 3], [2, 9, 10, 11, 12, 3]], 6)
    found = model.forward(
        torch.tensor(ids), torch.tensor(mask), torch.zeros(2, 6, dtype=torch.long)
    )
    np.testing.assert_array_equal(found.logits, model.forward(ids, mask).logits)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0, 2.0]],), InputTypeError, "input_ids: found dtype float64"),
        (([["a"]],), InputTypeError, "input_ids: found dtype"),
        (([[1, 2], [3]],), InputTypeError, "input_ids: found list, expected an array"),
        (([[2**70]],), InputTypeError, "input_ids: found dtype object"),
        (([[True, False]],), InputTypeError, "input_ids: found dtype bool"),
        (([[1, 2]], None, [[True, False]]), InputTypeError, "token_type_ids: found dtype bool"),
        (([1, 2],), InputError, r"input_ids: found shape \(2,\), expected \[batch"),
        ((np.zeros((0, 4), int),), InputError, "input_ids: found shape"),
        ((np.zeros((2, 0), int),), InputError, "input_ids: found shape"),
        ((np.zeros((1, 41), int),), InputError, "found 41 columns, expected at most 40"),
        (([[1, 64]],), InputError, r"input_ids\[0, 1\]: found 64, expected 0..63"),
        (([[1, -1]],), InputError, r"input_ids\[0, 1\]: found -1"),
        (([[1, 2**40]],), InputError, r"input_ids\[0, 1\]: found 1099511627776"),
        (([[1, 2]], [[1]]), InputError, r"attention_mask: found shape \(1, 1\), expected \(1, 2\)"),
        (([[1, 2]], [[1, 2]]), InputError, r"attention_mask\[0, 1\]: found 2"),
        (([[1], [2]], [[1], [0]]), InputError, "attention_mask: row 1 is all zero"),
        (([[1, 2]], [[1.0, 1.0]]), InputTypeError, "attention_mask: found dtype float64"),
        (([[1, 2]], None, [[0, 2]]), InputError, r"token_type_ids\[0, 1\]: found 2"),
        (([[1, 2]], None, [0, 0]), InputError, "token_type_ids: found shape"),
    ],
)
def test_bad_arrays(
    model: bitinfer.BitModel, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.forward(*arguments)


def test_trace_is_the_prediction(model: bitinfer.BitModel, packed: Packed) -> None:
    ids = [2, 5, 6, 7, 3]
    tokens = np.int32(ids), np.arange(5, dtype=np.int32), np.zeros(5, np.int32), 5, 0
    trace = model._core.trace(*tokens)
    assert trace["logits"].reshape(-1).tobytes() == model.logits("a b c").tobytes()
    expected = reference(packed, labels=3)([ids], trace=True)
    for name, codes in expected.codes.items():
        np.testing.assert_array_equal(trace[name], codes[0].numpy(), err_msg=name)
    later = model._core.trace(*tokens, layer=1, hidden=trace["hidden1"])
    assert later["logits"].tobytes() == trace["logits"].tobytes()


# ---- results


def test_prediction_is_immutable_and_unpacks() -> None:
    prediction = Prediction("positive", 0.75, 1)
    label, score, index = prediction
    assert (label, score, index) == ("positive", 0.75, 1)
    assert prediction.asdict() == {"label": "positive", "score": 0.75, "index": 1}
    assert json.dumps(prediction.asdict())
    assert len({prediction, Prediction("positive", 0.75, 1)}) == 1
    assert pickle.loads(pickle.dumps(prediction)) == prediction
    with pytest.raises(FrozenInstanceError):
        prediction.score = 1.0  # type: ignore[misc]


def test_scores_are_plain_floats(model: bitinfer.BitModel) -> None:
    assert type(model.predict("a").score) is float
    assert type(model.predict("a").index) is int


# ---- the package


def test_public_names() -> None:
    for name in bitinfer.__all__:
        assert getattr(bitinfer, name) is not None
    assert set(bitinfer.__all__) <= set(dir(bitinfer))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = bitinfer.no_such_name  # type: ignore[attr-defined]
    for error in ("FormatError", "ConversionError", "InputError"):
        assert issubclass(getattr(bitinfer, error), (bitinfer.BitinferError, ValueError))
    assert callable(bitinfer.convert)  # also after its module was imported


def test_predicting_imports_little(packed: Packed) -> None:
    code = f"""
import sys, bitinfer
before = set(sys.modules)
assert not {{"numpy", "tokenizers", "safetensors", "torch"}} & before, before
model = bitinfer.load({str(packed(labels=3))!r})
model.predict(["a b", "c"])
model.encode("a b", pooling="mean")
model.forward([[2, 5, 3]])
heavy = {{"torch", "transformers", "tqdm", "scipy", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_progress_bar(
    model: bitinfer.BitModel, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model.predict(TEXTS)
    assert capsys.readouterr().err == ""
    expected = model.predict(TEXTS, show_progress_bar=True)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err
    with caplog.at_level(logging.INFO, logger="bitinfer"):
        assert model.predict(iter(TEXTS)) == expected
        assert "text" in capsys.readouterr().err
        model.predict(TEXTS, show_progress_bar=False)
        assert capsys.readouterr().err == ""


def test_builtin_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bitinfer.load("sst2")
    assert model.labels == ["negative", "positive"]
    assert [p.label for p in model.predict(["a warm and funny film", "dull"])] == model.labels[::-1]
    data = pickle.dumps(model)
    (tmp_path / "sst2").write_bytes(b"another file of that name")
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).logits("a").tobytes() == model.logits("a").tobytes()
    with pytest.raises(FormatError):
        bitinfer.load("sst2")
