"""The trained network: a float BERT with 32 bits, the reference's network with 1-1-1."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeded
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="training needs PyTorch")

import torch
from torch import Tensor

from bitinfer.codes import POINTS, UNSIGNED, Bits
from bitinfer.config import Config
from bitinfer.families import read_checkpoint
from bitinfer.families.bit import binarize, dead_keys
from bitinfer.reference import Reference
from bitinfer.train.distillation import published_config, published_state
from bitinfer.train.student import Outputs, Student
from bitinfer.train.teacher import as_student

SHAPE = Config(
    hidden=24,
    layers=2,
    heads=3,
    intermediate=40,
    vocab=50,
    positions=20,
    token_types=2,
    labels=3,
    activation="relu",
    head="classification",
)
SIZES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "vocab_size": "vocab",
    "max_position_embeddings": "positions",
    "type_vocab_size": "token_types",
}
FLOOR = float(np.float32(1e-5))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def student(
    shape: Config = SHAPE,
    bits: str = "1-1-1",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **how: float,
) -> Student:
    """With random float32 parameters, of which none is 0, that compute in a type."""
    torch.manual_seed(seed)
    model = Student(shape, Bits.parse(bits), dtype=dtype, **how)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith("LayerNorm.weight")
            parameter.normal_(1 if norm else 0.01, 0.1 if norm or parameter.ndim < 2 else 0.3)
        model.begin_steps(*batch(shape, [5, 9]))
        for parameter in model.parameters():
            if parameter.ndim == 0:
                parameter.mul_(torch.empty(()).uniform_(0.7, 1.3))
    return model.double() if dtype == torch.float64 else model


def batch(shape: Config, lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, segments and mask."""
    random = np.random.RandomState(seed)
    size = (len(lengths), max(lengths))
    mask = np.arange(size[1]) < np.array(lengths)[:, None]
    ids = random.randint(0, shape.vocab, size)
    segments = random.randint(0, shape.token_types, size)
    return tuple(torch.from_numpy(each) for each in (ids, segments, mask))


def settings_of(shape: Config) -> dict[str, int]:
    return {key: getattr(shape, name) for key, name in SIZES.items()}


def same(found: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# ---- 32 bits: what transformers computes


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_32_bits_are_a_float_bert(activation: str) -> None:
    transformers = pytest.importorskip("transformers", reason="computes what is expected")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        **settings_of(SHAPE),
        num_labels=3,
        hidden_act=activation,
        initializer_range=0.3,
        layer_norm_eps=1e-3,
        attn_implementation="eager",
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(float(name.endswith("LayerNorm.weight")), 0.2)
    ours = as_student(theirs, dtype=torch.float64).double()
    assert ours.config == SHAPE._replace(activation=activation)
    assert ours.numerics.epsilon == 1e-3
    ids, segments, mask = batch(SHAPE, [7, 20, 1])
    with torch.no_grad():
        found = ours(ids, segments, mask)
        wanted = theirs.double()(
            ids,
            token_type_ids=segments,
            attention_mask=mask.long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    same(found.logits, wanted.logits, 1e-9)
    assert len(found.hidden) == len(wanted.hidden_states) == 3
    for mine, other in zip(found.hidden, wanted.hidden_states, strict=True):
        same(mine[mask], other[mask], 1e-9)
    for scores, probs in zip(found.scores, wanted.attentions, strict=True):
        mine = torch.softmax(scores.masked_fill(~mask[:, None, None], -math.inf), 3)
        same(mine.transpose(1, 2)[mask], probs.transpose(1, 2)[mask], 1e-9)


def test_a_student_is_a_published_checkpoint_but_for_the_dead_parameters() -> None:
    state = published_state(student())
    spec = seeded.Spec(hidden=24, heads=3, intermediate=40, vocab=50, positions=20, labels=3)
    published = seeded.state_dict(spec)
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        key: value.shape for key, value in published.items()
    }
    own = student().state_dict()
    assert own.keys() == published.keys() - dead_keys(student().config)
    for key, value in state.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, own[key]) if key in own else not value.any()


