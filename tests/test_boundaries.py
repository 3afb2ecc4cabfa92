"""Rises and falls give the code of the formula at every integer: compared with trying each."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from bitinfer import _core
from bitinfer.codes import Bits, PointCodes
from bitinfer.conversion.boundaries import (
    Boundaries,
    boundaries,
    layer_boundaries,
)
from bitinfer.errors import ConversionError
from bitinfer.families import read_checkpoint
from bitinfer.families.bit import quantization

REACH = 24
ATTENTION = "bert.encoder.layer.0.attention.self"
SUMS = np.arange(-REACH, REACH + 1)
ZERO = np.zeros(1)

# Multiples of a power of two cancel exactly; the others almost never do.
DYADIC = st.integers(-80, 80).map(lambda n: n / 32)
SLOPES = st.one_of(
    st.sampled_from([0.0, 2.0**-5, 0.5, 1.0, 2.0**-60]), st.floats(0, 4), st.floats(0, 1e-6)
)
OFFSETS = st.one_of(DYADIC, st.floats(-3, 3, width=32), st.sampled_from([0.0, -0.0, 1e30, -1e30]))
STEPS = st.one_of(st.sampled_from([1e-5, 0.25, 1.0]), st.floats(2.0**-16, 4, width=32))
CHANNEL = st.tuples(SLOPES, OFFSETS, OFFSETS, STEPS)
SIGNED = st.sampled_from([PointCodes(bits) for bits in (1, 2, 3, 4)])
UNSIGNED = st.sampled_from([PointCodes(bits, False) for bits in (1, 2, 3, 4)])
Channel = tuple[float, float, float, float]


def codes_of(found: Boundaries, codes: PointCodes, sums: np.ndarray = SUMS) -> np.ndarray:
    """What an engine makes of the boundaries, [N, sums]."""
    assert found.rises.dtype == np.int16
    above = sums > found.rises[..., None]
    if found.falls is not None:
        above |= sums < found.falls[..., None]
        assert (found.falls <= found.rises + 1).all()
        assert (np.diff(found.falls, axis=0) <= 0).all()
        assert found.falls.min() >= sums[0]
        assert found.falls.max() <= sums[-1]
    assert (np.diff(found.rises, axis=0) >= 0).all()
    assert found.rises.min() >= sums[0] - 1
    assert found.rises.max() <= sums[-1]
    if codes.by_sign and len(above) == 1:
        return 2 * above[0].astype(int) - 1
    return codes.low + above.sum(0)


def code_of(value: float, step: float, codes: PointCodes) -> int:
    """The definition, where it matters in exact arithmetic of the float64 ratio."""
    if codes.by_sign:
        return (value > 0) - (value < 0)
    if codes.bits == 1:
        return int(value > 0.5 * step)
    ratio = Fraction(value / step)
    below = math.floor(ratio)
    if abs(ratio - below - Fraction(1, 2)) <= Fraction(1, 2**40):
        nearest = below + below % 2
    else:
        nearest = below + (ratio - below > Fraction(1, 2))
    return max(codes.low, min(codes.high, nearest))


def arguments(channel: Channel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slope, offset, shift and step, all but the slope float32 as in a checkpoint."""
    slope, *others = (np.array([each]) for each in channel)
    offset, shift, step = (each.astype(np.float32).astype(np.float64) for each in others)
    return slope, offset, shift, step


@settings(max_examples=400)
@given(CHANNEL, SIGNED)
def test_affine_boundaries_equal_the_formula_everywhere(
    channel: Channel, codes: PointCodes
) -> None:
    slope, offset, _, step = arguments(channel)
    values = [float(slope[0]) * s + float(offset[0]) for s in SUMS.tolist()]
    expected = [code_of(value, float(step[0]), codes) for value in values]
    found = boundaries(codes, REACH, slope, offset, 0 * offset, step)
    assert found.falls is None
    assert codes_of(found, codes)[0].tolist() == expected
    if codes.by_sign:
        assert (len(found.rises) == 2) == (0 in expected)


@settings(max_examples=400)
@given(CHANNEL, UNSIGNED)
def test_relu_boundaries_equal_the_formula_everywhere(channel: Channel, codes: PointCodes) -> None:
    slope, offset, shift, step = arguments(channel)
    values = [max(float(slope[0]) * s + float(offset[0]), 0.0) + float(shift[0]) for s in SUMS]
    found = boundaries(codes, REACH, slope, offset, shift, step, activation="relu")
    assert found.falls is None
    assert codes_of(found, codes)[0].tolist() == [code_of(v, float(step[0]), codes) for v in values]


