"""Integer thresholds give the code of the formula at every integer: compared with trying each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from bitinfer import _core
from bitinfer.conversion.thresholds import (
    Thresholds,
    gelu_thresholds,
    layer_thresholds,
    relu_thresholds,
    signed_thresholds,
)
from bitinfer.errors import ConversionError
from bitinfer.families import read_checkpoint

MIN, MAX = np.iinfo(np.int32).min, np.iinfo(np.int32).max
REACH = 24
ATTENTION = "bert.encoder.layer.0.attention.self"
SUMS = range(-REACH, REACH + 1)

# Multiples of a power of two cancel exactly; the others almost never do.
DYADIC = st.integers(-80, 80).map(lambda n: n / 32)
SLOPES = st.one_of(
    st.sampled_from([0.0, 2.0**-5, 0.5, 1.0, 2.0**-60]), st.floats(0, 4), st.floats(0, 1e-6)
)
OFFSETS = st.one_of(DYADIC, st.floats(-3, 3, width=32), st.sampled_from([0.0, -0.0, 1e30, -1e30]))
STEPS = st.one_of(st.sampled_from([1e-5, 0.25, 1.0]), st.floats(2.0**-16, 4, width=32))
CHANNEL = st.tuples(SLOPES, OFFSETS, OFFSETS, STEPS)


def signed_codes(thresholds: Thresholds, channel: int) -> list[int]:
    """What an engine makes of the thresholds."""
    threshold = int(thresholds.threshold[channel])
    low = threshold + 1 if thresholds.low is None else int(thresholds.low[channel])
    return [1 if s > threshold else -1 if s < low else 0 for s in SUMS]


def unsigned_codes(thresholds: Thresholds, channel: int) -> list[int]:
    threshold = int(thresholds.threshold[channel])
    low = MIN if thresholds.low is None else int(thresholds.low[channel])
    return [int(s > threshold or s < low) for s in SUMS]


def arguments(channel: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
    slope, offset, shift, step = channel
    return (
        np.array([slope]),
        np.array([offset], np.float32),
        np.array([shift], np.float32),
        np.float32(step),
    )


@settings(max_examples=400)
@given(CHANNEL)
def test_signed_thresholds_equal_the_formula_everywhere(channel: tuple[float, ...]) -> None:
    slope, offset, _, _ = arguments(channel)
    expected = [int(np.sign(float(slope[0]) * s + float(offset[0]))) for s in SUMS]
    found = signed_thresholds(slope, offset, REACH)
    assert signed_codes(found, 0) == expected
    assert (found.low is not None) == (0 in expected)


@settings(max_examples=400)
@given(CHANNEL)
def test_relu_thresholds_equal_the_formula_everywhere(channel: tuple[float, ...]) -> None:
    slope, offset, shift, step = arguments(channel)
    values = [max(float(slope[0]) * s + float(offset[0]), 0.0) + float(shift[0]) for s in SUMS]
    found = relu_thresholds(slope, offset, shift, step, REACH)
    assert found.low is None
    assert unsigned_codes(found, 0) == [int(value > 0.5 * float(step)) for value in values]


@settings(max_examples=400)
@given(CHANNEL)
def test_gelu_thresholds_equal_the_formula_everywhere(channel: tuple[float, ...]) -> None:
    slope, offset, shift, step = arguments(channel)
    x = np.array([float(slope[0]) * s + float(offset[0]) for s in SUMS])
    expected = (_core.gelu(x) + float(shift[0]) > 0.5 * float(step)).astype(int).tolist()
    found = gelu_thresholds(slope, offset, shift, step, REACH)
    assert unsigned_codes(found, 0) == expected


def test_gelu_bits_on_both_sides_of_the_dip() -> None:
    # step / 2 - shift = -0.1 lies within GELU's dip (its minimum is -0.17 near -0.75).
    found = gelu_thresholds(*arguments((0.25, 0.0, 0.35, 0.5)), REACH)
    assert unsigned_codes(found, 0) == [int(s < -6 or s > -1) for s in SUMS]
    assert found.low is not None


def test_exactly_half_a_step_is_not_above_it() -> None:
    at_zero = arguments((0.25, 0.0, 0.5, 1.0))
    for thresholds in (relu_thresholds, gelu_thresholds):
        assert unsigned_codes(thresholds(*at_zero, REACH), 0) == [int(s > 0) for s in SUMS]


def test_ends_of_the_range_are_written_as_always_and_never() -> None:
    slope = np.array([1.0, 1.0, 1.0, 0.0])
    offset = np.array([100, -100, 0, 0], np.float32)
    found = signed_thresholds(slope, offset, REACH)
    assert found.threshold.tolist() == [MIN, MAX, 0, MAX]
    assert found.low is not None
    assert found.low.tolist() == [MIN, MAX, 0, MIN]
    assert signed_thresholds(slope[:2], offset[:2], REACH).low is None
    shift = np.zeros(4, np.float32)
    step = np.float32(1)
    assert relu_thresholds(slope, offset, shift, step, REACH).threshold.tolist() == [
        MIN,
        MAX,
        0,
        MAX,
    ]
    assert gelu_thresholds(slope, offset, shift, step, REACH).threshold.tolist() == [
        MIN,
        MAX,
        0,
        MAX,
    ]
    assert found.threshold.dtype == found.low.dtype == np.int32


def test_many_channels_cross_the_chunks_of_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(5)
    slope = random.random_sample(50) / 8
    offset, shift = (random.standard_normal((2, 50)) / 4).astype(np.float32)
    whole = gelu_thresholds(slope, offset, shift, np.float32(0.4), REACH)
    monkeypatch.setattr("bitinfer.conversion.thresholds._CHUNK", 7 * len(SUMS) + 3)
    parts = gelu_thresholds(slope, offset, shift, np.float32(0.4), REACH)
    assert np.array_equal(whole.threshold, parts.threshold)
    assert whole.low is not None
    assert np.array_equal(whole.low, parts.low)


def test_codes_that_two_thresholds_cannot_express_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = read_checkpoint(seeded.write(tmp_path, replace(seeded.TINY, activation="gelu")))
    monkeypatch.setattr(_core, "gelu", lambda x: np.maximum(x, 0) - 0.08 * (1 + np.sin(50 * x)))
    with pytest.raises(ConversionError, match=r"layer 1 output\.in: channel \d+: found a one"):
        layer_thresholds(description, 1)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_layer_thresholds_use_the_parameters_of_each_point(tmp_path: Path, activation: str) -> None:
    spec = replace(seeded.TINY, activation=activation, weight_layerwise=False)
    state = seeded.state_dict(spec)
    # The number of positions decides how far contexts reach: two channels change near its end.
    steps = state[f"{ATTENTION}.clip_attn"] * state[f"{ATTENTION}.clip_value"]
    far = (spec.positions - 3.5) * steps
    state["bert.encoder.layer.0.attention.output.dense.move.bias"][:2] = far, -far
    folder = seeded.save(tmp_path, state, seeded.config(spec), seeded.vocabulary(spec))
    description = read_checkpoint(folder)
    layer = description.layers[0]
    points = layer_thresholds(description, 0)
    assert points["attention.output.in"].threshold[:2].tolist() == [-37, 36]
    assert list(points) == ["query", "key", "value", "attention.output.in", "output.in"]
    for name, linear in (
        ("query", layer.linears["query"]),
        ("key", layer.linears["key"]),
        ("value", layer.linears["value"]),
    ):
        s = np.arange(-spec.hidden, spec.hidden + 1)
        step, scale = np.float64(linear.step), linear.weight.scale[:, None]
        ones = (step * scale) * s + linear.bias.astype(np.float64)[:, None] > 0
        assert np.array_equal(s > points[name].threshold[:, None], ones), name
    s = np.arange(-spec.positions, spec.positions + 1)
    step = np.float64(layer.steps["attention.probs"]) * np.float64(layer.steps["value"])
    ones = step * s + layer.linears["attention.output"].shift.astype(np.float64)[:, None] > 0
    assert np.array_equal(s > points["attention.output.in"].threshold[:, None], ones)
    s = np.arange(-spec.hidden, spec.hidden + 1)
    inner = layer.linears["intermediate"]
    y = (np.float64(inner.step) * inner.weight.scale[:, None]) * s + inner.bias[:, None].astype(
        "f8"
    )
    value = np.maximum(y, 0) if activation == "relu" else _core.gelu(y)
    ones = value + layer.linears["output"].shift.astype("f8")[:, None] > 0.5 * np.float64(
        layer.linears["output"].step
    )
    threshold, low = points["output.in"]
    found = s > threshold[:, None]
    if low is not None:
        found |= s < low[:, None]
    assert np.array_equal(found, ones)
