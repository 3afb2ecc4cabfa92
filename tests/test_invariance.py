"""Results are the same bytes for every instruction set, thread count, batch, order and padding."""

from __future__ import annotations

import functools
from pathlib import Path

import expected
import numpy as np
import numpy.typing as npt
import parity
import pytest
import seeded

import bitinfer
from bitinfer._core import Model, available_isas, kernel_calls

pytest.importorskip("torch", reason="seeded checkpoints are read with PyTorch")

CASES = (
    *("cancelling", "odd-heads", "tiny-gelu-span", "tiny-zeros", "wide-160", "mini-6x384"),
    *("two-bits-from-min", "three-bits-gelu", "four-bits-cancelling", "four-bits-from-min"),
    *("attention-4", "ffn-2", "mini-two-bits-from-min"),
)


@functools.cache
def model_of(name: str, isa: str | None = None, threads: int = 1) -> Model:
    return parity.engine(expected.description_of(name), isa, threads)


def random_sequences(name: str, count: int, seed: int) -> list[npt.NDArray[np.int32]]:
    config = model_of(name).config
    random = np.random.RandomState(seed)
    lengths = random.randint(1, int(config["positions"]) + 1, count)
    return [random.randint(0, int(config["vocab"]), n).astype(np.int32) for n in lengths]


def split(result: dict[str, npt.NDArray[np.float64]], lengths: list[int]) -> list[bytes]:
    """Logits, pooled and hidden states of every sequence."""
    ends = np.cumsum(lengths)[:-1]
    hidden = np.split(result["hidden"], ends)
    logits = result["logits"]
    by_token = len(logits) == sum(lengths) and len(logits) != len(lengths)
    per_sequence = np.split(logits, ends) if by_token else list(logits)
    return [
        part.tobytes() + pooled.tobytes() + states.tobytes()
        for part, pooled, states in zip(per_sequence, result["pooled"], hidden, strict=True)
    ]


def run(model: Model, sequences: list[npt.NDArray[np.int32]]) -> list[bytes]:
    return split(parity.forward(model, sequences), [len(ids) for ids in sequences])


@pytest.mark.parametrize("name", CASES)
def test_isa_threads_batch_and_order(name: str) -> None:
    sequences = random_sequences(name, 13, seed=3)
    alone = [run(model_of(name), [ids])[0] for ids in sequences]
    shuffled = np.random.RandomState(4).permutation(len(sequences))
    for isa in available_isas():
        for threads in (1, 2, 3, 4):
            model = model_of(name, isa, threads)
            assert run(model, sequences) == alone
            assert run(model, [sequences[i] for i in shuffled]) == [alone[i] for i in shuffled]
            assert [run(model, [ids])[0] for ids in sequences] == alone


@pytest.mark.parametrize("name", CASES)
def test_without_hidden_states(name: str) -> None:
    """Then the last layer runs for the pooled tokens alone, wherever they are."""
    random = np.random.RandomState(9)
    sequences = random_sequences(name, 13, seed=9)
    first = np.array([random.randint(len(ids)) for ids in sequences])
    whole = parity.forward(model_of(name), sequences, first=first)
    for isa in available_isas():
        for threads in (1, 2, 3, 4):
            model = model_of(name, isa, threads)
            for chosen in (slice(None), slice(0, 1), slice(3, 7)):
                part = parity.forward(model, sequences[chosen], hidden=False, first=first[chosen])
                assert "hidden" not in part
                assert part["pooled"].tobytes() == whole["pooled"][chosen].tobytes()
                if len(whole["logits"]) == len(sequences):
                    assert part["logits"].tobytes() == whole["logits"][chosen].tobytes()


@pytest.mark.parametrize("name", CASES)
def test_every_length(name: str) -> None:
    """One sequence at a time, split over threads: every share of tokens, every tail of keys."""
    random = np.random.RandomState(5)
    config = model_of(name).config
    step = 1 if int(config["positions"]) <= 40 else 9
    for length in range(1, int(config["positions"]) + 1, step):
        ids = random.randint(0, int(config["vocab"]), length).astype(np.int32)
        results = {
            run(model_of(name, isa, threads), [ids])[0]
            for isa in available_isas()
            for threads in (1, 3)
        }
        assert len(results) == 1, length


@pytest.mark.parametrize("name", CASES)
def test_traced_and_untraced_are_the_same_bytes(name: str) -> None:
    for ids in random_sequences(name, 3, seed=6):
        found = parity.trace(model_of(name), ids)
        plain = parity.forward(model_of(name), [ids])
        assert found["logits"].tobytes() == plain["logits"].tobytes()
        assert found["pooled"].tobytes() == plain["pooled"].tobytes()
        layers = model_of(name).config["layers"]
        assert found[f"hidden{layers}"].tobytes() == plain["hidden"].tobytes()


def test_the_isa_asked_for_is_the_one_that_runs() -> None:
    ids = random_sequences("wide-160", 1, seed=7)
    for isa in available_isas():
        model = model_of("wide-160", isa, 2)
        before = kernel_calls()
        parity.forward(model, ids)
        after = kernel_calls()
        ran = {name for name in after if after[name] > before[name]}
        assert ran == {isa} == {model.isa}


@pytest.mark.parametrize(
    "name", ["wide-160", "tiny-gelu-span", "two-bits-from-min", "four-bits-cancelling"]
)
def test_padding_and_holes_equal_the_reference(name: str, tmp_path: Path) -> None:
    """Padding on either side, holes, and a masked first column, which the pooler still reads."""
    from bitinfer.reference import Reference

    description = expected.description_of(name)
    model = bitinfer.load(seeded.write(tmp_path / name, expected.CASES[name][0]))
    random = np.random.RandomState(8)
    shape = (40, 19)
    ids = random.randint(0, description.config.vocab, shape)
    mask = random.randint(0, 2, shape)
    mask[:, 7] = 1
    output = model.forward(ids, mask)
    wanted = Reference(description)(ids, None, mask)
    real = mask[..., None] == 1
    assert (mask[:, 0] == 0).any()
    np.testing.assert_allclose(output.pooler_output, wanted.pooled.numpy(), rtol=0, atol=1e-6)
    hidden = np.where(real, wanted.hidden[-1].numpy(), 0)
    np.testing.assert_allclose(output.last_hidden_state, hidden, rtol=0, atol=1e-5)
    logits = wanted.logits.numpy()
    if logits.ndim == 3:
        logits = np.where(real, logits, 0)
    np.testing.assert_allclose(output.logits, logits, rtol=0, atol=1e-5)