# ---- few bits: what the reference computes


def read_back(model: Student, folder: Path) -> Reference:
    """The float64 reference of a student that was written and read again."""
    shape = model.config
    labels = tuple("abc"[: shape.labels]) if shape.labels > 1 else ()
    vocab = [*seeded.SPECIAL_TOKENS, *(f"w{i}" for i in range(5, shape.vocab))]
    seeded.save(
        folder, published_state(model), published_config(model, labels, settings_of(shape)), vocab
    )
    return Reference(read_checkpoint(folder))


def weights_are_clear(model: Student) -> bool:
    """Whether the sign of every weight is the same in float64 and as the reader decides it.

    That is in float32, against the mean rounded to it: a weight next to the mean may differ.
    """
    for name, parameter in model.named_parameters():
        linear = ".dense." in name or ".self." in name
        if parameter.ndim == 2 and (linear or "word_" in name):
            weight = parameter.detach()
            codes = binarize(weight.float().numpy(), layerwise=True)[0]
            if not np.array_equal(torch.sign(weight - weight.mean()).numpy(), codes):
                return False
    return True


def check_against_reference(model: Student, lengths: list[int], seed: int) -> None:
    """Every hidden state and the logits, in float64.

    Parameters are random real numbers: no activation is so near to a threshold that the order of a
    sum could decide its code.
    """
    ids, segments, mask = batch(model.config, lengths, seed)
    with tempfile.TemporaryDirectory() as folder:
        wanted = read_back(model, Path(folder))(ids, segments, mask.long())
    with torch.no_grad():
        found = model(ids, segments, mask)
    same(found.logits, wanted.logits)
    assert len(found.hidden) == len(wanted.hidden) == model.config.layers + 1
    for mine, other in zip(found.hidden, wanted.hidden, strict=True):
        same(mine[mask], other[mask])


RECIPES = ["1-1-1", "1-1-2", "1-1-3", "1-1-4", "1-1-1+attention=4", "1-1-2+ffn=4+key.in=1"]


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("bits", RECIPES)
def test_few_bits_are_the_reference(activation: str, bits: str) -> None:
    """Code for code: another code anywhere would be another hidden state."""
    model = student(SHAPE._replace(activation=activation), bits, seed=5)
    assert weights_are_clear(model)
    check_against_reference(model, [20, 3, 11, 1], seed=5)


def test_steps_below_the_floor_are_those_of_the_reference() -> None:
    model = student()
    with torch.no_grad():
        model.bert["encoder"]["layer"][0].attention["self"].clip_attn.fill_(-4e-5)
        model.bert["encoder"]["layer"][1].output.dense.input_clip_val.zero_()
        model.bert["encoder"]["layer"][1].attention["self"].query.input_clip_val.fill_(1e-5)
    check_against_reference(model, [9, 4], seed=2)


@given(
    heads=st.integers(1, 4),
    head_size=st.integers(1, 9),
    intermediate=st.integers(2, 40),
    layers=st.integers(1, 3),
    labels=st.integers(1, 3),
    token_types=st.integers(1, 2),
    bits=st.sampled_from(RECIPES),
    activation=st.sampled_from(["relu", "gelu"]),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15)
def test_few_bits_are_the_reference_at_any_size(
    heads: int, head_size: int, bits: str, lengths: list[int], seed: int, **changes: Any
) -> None:
    # Layer norms of one or two channels give 0 and 1, so that codes are ties.
    assume(heads * head_size > 2)
    shape = SHAPE._replace(hidden=heads * head_size, heads=heads, **changes)
    model = student(shape, bits, seed=seed)
    assume(weights_are_clear(model))
    check_against_reference(model, lengths, seed)


# ---- any bits: a second evaluation, with quantized values in the place of codes and steps


