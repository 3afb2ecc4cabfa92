"""The float64 reference: against the golden cases, and against a second, plainer evaluation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import seeded

from bitinfer.conversion.parity import unpadded
from bitinfer.description import Description
from bitinfer.errors import InputError
from bitinfer.families import read_checkpoint

torch = pytest.importorskip("torch")

SPECS = {
    "tiny": seeded.TINY,
    "gelu rowwise": replace(seeded.WIDE_160, activation="gelu", weight_layerwise=False),
    "cancelling": replace(seeded.WIDE_160, cancelling=True, embed_layerwise=True),
    "exact zeros": replace(seeded.TINY, exact_zeros=20),
    "span": replace(seeded.TINY, head="span"),
    "regression": replace(seeded.TINY, labels=1),
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reference(description: Description, dtype: str = "float64") -> Any:
    from bitinfer.reference import Reference

    return Reference(description, dtype=getattr(torch, dtype))


def real_queries(name: str, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values of unmasked query positions; the others are whatever the code computes there."""
    real = mask == 1
    if name in ("codes.pooler.in", "logits") and values.ndim == 2:
        return values
    return values.transpose(0, 2, 1, 3)[real] if values.ndim == 4 else values[real]


# ---- golden cases


@pytest.mark.parametrize("case", parity.GOLDEN)
def test_golden_codes_hidden_states_and_logits(shared: Path, case: str) -> None:
    golden = np.load(shared / "golden" / case / "golden.npz")
    mask = golden["attention_mask"]
    model = reference(read_checkpoint(shared / "golden" / case))
    found = model(golden["input_ids"], golden["token_type_ids"], mask, trace=True)
    points = [name for name in golden.files if name.startswith("codes.")]
    assert list(found.codes) == points
    for name in points:
        codes = found.codes[name].numpy()
        assert codes.dtype == np.int8
        wanted = real_queries(name, golden[name], mask)
        assert np.array_equal(real_queries(name, codes, mask), wanted), name
    values = {f"hidden{i}": hidden for i, hidden in enumerate(found.hidden)}
    for name, value in {**values, "logits": found.logits}.items():
        error = real_queries(name, value.numpy() - golden[name], mask)
        assert np.abs(error).max() < 1e-12, name


@pytest.mark.parametrize("case", parity.GOLDEN)
def test_golden_float32_run(shared: Path, case: str) -> None:
    # These cases are too small for float32 to lose a bit, so both float32 runs agree.
    golden = np.load(shared / "golden" / case / "golden.npz")
    mask = golden["attention_mask"]
    model = reference(read_checkpoint(shared / "golden" / case), "float32")
    found = model(golden["input_ids"], golden["token_type_ids"], mask).logits
    assert found.dtype == torch.float32
    error = real_queries("logits", found.numpy() - golden["logits_float32"], mask)
    assert np.abs(error).max() < 1e-5


@pytest.mark.parametrize("case", parity.MORE_BITS)
def test_golden_codes_of_more_bits(shared: Path, case: str) -> None:
    """Each sequence was run alone; here they share a padded batch, which must not matter."""
    golden = np.load(shared / "golden" / case / "golden.npz")
    mask = golden["attention_mask"]
    model = reference(read_checkpoint(shared / "golden" / case))
    found = model(golden["input_ids"], golden["token_type_ids"], mask, trace=True)
    points = [name for name in golden.files if name.startswith("codes.")]
    assert sorted(found.codes) == sorted(points)
    for row, length in enumerate(golden["lengths"]):
        for name in points:
            codes = unpadded(name, found.codes[name][row].numpy(), length)
            assert np.array_equal(codes, unpadded(name, golden[name][row], length)), name
        values = {f"hidden{i}": hidden for i, hidden in enumerate(found.hidden)}
        for name, value in {**values, "logits": found.logits}.items():
            error = unpadded(name, value[row].numpy() - golden[name][row], length)
            assert np.abs(error).max() < 1e-12, name


