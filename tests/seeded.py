"""Random BiT checkpoints in the published form, the same for ever on every machine.

Values come from the frozen streams of `numpy.random.RandomState` and are integers times powers of
two: sums of uniform integers instead of normal variates, so no mathematical library has a say.
Ranges are those of trained models: signs are balanced, about half of the attention bits and a
quarter of the FFN bits are 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitinfer.codes import Bits
from bitinfer.families.bit import quantization

F32 = npt.NDArray[np.float32]
State = dict[str, F32]

_DEVIATION = 26755  # of the sum of two uniform 16-bit integers
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Spec:
    """What to build.

    Attributes:
        exact_zeros: at least so many weights of every linear equal the mean of their matrix.
        cancelling: power-of-two scales, and biases and shifts that integers can cancel, so that
            codes of activations are often exactly 0.
        bits: of weights, embeddings and activations.
        from_min: unsigned codes of two bits or more count from the smallest value of their point,
            as the published code does.
        length: sequence length for which attention bits are balanced.
        offset: added to the bias of the linears before each LayerNorm, which takes it out again;
            float32 loses digits to it, as it does to the outlier channels of trained models.
    """

    hidden: int = 32
    layers: int = 2
    heads: int = 2
    intermediate: int = 64
    vocab: int = 64
    positions: int = 40
    token_types: int = 2
    labels: int = 2
    head: str = "classification"
    activation: str = "relu"
    weight_layerwise: bool = True
    embed_layerwise: bool = False
    exact_zeros: int = 0
    cancelling: bool = False
    bits: str = "1-1-1"
    from_min: bool = False
    length: int = 24
    offset: float = 0.0
    seed: int = 1


TINY = Spec()
WIDE_160 = Spec(hidden=160, layers=3, heads=5, intermediate=400, vocab=200)
MINI_6X384 = Spec(
    hidden=384, layers=6, heads=12, intermediate=1536, vocab=500, positions=128, offset=256.0
)
BASE_12X768 = Spec(
    hidden=768, layers=12, heads=12, intermediate=3072, vocab=500, positions=128, offset=256.0
)


def write(folder: Path, spec: Spec) -> Path:
    """Writes the checkpoint of a spec as a folder."""
    return save(folder, state_dict(spec), config(spec), vocabulary(spec))


def save(folder: Path, state: dict[str, Any], settings: dict[str, Any], vocab: list[str]) -> Path:
    """Writes ``pytorch_model.bin``, ``config.json`` and ``vocab.txt``."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(state), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return folder


def tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a state dict as tensors; what is a tensor already stays."""
    import torch

    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in state.items()
    }


def config(spec: Spec) -> dict[str, Any]:
    """The settings of a fully binarized BiT."""
    return {
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "hidden_act": spec.activation,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.positions,
        "type_vocab_size": spec.token_types,
        "num_labels": spec.labels,
        "finetuning_task": None,
        **quantization(Bits.parse(spec.bits), from_zero=not spec.from_min),
        "learnable_scaling": True,
        "clip_init_val": 2.5,
        "weight_layerwise": spec.weight_layerwise,
        "embed_layerwise": spec.embed_layerwise,
    }


def vocabulary(spec: Spec) -> list[str]:
    """Special tokens, then letters, pieces and invented words: one for each word embedding."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["##" + letter for letter in letters]
    words = [a + b + c for a in letters for b in letters for c in letters]
    return (SPECIAL_TOKENS + letters + pieces + words)[: spec.vocab]