@settings(max_examples=800)
@given(CHANNEL, UNSIGNED)
def test_gelu_boundaries_equal_the_formula_everywhere(channel: Channel, codes: PointCodes) -> None:
    slope, offset, shift, step = arguments(channel)
    x = np.array([float(slope[0]) * s + float(offset[0]) for s in SUMS])
    values = (_core.gelu(x) + float(shift[0])).tolist()
    found = boundaries(codes, REACH, slope, offset, shift, step, activation="gelu")
    assert codes_of(found, codes)[0].tolist() == [code_of(v, float(step[0]), codes) for v in values]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gelu_boundaries_of_many_channels(bits: int) -> None:
    """As above where sums are many and close, so that several are next to a level."""
    random, codes, reach, step = (
        np.random.RandomState(5),
        PointCodes(bits, False),
        3000,
        np.array([np.float32(0.1)], "f8"),
    )
    slope = 10.0 ** random.uniform(-8, -2, 40)
    offset = random.uniform(-1.5, 0.5, 40).astype(np.float32).astype("f8")
    shift = random.uniform(0, 0.25, 40).astype(np.float32).astype("f8")
    offset[:5], slope[:5] = np.float32(-0.75179152), 1e-9  # all sums lie in the dip
    sums = np.arange(-reach, reach + 1)
    x = slope[:, None] * sums + offset[:, None]
    values = _core.gelu(x) + shift[:, None]
    found = boundaries(codes, reach, slope, offset, shift, step, activation="gelu")
    assert found.falls is not None
    expected = [[code_of(v, float(step[0]), codes) for v in row] for row in values.tolist()]
    assert codes_of(found, codes, sums).tolist() == expected


def test_gelu_codes_on_both_sides_of_the_dip() -> None:
    codes = PointCodes(1, False)
    # step / 2 - shift = -0.1 lies within GELU's dip (its minimum is -0.17 near -0.75).
    found = boundaries(codes, REACH, *arguments((0.25, 0.0, 0.35, 0.5)), activation="gelu")
    assert (codes_of(found, codes)[0] == ((SUMS < -6) | (SUMS > -1))).all()
    assert found.falls is not None


def test_exactly_half_a_step_is_not_above_it() -> None:
    codes, at_zero = PointCodes(1, False), arguments((0.25, 0.0, 0.5, 1.0))
    for activation in ("relu", "gelu"):
        found = boundaries(codes, REACH, *at_zero, activation=activation)
        assert (codes_of(found, codes)[0] == (SUMS > 0)).all()


def test_ties_are_rounded_to_even() -> None:
    slope, offset, _, step = arguments((0.5, 0.0, 0.0, 1.0))
    found = boundaries(PointCodes(3), REACH, slope, offset, 0 * offset, step)
    assert codes_of(found, PointCodes(3))[0][REACH - 5 : REACH + 6].tolist() == [
        *(-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2)
    ]
    nearly = np.array([0.5 * (1 - 2.0**-45)])
    assert np.array_equal(
        boundaries(PointCodes(3), REACH, nearly, offset, ZERO, step).rises, found.rises
    )


def test_ends_of_the_range_are_written_as_always_and_never() -> None:
    slope = np.array([1.0, 1.0, 1.0, 0.0])
    offset = np.array([100.0, -100.0, 0.0, 0.0])
    step, shift = np.ones(1), np.zeros(4)
    found = boundaries(PointCodes(1), REACH, slope, offset, 0 * offset, step)
    assert found.rises.tolist() == [
        [-REACH - 1, REACH, -1, -REACH - 1],
        [-REACH - 1, REACH, 0, REACH],
    ]
    assert boundaries(PointCodes(1), REACH, slope[:2], offset[:2], shift[:2], step).rises.shape == (
        1,
        2,
    )
    for activation in ("relu", "gelu"):
        found = boundaries(
            PointCodes(1, False), REACH, slope, offset, shift, step, activation=activation
        )
        assert found.rises.tolist() == [[-REACH - 1, REACH, 0, REACH]]
        assert found.falls is None