def test_trained_model(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every logit of a sample of sentences; and how far a float32 run is from them."""
    folder = shared / "models" / "bit-sst2"
    golden = np.load(folder / "golden.npz")
    description = read_checkpoint(folder)
    codes = {n: each for n, each in description.arrays.items() if n.endswith(".codes")}
    zeros = {n: int((each == 0).sum()) for n, each in codes.items() if not each.all()}
    assert zeros == {"layer.0.output.codes": 8}
    exact, single = reference(description), reference(description, "float32")
    sample = range(0, 872, 16)
    logits32, logits64 = [], []
    for index in sample:
        ids = golden["ids"][golden["offsets"][index] : golden["offsets"][index + 1]][None]
        logits64.append(exact(ids).logits[0].numpy())
        logits32.append(single(ids).logits[0].numpy())
    assert np.abs(np.array(logits64) - golden["logits"][sample]).max() < 1e-12
    differing = np.abs(np.array(logits32) - logits64).max(1) > 1e-3
    labels = np.argmax(logits32, 1) != np.argmax(logits64, 1)
    with capsys.disabled():
        print(
            f"\nbit-sst2: float32 arithmetic changes the logits of {differing.sum()} and the label "
            f"of {labels.sum()} of {len(sample)} sentences"
        )
    assert differing.any()  # about a quarter of them
    assert labels.mean() < 0.1


# ---- a second evaluation, from the weights of the checkpoint


def plain_forward(
    spec: seeded.Spec, ids: np.ndarray, segments: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Logits by fake-quantized float64 NumPy, written from the formulas, from the weights on."""
    state = {key: value.astype(np.float64) for key, value in seeded.state_dict(spec).items()}

    def binary(key: str, layerwise: bool) -> np.ndarray:
        weight = state[key]
        mean = np.float64(np.float32(math.fsum(weight.ravel()) / weight.size))
        absolute = np.abs(weight)
        return np.sign(weight - mean) * (
            absolute.mean() if layerwise else absolute.mean(1)[:, None]
        )

    def step(key: str) -> np.float64:
        floor = np.float64(np.float32(1e-5))
        return max(np.float64(state[key]), floor)

    def linear(key: str, x: np.ndarray, signed: bool = True) -> np.ndarray:
        a, u = step(f"{key}.input_clip_val"), x + state[f"{key}.move.bias"]
        quantized = a * np.sign(u) if signed else a * np.clip(np.round(u / a), 0, 1)
        return quantized @ binary(f"{key}.weight", spec.weight_layerwise).T + state[f"{key}.bias"]

    def norm(key: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * state[f"{key}.weight"] + state[f"{key}.bias"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], spec.heads, -1).transpose(0, 2, 1, 3)

    def activate(x: np.ndarray) -> np.ndarray:
        if spec.activation == "relu":
            return np.maximum(x, 0)
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    embeddings = "bert.embeddings"
    x = binary(f"{embeddings}.word_embeddings.weight", spec.embed_layerwise)[ids]
    x = x + state[f"{embeddings}.position_embeddings.weight"][: ids.shape[1]]
    x = x + state[f"{embeddings}.token_type_embeddings.weight"][segments]
    x = norm(f"{embeddings}.LayerNorm", x)
    for index in range(spec.layers):
        layer = f"bert.encoder.layer.{index}"
        attention = f"{layer}.attention.self"
        query, key, value = (
            step(f"{attention}.clip_{name}") * np.sign(heads(linear(f"{attention}.{name}", x)))
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(spec.hidden // spec.heads)
        scores = scores + (1 - mask[:, None, None]) * -10000.0
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs = probs / probs.sum(-1, keepdims=True)
        size = step(f"{attention}.clip_attn")
        context = size * np.clip(np.round(probs / size), 0, 1) @ value
        context = context.transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(
            f"{layer}.attention.output.LayerNorm",
            linear(f"{layer}.attention.output.dense", context) + x,
        )
        inner = activate(linear(f"{layer}.intermediate.dense", x))
        x = norm(
            f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", inner, signed=False) + x
        )
    if spec.head == "span":
        return x @ state["qa_outputs.weight"].T + state["qa_outputs.bias"]
    pooled = np.tanh(linear("bert.pooler.dense", x[:, 0]))
    return pooled @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize("name", SPECS)
def test_seeded_checkpoints_equal_a_plain_evaluation(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    batch = seeded.token_ids(spec, [24, 1, 13])
    found = reference(read_checkpoint(seeded.write(tmp_path, spec)))(*batch, trace=True)
    error = np.abs(found.logits.numpy() - plain_forward(spec, *batch))
    assert real_queries("logits", error, batch[2]).max() < 1e-12
    if spec.cancelling:
        for point in ("query", "value", "attention.output.in"):
            assert (found.codes[f"codes.layer0.{point}"] == 0).float().mean() > 0.02, point


def test_a_probability_of_exactly_half_a_step_is_0(tmp_path: Path) -> None:
    found = reference(read_checkpoint(seeded.save(tmp_path, *seeded.uniform_attention(length=8))))
    for length, code in ((7, 1), (8, 0), (9, 0)):
        codes = found([[5] * length], trace=True).codes["codes.layer0.attention.probs"]
        assert (codes == code).all(), length


# ---- masks and arguments


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = replace(seeded.TINY, head="span")
    return reference(read_checkpoint(seeded.write(tmp_path_factory.mktemp("tiny"), spec)))


def test_masked_tokens_have_no_influence(tiny: Any) -> None:
    ids, segments, _ = seeded.token_ids(seeded.TINY, [12, 12])
    mask = np.array([[0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0], [1] * 12])
    real = mask == 1
    expected = tiny(ids, segments, mask).logits
    found = tiny(np.where(real, ids, 63 - ids), np.where(real, segments, 1 - segments), mask).logits
    assert torch.equal(found[real], expected[real])
    assert not torch.equal(found, expected)  # masked columns are computed too


def test_the_position_of_a_token_is_its_column(tiny: Any) -> None:
    ids = np.array([[0, 0, 5, 6, 7]])
    mask = np.array([[0, 0, 1, 1, 1]])
    padded = tiny(ids, None, mask).logits[:, 2:]
    assert not torch.allclose(padded, tiny(ids[:, 2:]).logits)
    position = tiny.tensors["embeddings.position"].clone()
    tiny.tensors["embeddings.position"][:3] = position[2:5]
    try:
        assert torch.allclose(padded, tiny(ids[:, 2:]).logits, rtol=0, atol=1e-12)
    finally:
        tiny.tensors["embeddings.position"][:] = position


def test_padding_and_batch_do_not_matter(tiny: Any) -> None:
    ids, segments, mask = seeded.token_ids(seeded.TINY, [30, 7, 19])
    together = tiny(ids, segments, mask).logits
    for row, length in enumerate((30, 7, 19)):
        alone = tiny(ids[row : row + 1, :length], segments[row : row + 1, :length]).logits
        assert torch.allclose(together[row, :length], alone[0], rtol=0, atol=1e-12)


def test_defaults_are_segment_zero_and_no_mask(tiny: Any) -> None:
    ids = torch.tensor([[5, 6, 7]])
    zeros, ones = torch.zeros_like(ids), torch.ones_like(ids)
    found = tiny(ids)
    assert torch.equal(found.logits, tiny(ids.tolist(), zeros, ones).logits)
    assert found.codes == {}
    assert len(found.hidden) == 3
    assert found.pooled.shape == (1, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[5, 64]],), r"input_ids: found 64, expected 0 \.\. 63"),
        (([[-1]],), r"input_ids: found -1"),
        (([[0.5]],), r"input_ids: found torch\.float32, expected integers"),
        (([5, 6],), r"input_ids: found shape \[2\], expected \[batch, 1 \.\. 40\]"),
        (([[5] * 41],), r"input_ids: found shape \[1, 41\]"),
        ((np.zeros((0, 3), int),), r"input_ids: found shape \[0, 3\]"),
        (([[5, 6]], [[0, 2]]), r"token_type_ids: found 2, expected 0 \.\. 1"),
        (([[5, 6]], [[0]]), r"token_type_ids: found shape \[1, 1\], expected \[1, 2\]"),
        (([[5, 6]], None, [[1, 2]]), r"attention_mask: found 2"),
        (([[5, 6]], None, [1, 1]), r"attention_mask: found shape \[2\]"),
        (([[5], [6]], None, [[1], [0]]), r"attention_mask: row 1 is all 0"),
    ],
)
def test_bad_arguments_are_named(tiny: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(*arguments)


def test_only_two_kinds_of_arithmetic(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dtype: found torch\.float16"):
        reference(read_checkpoint(seeded.write(tmp_path, seeded.TINY)), "float16")
