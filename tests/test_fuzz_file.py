"""A damaged or hostile file gives a typed error, or a model that runs; never a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed import join, reseal, split, with_metadata

import bitinfer
from bitinfer.codes import allowed_codes
from bitinfer.errors import BitinferError

SMALL = {"hidden": 8, "layers": 1, "intermediate": 16, "vocab": 12, "positions": 6}
FUZZ = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Contents(bytes):
    """Shown by its size in the reports of failures."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module", params=["1-1-1", "1-1-2", "1-1-1+attention=4+ffn=2"])
def data(packed: Callable[..., Path], request: pytest.FixtureRequest) -> bytes:
    more = {"bits": request.param, "from_min": request.param == "1-1-2"}
    return Contents(packed(**SMALL, **more, exact_zeros=3, activation="gelu").read_bytes())


def survives(folder: Path, data: bytes) -> bool:
    """Load the bytes and use the model; whether it could be loaded."""
    path = folder / "m"
    path.write_bytes(data)
    try:
        model = bitinfer.load(path, num_threads=1)
    except BitinferError:
        return False
    json.dumps(model.info(), allow_nan=False)
    config: Any = model.config
    ids = np.arange(2 * config["positions"]).reshape(2, -1) % config["vocab"]
    output = model.forward(ids)
    assert output.last_hidden_state.shape[:2] == ids.shape
    if config["head"] == "classification":
        model.predict(["a b", "c"], top_k=None)
    return True


def test_the_undamaged_file(data: bytes, tmp_path: Path) -> None:
    assert survives(tmp_path, data)
    assert reseal(data) == data


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """A few changes: where (in 1/2**24 of the file), what kind, and with which bytes."""
    kind = st.sampled_from(["set", "insert", "delete", "repeat"])
    place = st.integers(0, 2**24 - 1)
    return draw(st.lists(st.tuples(kind, place, st.binary(min_size=1, max_size=9)), max_size=4))


def edit(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, piece in changes:
        at = place * len(data) >> 24
        before, after = data[:at], data[at:]
        if kind == "set":
            data = before + piece + after[len(piece) :]
        elif kind == "insert":
            data = before + piece + after
        elif kind == "delete":
            data = before + after[len(piece) :]
        else:
            data = before + after[: len(piece)] + after
    return data


@FUZZ
@given(changes=edits(), sealed=st.booleans())
def test_damaged_bytes(
    data: bytes, tmp_path: Path, changes: list[tuple[str, int, bytes]], sealed: bool
) -> None:
    changed = edit(data, changes)
    if sealed:
        survives(tmp_path, reseal(changed))
    elif changed != data:
        assert not survives(tmp_path, changed)


@FUZZ
@given(values=st.data())
def test_damaged_tensors(data: bytes, tmp_path: Path, values: st.DataObject) -> None:
    """Well-formed files whose tensors hold anything at all."""
    header, body = split(data)
    names = sorted(set(header) - {"__metadata__"})
    changed = bytearray(body)
    for name in values.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        start, end = header[name]["data_offsets"]
        patterns = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\xc0\x7f", b"\0\0\x80\x7f"]
        anything = st.binary(min_size=1, max_size=end - start)
        pattern = values.draw(st.sampled_from(patterns) | anything)
        first = values.draw(st.integers(start, end - 1))
        length = values.draw(st.integers(1, end - first))
        changed[first : first + length] = (pattern * length)[:length]
    survives(tmp_path, reseal(data[: len(data) - len(body)] + bytes(changed)))


NUMBERS = st.integers(-2, 40) | st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63), 10**30])
NAMES = st.sampled_from([name for point in ("key", "output.in") for name in allowed_codes(point)])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@FUZZ
@given(values=st.data())
def test_damaged_metadata(data: bytes, tmp_path: Path, values: st.DataObject) -> None:
    """Valid JSON with other values; sizes that do not fit the tensors above all."""
    header, _ = split(data)
    metadata = json.loads(header["__metadata__"]["bitinfer"])
    for _ in range(values.draw(st.integers(1, 3))):
        groups = [metadata, metadata["config"], metadata["codes"], metadata["tokenizer"]]
        group = values.draw(st.sampled_from([g for g in groups if isinstance(g, dict) and g]))
        key = values.draw(st.sampled_from(sorted(group)))
        group[key] = values.draw(NUMBERS | ANYTHING | NAMES)
    survives(tmp_path, with_metadata(data, metadata))


@FUZZ
@given(values=st.data())
def test_damaged_table_of_tensors(data: bytes, tmp_path: Path, values: st.DataObject) -> None:
    """Tensors renamed, missing, of another type or shape, or with other offsets."""
    header, body = split(data)
    header = copy.deepcopy(header)
    for _ in range(values.draw(st.integers(1, 3))):
        names = sorted(set(header) - {"__metadata__"})
        name = values.draw(st.sampled_from(names))
        action = values.draw(
            st.sampled_from(["drop", "rename", "swap", "type", "shape", "offsets"])
        )
        if action == "drop":
            del header[name]
        elif action == "rename":
            header[values.draw(st.sampled_from(names) | st.text(max_size=9))] = header.pop(name)
        elif action == "swap":
            other = values.draw(st.sampled_from(names))
            header[name], header[other] = header[other], header[name]
        elif action == "type":
            header[name]["dtype"] = values.draw(
                st.sampled_from(["U64", "F64", "F32", "I32", "I16", "BF16"])
            )
        elif action == "shape":
            header[name]["shape"] = values.draw(st.lists(NUMBERS, max_size=3))
        else:
            header[name]["data_offsets"] = values.draw(st.lists(NUMBERS, min_size=2, max_size=2))
    survives(tmp_path, reseal(join(header, body)))