def test_sums_are_kept_in_two_bytes_where_they_fit() -> None:
    slope, offset, _, step = arguments((1.0, 0.0, 0.0, 1.0))
    for reach, kind in ((2**15 - 2, np.int16), (2**15 - 1, np.int16), (2**15, np.int32)):
        found = boundaries(PointCodes(1), reach, slope, offset - 1e6, ZERO, step)
        assert found.rises.dtype == kind
        assert found.rises.tolist() == [[reach]]


def test_codes_that_boundaries_cannot_express_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(seeded.TINY, activation="gelu")
    state = seeded.state_dict(spec)
    # Half a step less the shift is GELU at a bias where sums hardly count: noise decides.
    state["bert.encoder.layer.1.intermediate.dense.weight"] *= np.float32(1e-15)
    state["bert.encoder.layer.1.intermediate.dense.bias"][:] = 0
    half = state["bert.encoder.layer.1.output.dense.input_clip_val"] / 2
    state["bert.encoder.layer.1.output.dense.move.bias"][:] = half
    folder = seeded.save(tmp_path, state, seeded.config(spec), seeded.vocabulary(spec))
    monkeypatch.setattr(_core, "gelu", lambda x: x / 2 + 1e-14 * np.sin(1e18 * x))
    with pytest.raises(ConversionError, match=r"layer 1 output\.in: channel \d+: found a gap"):
        layer_boundaries(read_checkpoint(folder), 1)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bits", ["1-1-1", "1-1-2", "1-1-1+attention=4+ffn=3"])
def test_layer_boundaries_use_the_parameters_of_each_point(
    tmp_path: Path, activation: str, bits: str
) -> None:
    spec = replace(seeded.TINY, activation=activation, weight_layerwise=False)
    config = {**seeded.config(spec), **quantization(Bits.parse(bits))}
    folder = seeded.save(tmp_path, seeded.state_dict(spec), config, seeded.vocabulary(spec))
    description = read_checkpoint(folder)
    codes = description.codes
    arrays = {name: array.astype("f8") for name, array in description.arrays.items()}
    points = layer_boundaries(description, 0)
    assert list(points) == ["query", "key", "value", "attention.output.in", "output.in"]

    def check(point: str, values: np.ndarray, step: np.ndarray, sums: np.ndarray) -> None:
        expected = [
            [code_of(value, float(step[0]), codes[point]) for value in row]
            for row in values.tolist()
        ]
        assert codes_of(points[point], codes[point], sums).tolist() == expected, point

    def linear(name: str, sums: np.ndarray) -> np.ndarray:
        scale = arrays[f"layer.0.{name}.scale"][:, None]
        y: np.ndarray = (arrays[f"layer.0.{name}.step"] * scale) * sums
        return y + arrays[f"layer.0.{name}.bias"][:, None]

    for name in ("query", "key", "value"):
        reach = spec.hidden * max(-codes[f"{name}.in"].low, codes[f"{name}.in"].high)
        sums = np.arange(-reach, reach + 1)
        check(name, linear(name, sums), arrays[f"layer.0.{name}.code_step"], sums)
    reach = spec.positions * codes["attention.probs"].high * max(-codes["value"].low, 1)
    sums = np.arange(-reach, reach + 1)
    unit = arrays["layer.0.attention.probs.step"] * arrays["layer.0.value.code_step"]
    shift = arrays["layer.0.attention.output.shift"][:, None]
    step = arrays["layer.0.attention.output.step"]
    check("attention.output.in", unit * sums + shift, step, sums)
    reach = spec.hidden * max(-codes["intermediate.in"].low, codes["intermediate.in"].high)
    sums = np.arange(-reach, reach + 1)
    y = linear("intermediate", sums)
    value = np.maximum(y, 0) if activation == "relu" else _core.gelu(y)
    shift = arrays["layer.0.output.shift"][:, None]
    check("output.in", value + shift, arrays["layer.0.output.step"], sums)


def test_points_that_count_from_their_smallest_value_have_no_boundaries(tmp_path: Path) -> None:
    config = {**seeded.config(seeded.TINY), "input_bits": 2}
    state, vocab = seeded.state_dict(seeded.TINY), seeded.vocabulary(seeded.TINY)
    description = read_checkpoint(seeded.save(tmp_path, state, config, vocab))
    assert list(layer_boundaries(description, 0)) == ["query", "key", "value"]
