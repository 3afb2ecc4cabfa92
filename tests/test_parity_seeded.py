"""The engine against the float64 reference and against answers kept in the repository."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess

import expected
import numpy as np
import parity
import pytest

from bitinfer._core import available_isas
from bitinfer.codes import LAYER_POINTS
from bitinfer.description import Description

torch = pytest.importorskip("torch", reason="the reference is in PyTorch")

from bitinfer.reference import Reference, ReferenceOutput  # noqa: E402

LARGE = ("mini-6x384", "base-12x768")


@functools.cache
def description_of(name: str) -> Description:
    return expected.description_of(name)


@functools.cache
def reference_of(name: str) -> list[ReferenceOutput]:
    model = Reference(description_of(name))
    return [model(ids[None], trace=True) for ids in expected.sequences_of(name)]


@pytest.mark.parametrize("name", expected.CASES)
def test_stored_answers_are_the_reference(name: str) -> None:
    layers = description_of(name).config.layers
    stored = expected.load()[name]
    for answer, output in zip(stored, reference_of(name), strict=True):
        codes = {key: value[0].numpy() for key, value in output.codes.items()}
        assert parity.digest(codes, layers) == answer["codes_sha256"]
        logits = np.atleast_2d(output.logits[0].numpy())
        np.testing.assert_allclose(logits, expected.logits_of(answer), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", expected.CASES)
def test_engine_equals_stored_answers(name: str) -> None:
    description = description_of(name)
    for isa in available_isas():
        for threads in (1, 2):
            model = parity.engine(description, isa, threads)
            for ids, answer in zip(expected.sequences_of(name), expected.load()[name], strict=True):
                found = parity.trace(model, ids)
                assert parity.digest(found, description.config.layers) == answer["codes_sha256"]
                np.testing.assert_allclose(
                    found["logits"], expected.logits_of(answer), rtol=0, atol=1e-12
                )


@pytest.mark.parametrize("name", expected.CASES)
def test_each_layer_alone_equals_the_reference(name: str) -> None:
    """Fed with the reference's own states, so that no error can hide behind an earlier one."""
    model = parity.engine(description_of(name))
    ids, output = expected.sequences_of(name)[-1], reference_of(name)[-1]
    for index, states in enumerate(output.hidden[:-1]):
        found = parity.trace(model, ids, layer=index, hidden=states[0].numpy())
        prefix = f"codes.layer{index}."
        codes = {k: v[0].numpy() for k, v in output.codes.items() if k.startswith(prefix)}
        assert len(codes) == len(LAYER_POINTS)
        assert parity.differences(found, codes, len(ids)) == {}
        wanted = output.hidden[index + 1][0].numpy()
        np.testing.assert_allclose(found[f"hidden{index + 1}"], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", LARGE)
def test_float32_is_another_model(name: str) -> None:
    """Why nothing here compares with float32: it does not reproduce its own checkpoint."""
    model = Reference(description_of(name), dtype=torch.float32)
    differing = total = 0
    for ids, output in zip(expected.sequences_of(name), reference_of(name), strict=True):
        codes = model(ids[None], trace=True).codes
        differing += sum(int((codes[key] != value).sum()) for key, value in output.codes.items())
        total += sum(value.numel() for value in output.codes.values())
    print(f"{name}: float32 PyTorch differs in {differing} of {total} codes, the engine in none")
    assert differing > total // 1000


def test_cases_hold_what_they_are_for() -> None:
    def values(name: str, point: str) -> set[int]:
        return {
            int(value)
            for output in reference_of(name)
            for key, codes in output.codes.items()
            if parity.point_of(key) == point
            for value in codes.unique()
        }

    for point in ("query", "key", "value", "attention.output.in"):
        assert values("cancelling", point) == {-1, 0, 1}, point
    assert values("mini-6x384", "attention.probs") == {0, 1}
    assert values("base-12x768", "output.in") == {0, 1}
    assert parity.has_zero_weights(description_of("tiny-zeros"))
    assert values("mini-two-bits", "query") == {-2, -1, 0, 1}
    for point in ("attention.probs", "output.in"):
        assert values("mini-two-bits", point) == {0, 1, 2, 3}, point
        assert values("base-four-bits-from-min", point) == set(range(16)), point
    assert values("attention-4", "key") == set(range(-8, 8))
    assert values("attention-4", "key.in") <= {-1, 0, 1}


REPLAY = "BITINFER_REPLAY"  # e.g. "qemu-aarch64 build/neon/bitinfer_replay"


@pytest.mark.skipif(REPLAY not in os.environ, reason=f"{REPLAY} names no replay program")
@pytest.mark.parametrize("name", expected.CASES)
def test_replayed_elsewhere_equals_stored_answers(name: str) -> None:
    """``BITINFER_REPLAY_ISA`` says what must have run."""
    description = description_of(name)
    sequences = expected.sequences_of(name)
    run = subprocess.run(
        [*shlex.split(os.environ[REPLAY]), "2"],
        input=parity.replay_input(description, sequences),
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert run.stderr.decode().split() == [os.environ["BITINFER_REPLAY_ISA"]]
    results = parity.replay_output(run.stdout, description, [len(ids) for ids in sequences])
    here = parity.engine(description)
    for ids, found, answer in zip(sequences, results, expected.load()[name], strict=True):
        assert parity.digest(found, description.config.layers) == answer["codes_sha256"]
        assert found["logits"].tobytes() == parity.trace(here, ids)["logits"].tobytes()