class Plain:
    """Forward pass on fake-quantized values, as in the papers; PyTorch derives the gradients."""

    def __init__(self, model: Student, *, begin: bool = False) -> None:
        self.shape, self.bits, self.begin = model.config, model.bits, begin
        self.epsilon = model.numerics.epsilon
        self.state = {
            key: value.detach().clone().requires_grad_(value.requires_grad)
            for key, value in model.named_parameters()
        }
        self.steps: dict[str, Tensor] = {}  # as they begin

    def __call__(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Outputs:
        state, name = self.state, "bert.embeddings"
        words = state[f"{name}.word_embeddings.weight"]
        if self.bits.embeddings == 1:
            words = self.binary(words)
        embedded = (
            words[ids]
            + state[f"{name}.position_embeddings.weight"][: ids.shape[1]]
            + state[f"{name}.token_type_embeddings.weight"][segments]
        )
        hidden, scores = [self.norm(f"{name}.LayerNorm", embedded)], []
        for index in range(self.shape.layers):
            output, score = self.layer(f"bert.encoder.layer.{index}", hidden[-1], mask)
            hidden.append(output)
            scores.append(score)
        pooled = self.linear("bert.pooler.dense", hidden[-1][:, 0], mask[:, 0], "pooler.in")
        logits = torch.tanh(pooled) @ state["classifier.weight"].T + state["classifier.bias"]
        return Outputs(logits, tuple(hidden), tuple(scores))

    def layer(self, key: str, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        own = f"{key}.attention.self"
        q, k, v = (
            self.heads(
                self.quantized(
                    f"{own}.clip_{each}",
                    self.linear(f"{own}.{each}", x, mask, f"{each}.in"),
                    mask[..., None].expand_as(x),
                    each,
                )
            )
            for each in ("query", "key", "value")
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        far = torch.where(mask, 0.0, -math.inf)[:, None, None]
        pairs = (mask[:, None, :, None] & mask[:, None, None]).expand_as(scores)
        probs = self.quantized(
            f"{own}.clip_attn", (scores + far).softmax(3), pairs, "attention.probs"
        )
        context = (probs @ v).transpose(1, 2).flatten(2)
        x = x + self.linear(f"{key}.attention.output.dense", context, mask, "attention.output.in")
        x = self.norm(f"{key}.attention.output.LayerNorm", x)
        inner = self.linear(f"{key}.intermediate.dense", x, mask, "intermediate.in")
        inner = inner.relu() if self.shape.activation == "relu" else gelu(inner)
        x = x + self.linear(f"{key}.output.dense", inner, mask, "output.in")
        return self.norm(f"{key}.output.LayerNorm", x), scores

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.shape.heads, -1).transpose(1, 2)

    def norm(self, key: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        return x * self.state[f"{key}.weight"] + self.state[f"{key}.bias"]

    def linear(self, key: str, x: Tensor, real: Tensor, point: str) -> Tensor:
        weight = self.state[f"{key}.weight"]
        if self.bits.weights == 1:
            weight = self.binary(weight)
        x = x + self.state[f"{key}.move.bias"]
        x = self.quantized(f"{key}.input_clip_val", x, real[..., None].expand_as(x), point)
        return x @ weight.T + self.state[f"{key}.bias"]

    def binary(self, weight: Tensor) -> Tensor:
        value = weight.detach()
        scale = value.abs().mean(1, keepdim=True)
        return weight + (scale * torch.sign(value - value.mean()) - value)

    def quantized(self, key: str, x: Tensor, real: Tensor, point: str) -> Tensor:
        bits = self.bits.at(point)
        if bits == 32:
            return x
        signed = point not in UNSIGNED
        low, high = -(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1
        if bits == 1 and signed:
            low, high = -1, 1
        if self.begin:
            size = x.detach().abs()[real].mean()
            self.steps[key] = (2 if signed else 4) * size / math.sqrt(high)
        step = self.steps.get(key, self.state[key])
        # The value of one term, the gradient of the other.
        factor = 1 / math.sqrt(x.numel() * high)
        step = step.detach().clamp(FLOOR) + factor * (step - step.detach())
        if bits == 1 and signed:
            return step * torch.sign(x) + (x.abs() <= step) * (x - x.detach())
        ratio = (x / step).clamp(low, high)
        return step * (ratio + (ratio.round() - ratio).detach())


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def total(outputs: Outputs, mask: Tensor) -> Tensor:
    """A number that depends on all outputs for real tokens, with a gradient of some size."""
    pairs = mask[:, None, :, None] & mask[:, None, None]
    parts = [outputs.logits, *(each[mask] for each in outputs.hidden)]
    parts += [each[pairs.expand_as(each)] for each in outputs.scores]
    return sum(torch.sin(3 * each).sum() for each in parts)


KINDS = [
    ("1-1-1", {}),
    ("1-1-2", {}),
    ("1-1-4", {}),
    ("1-1-1+attention=4", {}),
    ("1-1-4+attention.probs=32+pooler.in=2", {}),
    ("1-32-8", {"activation": "gelu"}),
    ("32-1-3", {"activation": "gelu"}),
    ("32-32-1", {}),
    ("1-1-32", {}),
    ("32-32-32", {"activation": "gelu"}),
]


def steps_of(model: Student) -> set[str]:
    """The parameters that are steps of points that are quantized."""
    keys = {
        **{name: f"attention.self.clip_{name}" for name in ("query", "key", "value")},
        **{f"{name}.in": f"attention.self.{name}." for name in ("query", "key", "value")},
        "attention.probs": "attention.self.clip_attn",
        "attention.output.in": "attention.output.",
        "intermediate.in": ".intermediate.",
        "output.in": r"\d.output.",
        "pooler.in": "pooler.",
    }
    parts = [keys[point] for point in POINTS if model.bits.at(point) < 32]
    steps = {name for name, value in model.named_parameters() if value.ndim == 0}
    return {name for name in steps if any(re.search(part, name) for part in parts)}


@pytest.mark.parametrize(("bits", "changes"), KINDS)
def test_outputs_and_gradients_of_any_bits(bits: str, changes: dict[str, Any]) -> None:
    model = student(SHAPE._replace(**changes), bits, epsilon=1e-3)
    ids, segments, mask = batch(SHAPE, [12, 7, 1])
    plain = Plain(model)
    found, wanted = model(ids, segments, mask), plain(ids, segments, mask)
    same(found.logits, wanted.logits)
    for mine, other in zip(found.hidden, wanted.hidden, strict=True):
        same(mine[mask], other[mask])
    for mine, other in zip(found.scores, wanted.scores, strict=True):
        same(mine.transpose(1, 2)[mask], other.transpose(1, 2)[mask])
    total(found, mask).backward()
    total(wanted, mask).backward()
    trained = {name for name, each in model.named_parameters() if each.grad is not None}
    assert trained == {name for name, each in plain.state.items() if each.grad is not None}
    for name, parameter in model.named_parameters():
        if name in trained:
            mine, other = parameter.grad.to_dense(), plain.state[name].grad
            same(mine, other, 1e-10 * max(1, other.abs().max().item()))
    steps = {name for name, each in model.named_parameters() if each.ndim == 0}
    assert trained & steps == steps_of(model)


@pytest.mark.parametrize(("bits", "changes"), KINDS)
def test_steps_begin_with_the_real_tokens_of_a_batch(bits: str, changes: dict[str, Any]) -> None:
    model = student(SHAPE._replace(**changes), bits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = batch(SHAPE, [12, 7, 1])
    plain = Plain(model, begin=True)
    plain(*inputs)
    model.begin_steps(*inputs)
    found = model.state_dict()
    assert plain.steps.keys() == steps_of(model)
    for name, value in found.items():
        same(value, plain.steps.get(name, before[name]))
    # More padding, whatever is in it, changes nothing; nor does an evaluation.
    longer = [torch.nn.functional.pad(each, (0, 3)) for each in inputs]
    model.begin_steps(*longer)
    model(*batch(SHAPE, [3]))
    for name, value in model.state_dict().items():
        same(value, found[name])


@pytest.mark.parametrize("bits", ["1-1-1", "1-1-2", "1-1-8", "32-32-32"])
def test_a_text_does_not_depend_on_its_batch(bits: str) -> None:
    """Not even with codes of more bits, which begin at 0 and not at the minimum of a batch."""
    model = student(bits=bits)
    lengths = [12, 7, 1, 20]
    ids, segments, mask = batch(SHAPE, lengths)
    with torch.no_grad():
        together = model(ids, segments, mask)
        for row, length in enumerate(lengths):
            alone = model(ids[row : row + 1, :length], segments[row : row + 1, :length])
            same(together.logits[row], alone.logits[0])
            for mine, other in zip(together.hidden, alone.hidden, strict=True):
                same(mine[row, :length], other[0])
            for mine, other in zip(together.scores, alone.scores, strict=True):
                same(mine[row, :, :length, :length], other[0])
        changed = model(torch.where(mask, ids, 7), segments, mask)
    same(changed.logits, together.logits)


def test_defaults_are_one_segment_and_no_padding() -> None:
    model = student()
    ids = torch.arange(6).view(2, 3)
    found = model(ids).logits
    same(found, model(ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool)).logits)


# ---- finite differences


def slope(model: Student, name: str, loss: Any) -> tuple[float, float]:
    """Derivative of a loss in a random direction of a parameter: by autograd, by differences."""
    parameter = dict(model.named_parameters())[name]
    direction = torch.randn_like(parameter)
    model.zero_grad()
    loss().backward()
    found = (parameter.grad.to_dense() * direction).sum().item()
    values = []
    with torch.no_grad():
        for move in (1e-6, -2e-6):
            parameter.add_(move * direction)
            values.append(loss().item())
        parameter.add_(1e-6 * direction)
    return found, (values[0] - values[1]) / 2e-6


def test_finite_differences_of_a_float_student() -> None:
    shape = SHAPE._replace(activation="gelu", layers=1)
    model = student(shape, "32-32-32")
    inputs = batch(shape, [5, 8])
    for name, parameter in model.named_parameters():
        if parameter.ndim:  # there are no steps
            found, wanted = slope(model, name, lambda: total(model(*inputs), inputs[2]))
            assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5), name


def test_finite_differences_of_a_1_bit_student() -> None:
    """What nothing is quantized after has a true gradient: of a step, but for its factor."""
    model = student()
    inputs = batch(SHAPE, [5, 8])
    pooler = "bert.pooler.dense"
    factors = {
        f"{pooler}.bias": 1.0,
        f"{pooler}.input_clip_val": 1 / math.sqrt(2 * SHAPE.hidden),
        "classifier.weight": 1.0,
        "classifier.bias": 1.0,
    }
    for name, factor in factors.items():
        found, wanted = slope(model, name, lambda: torch.sin(model(*inputs).logits).sum())
        assert abs(wanted) > 1e-3
        assert found == pytest.approx(wanted * factor, rel=1e-6), name
    layer = "bert.encoder.layer.1.output"
    for name in (f"{layer}.LayerNorm.weight", f"{layer}.LayerNorm.bias", f"{layer}.dense.bias"):
        found, wanted = slope(model, name, lambda: torch.sin(model(*inputs).hidden[-1]).sum())
        assert found == pytest.approx(wanted, rel=1e-6), name
    name = f"{layer}.dense.input_clip_val"
    # Of a step that is unsigned, only where no code can change: all inputs are beyond the range.
    with torch.no_grad():
        model.bert["encoder"]["layer"][1].output.dense.move.bias.fill_(100.0)
    found, wanted = slope(model, name, lambda: torch.sin(model(*inputs).hidden[-1]).sum())
    factor = 1 / math.sqrt(2 * 8 * SHAPE.intermediate)
    assert found == pytest.approx(wanted * factor, rel=1e-6, abs=1e-9)


# ---- bfloat16


@pytest.mark.parametrize("bits", ["1-1-1", "1-1-2"])
def test_products_of_few_codes_are_exact_in_bfloat16(bits: str) -> None:
    shape = SHAPE._replace(heads=6)  # sums of at most 40 codes of at most 3
    single = student(shape, bits, dtype=torch.float32)
    half = Student(shape, Bits.parse(bits), dtype=torch.bfloat16)
    half.load_state_dict(single.state_dict())
    inputs = batch(shape, [9, 5])
    found, wanted = half(*inputs), single(*inputs)
    for mine, other in zip(
        (found.logits, *found.hidden, *found.scores),
        (wanted.logits, *wanted.hidden, *wanted.scores),
        strict=True,
    ):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other)
    total(found, inputs[2]).backward()
    total(wanted, inputs[2]).backward()
    mine, other = gradients(half), gradients(single)
    assert mine.dtype == torch.float32
    # A bfloat16 has 8 bits, and errors add up.
    assert (mine - other).norm() < 0.01 * other.norm()


def gradients(model: Student) -> Tensor:
    return torch.cat([each.grad.to_dense().flatten() for each in model.parameters()])


# ---- twins and options


def test_a_twin_has_the_same_parameters() -> None:
    model = student(bits="32-32-32", dtype=torch.bfloat16).double()
    shape = SHAPE._replace(activation="gelu")
    twin = model.twin(shape, Bits.parse("1-1-2"))
    assert twin.config == shape
    assert str(twin.bits) == "1-1-2"
    assert twin.numerics.dtype == torch.bfloat16
    own = model.state_dict()
    assert twin.state_dict().keys() == own.keys()
    for key, value in twin.state_dict().items():
        assert value.dtype == torch.float64
        assert torch.equal(value, own[key])
        assert value.data_ptr() != own[key].data_ptr()


def test_steps_of_some_points_begin_anew() -> None:
    """Those whose bits are others than the teacher's."""
    model = student(bits="1-1-1+attention=2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.begin_steps(*batch(SHAPE, [6]), points=["query", "attention.probs"])
    now = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, now[name])}
    ends = ("clip_query", "clip_attn")
    assert changed == {name for name in before if name.endswith(ends)}


def test_the_published_settings() -> None:
    """Say of each point what codes it has, and say no more than they must."""
    keys = ("input_bits", "unsigned_codes", "point_bits")
    for bits, expected in (
        ("1-1-1", (1, None, None)),
        ("1-1-2", (2, "from_zero", None)),
        ("1-1-4+pooler.in=1", (4, "from_zero", {"pooler.in": 1})),
    ):
        config = published_config(student(bits=bits), ["a", "b", "c"], settings_of(SHAPE))
        assert tuple(config.get(key) for key in keys) == expected


def test_unsigned_codes_begin_at_0() -> None:
    """The published code subtracts the minimum of the batch instead."""
    seen: list[tuple[Tensor, Tensor]] = []
    model = student(SHAPE._replace(layers=1, activation="gelu"), "1-1-2")
    dense = model.bert["encoder"]["layer"][0].output.dense
    dense.quantizer.register_forward_hook(lambda *args: seen.append((args[1][0], args[2][0])))
    with torch.no_grad():
        dense.input_clip_val.fill_(0.5)
    model(*batch(SHAPE, [9, 7]))
    (x, codes), step = seen[0], dense.input_clip_val
    assert x.min() < -step / 2
    assert torch.equal(codes, (x / step).round().clamp(0, 3))
    assert {*codes.unique().tolist()} == {0, 1, 2, 3}