def token_ids(spec: Spec, lengths: list[int], seed: int = 7) -> tuple[Any, Any, Any]:
    """A padded batch of random tokens: ids, segments and mask, int64 [B, S]."""
    random = np.random.RandomState(seed)
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    ids = random.randint(len(SPECIAL_TOKENS), spec.vocab, shape) * mask
    segments = (np.arange(shape[1]) >= np.array(lengths)[:, None] // 2) * mask
    return ids, segments, mask


def uniform_attention(length: int) -> tuple[State, dict[str, Any], list[str]]:
    """A tiny model whose queries are 0: every probability of ``length`` tokens is half a step."""
    state = state_dict(TINY)
    for index in range(TINY.layers):
        attention = f"bert.encoder.layer.{index}.attention.self"
        state[f"{attention}.query.weight"][:] = 0
        state[f"{attention}.query.bias"][:] = 0
        state[f"{attention}.clip_attn"] = np.array(2 / length, np.float32)
    return state, config(TINY), vocabulary(TINY)


def state_dict(spec: Spec) -> State:
    """All parameters under their published names."""
    return _Builder(spec).state


class _Builder:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.bits = Bits.parse(spec.bits)
        self.random = np.random.RandomState(spec.seed)
        self.state: State = {}
        hidden = spec.hidden
        for name, rows in (
            ("word", spec.vocab),
            ("position", spec.positions),
            ("token_type", spec.token_types),
        ):
            table = self.bell((rows, hidden), -19)
            self.state[f"bert.embeddings.{name}_embeddings.weight"] = table
        self.norm("bert.embeddings.LayerNorm")
        for index in range(spec.layers):
            self.layer(f"bert.encoder.layer.{index}")
        self.linear("bert.pooler.dense", hidden, hidden, "pooler.in")
        head = "qa_outputs" if spec.head == "span" else "classifier"
        self.state[f"{head}.weight"] = self.bell((spec.labels, hidden), -19)
        self.state[f"{head}.bias"] = self.bell((spec.labels,), -19)

    def layer(self, key: str) -> None:
        hidden, inner = self.spec.hidden, self.spec.intermediate
        attention = f"{key}.attention.self"
        for name in ("query", "key", "value"):
            self.linear(f"{attention}.{name}", hidden, hidden, f"{name}.in")
            self.state[f"{attention}.clip_{name}"] = self.step(0.4, 1.0, name)
            self.state[f"{attention}.move_{name[0]}.bias"] = self.bell((hidden,), -18)
        typical = 2 / self.spec.length
        self.state[f"{attention}.clip_attn"] = self.step(
            0.7 * typical, 1.2 * typical, "attention.probs"
        )
        self.linear(f"{key}.attention.output.dense", hidden, hidden, "attention.output.in")
        self.norm(f"{key}.attention.output.LayerNorm")
        self.state[f"{key}.attention.output.dense.bias"] += np.float32(self.spec.offset)
        self.linear(f"{key}.intermediate.dense", inner, hidden, "intermediate.in")
        self.linear(f"{key}.output.dense", hidden, inner, "output.in")
        self.norm(f"{key}.output.LayerNorm")
        self.state[f"{key}.output.dense.bias"] += np.float32(self.spec.offset)

    def linear(self, key: str, outputs: int, inputs: int, point: str) -> None:
        self.state[f"{key}.weight"] = self.weight(outputs, inputs)
        self.state[f"{key}.bias"] = self.shift(outputs)
        self.state[f"{key}.move.bias"] = self.shift(inputs)
        self.state[f"{key}.input_clip_val"] = self.step(0.3, 1.0, point)

    def norm(self, key: str) -> None:
        self.state[f"{key}.weight"] = 1 + self.bell((self.spec.hidden,), -17)
        self.state[f"{key}.bias"] = self.bell((self.spec.hidden,), -18)

    def bell(self, shape: tuple[int, ...], exponent: int) -> F32:
        """Bell-shaped values of standard deviation ``_DEVIATION * 2**exponent``."""
        return np.ldexp(self.integers(shape).astype(np.float32), exponent)

    def integers(self, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """Sums of two uniform 16-bit integers, centred; none is beyond 65535."""
        count = int(np.prod(shape, dtype=np.int64))
        halves = np.frombuffer(self.random.bytes(4 * count), "<u2").astype(np.int32)
        return (halves[::2] + halves[1::2] - 65535).reshape(shape)

    def weight(self, outputs: int, inputs: int) -> F32:
        if self.spec.cancelling:
            signs = np.ones(outputs * inputs, np.float32)
            signs[::2] = -1
            return np.ldexp(self.random.permutation(signs), -4).reshape(outputs, inputs)
        values = self.integers((outputs, inputs))
        if self.spec.exact_zeros:
            self.place_zeros(values.reshape(-1))
        return np.ldexp(values.astype(np.float32), _weight_exponent(inputs))

    def place_zeros(self, values: npt.NDArray[np.int32]) -> None:
        """Makes the mean exactly 100 and some values equal to it."""
        chosen = self.random.permutation(values.size)[: self.spec.exact_zeros]
        values[chosen] = 0
        others = np.delete(np.arange(values.size), chosen)
        share, rest = divmod(int(values.sum()), others.size)
        values[others] -= share
        values[others[:rest]] -= 1
        values += 100

    def shift(self, size: int) -> F32:
        if not self.spec.cancelling:
            return self.bell((size,), -18)
        small = self.random.randint(-4, 5, size)
        return np.ldexp(np.where(small % 2, 0, small).astype(np.float32), -6)

    def step(self, low: float, high: float, point: str) -> F32:
        """Smaller the more codes there are, so that all of them occur."""
        finer = 2.0 ** -max(0, self.bits.at(point) - 2)
        if self.spec.cancelling:
            return np.array(finer * (0.5 if high > 0.5 else 0.0625), np.float32)
        part = self.random.randint(0, 1 << 16) / 65536
        return np.array(finer * (low + part * (high - low)), np.float32)


def _weight_exponent(inputs: int) -> int:
    """The largest for which sums of ``inputs`` signed weights deviate by at most 1.5."""
    exponent = 0
    while _DEVIATION**2 * inputs * 4.0**exponent > 1.5**2:
        exponent -= 1
    return exponent
