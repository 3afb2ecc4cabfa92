"""BiT: weights and embeddings of one bit, activations of 1 to 4 bits with learned steps.

The rules, for a weight matrix W of the checkpoint:

- ``e`` is the mean of all of W, correctly rounded to float32.  The code of a weight is the sign of
  ``W - e`` decided in float32; a weight equal to ``e`` has code 0 and contributes nothing.
- The scale is ``mean|W|``, not centred, over the whole matrix or over each row, rounded to float64.
- The word embeddings follow the same rule with a scale for each row.

A learned step that is not above float32(1e-5) is replaced by float32(1e-5).  ``move_q``, ``move_k``
and ``move_v`` have no effect in the published model and are dropped.  Every key must be known,
present, of the expected shape and finite: nothing is guessed.

The configuration alone tells the bits, for successive students have the same keys.  Unsigned codes
of two bits or more count from the smallest value of their point, unless ``unsigned_codes`` says
``from_zero``, as it does in what `bitinfer.train` makes; ``point_bits`` names points whose bits are
not ``input_bits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bitinfer.codes import FLOAT, MOST_BITS, POINTS, UNSIGNED, Bits, Codes
from bitinfer.description import (
    F32,
    LINEARS,
    BinaryLinear,
    BinaryMatrix,
    Config,
    Description,
    Layer,
    Notes,
)
from bitinfer.errors import ConversionError, quote
from bitinfer.families import Family, Wishes, bert, register
from bitinfer.families.checkpoint import CheckpointFiles
from bitinfer.families.exact import means
from bitinfer.families.latent import latent_weights

__all__ = ["DEAD", "STEP_FLOOR", "binarize", "quantization"]

STEP_FLOOR: Final[np.float32] = np.float32(1e-5)

# Where the parts of a layer are under ``bert.encoder.layer.{i}.``.
_LINEARS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
_STEPS = {
    "query": "attention.self.clip_query",
    "key": "attention.self.clip_key",
    "value": "attention.self.clip_value",
    "attention.probs": "attention.self.clip_attn",
}
_NORMS = {"attention.norm": "attention.output.LayerNorm", "output.norm": "output.LayerNorm"}
DEAD = ("move_q.bias", "move_k.bias", "move_v.bias")
_POOLER = "bert.pooler.dense"

# Settings that may have no other value.
_METHOD = {
    "weight_bits": 1,
    "weight_quant_method": "bwn",
    "input_quant_method": "elastic",
    "sym_quant_qkvo": True,
    "sym_quant_ffn_attn": False,
    "input_layerwise": True,
    "not_quantize_attention": False,
}
# What the published scripts make, taken where the user, not the configuration, names the bits.
_SCALES = {"weight_layerwise": True, "embed_layerwise": False}


def binarize(matrix: F32, *, layerwise: bool) -> BinaryMatrix:
    """Codes and scale of a weight matrix float32 [N, K], by the rules at the top of this file.

    A row with scale 0 holds only zeros and has no value to show its codes by; they are -1, so that
    what a model computes, not how its zeros came about, decides its packed bytes.

    Args:
        layerwise: one scale for the matrix, or one for each row.

    Example:
        >>> binarize(np.array([[1.0, -2.0], [0.0, 4.0]], np.float32), layerwise=True).codes
        array([[ 1, -1],
               [-1,  1]], dtype=int8)
    """
    exact = means(matrix)
    codes = (matrix > exact.mean).astype(np.int8) - (matrix < exact.mean).astype(np.int8)
    scale = np.array([exact.mean_abs]) if layerwise else exact.row_mean_abs
    codes[np.broadcast_to(scale == 0, len(codes))] = -1
    return BinaryMatrix(codes, scale)


def quantization(bits: Bits, *, from_zero: bool = True) -> dict[str, Any]:
    """The settings that say how a model of such bits is quantized.

    Args:
        from_zero: unsigned codes of two bits or more begin at 0, which is the rule of
            `bitinfer.train`; the published rule is the smallest value of their point.

    Example:
        >>> quantization(Bits.parse("1-1-1+attention=4"))["input_bits"]
        1
    """
    settings: dict[str, Any] = {
        **_METHOD,
        "weight_bits": bits.weights,
        "input_bits": bits.activations,
    }
    if from_zero and any(1 < bits.at(point) < FLOAT for point in POINTS):
        settings["unsigned_codes"] = "from_zero"
    if bits.others:
        settings["point_bits"] = dict(bits.others)
    return settings


# ---- settings


@dataclass(frozen=True)
class _Settings:
    """What the configuration says, checked."""

    config: Config
    codes: dict[str, Codes]
    weight_layerwise: bool
    embed_layerwise: bool
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, files: CheckpointFiles, bits: Bits | None) -> _Settings:
        settings, named = _named(files.config, bits)
        for key, expected in _METHOD.items():
            found = settings[key]
            if type(found) is not type(expected) or found != expected:
                raise ConversionError(f"config {key}: found {quote(found)}, expected {expected!r}")
        return cls(
            config=bert.read_config(files),
            codes=_codes(settings),
            weight_layerwise=_flag(settings, "weight_layerwise"),
            embed_layerwise=_flag(settings, "embed_layerwise"),
            remarks=named,
        )


def _named(
    settings: Mapping[str, Any], bits: Bits | None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Settings that tell the bits: those of the configuration, or what the user says they are."""
    needed = {"weight_bits": "1", "input_bits": f"1 .. {MOST_BITS}"}
    needed |= {key: repr(value) for key, value in _METHOD.items() if key != "weight_bits"}
    missing = [f"{key} (expected {value})" for key, value in needed.items() if key not in settings]
    if bits is None:
        if missing:
            raise ConversionError(
                f"config: missing {', '.join(missing)}; 1-1-1, 1-1-2 and 1-1-4 checkpoints have "
                "the same keys, so pass config= (--config), the config.json saved with this one, "
                "or bits= (--bits 1-1-2) to name its bits"
            )
        return settings, ()
    if bits.embeddings != 1:
        raise ConversionError(f"bits: found {bits}, expected embeddings of 1 bit")
    wanted = quantization(bits, from_zero=settings.get("unsigned_codes") == "from_zero")
    for key in ("weight_bits", "input_bits", "point_bits"):
        if key in settings and settings[key] != wanted.get(key):
            raise ConversionError(
                f"config {key}: found {quote(settings[key])}, expected what bits {bits} mean, "
                f"{quote(wanted.get(key))}"
            )
    assumed = {**_SCALES, **wanted}
    added = [key for key in assumed if key not in settings]
    remark = f"the configuration does not tell {', '.join(added)}: taken from bits {bits}"
    return {**assumed, **settings}, (remark,) if added else ()


def _codes(settings: Mapping[str, Any]) -> dict[str, Codes]:
    """The codes of every point."""
    rule = settings.get("unsigned_codes")
    if rule not in (None, "from_zero"):
        raise ConversionError(f"config unsigned_codes: found {quote(rule)}, expected 'from_zero'")
    bits = dict.fromkeys(POINTS, _few("input_bits", settings["input_bits"]))
    others = settings.get("point_bits", {})
    if not isinstance(others, Mapping) or not others.keys() <= bits.keys():
        raise ConversionError(
            f"config point_bits: found {quote(others)}, expected bits of {', '.join(POINTS)}"
        )
    bits |= {point: _few(f"point_bits {point}", each) for point, each in others.items()}
    return {
        point: Codes(n, point not in UNSIGNED, point in UNSIGNED and n > 1 and rule is None)
        for point, n in bits.items()
    }


def _few(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MOST_BITS:
        raise ConversionError(f"config {key}: found {quote(value)}, expected 1 .. {MOST_BITS}")
    return value


def _flag(settings: Mapping[str, Any], key: str) -> bool:
    value = settings.get(key)
    if not isinstance(value, bool):
        raise ConversionError(f"config {key}: found {quote(value)}, expected true or false")
    return value


# ---- tensors


def _shapes(config: Config) -> bert.Shapes:
    """Every key of a checkpoint and its shape."""
    shapes = bert.embedding_shapes(config)
    for index in range(config.layers):
        layer = bert.layer_key(index)
        for name, key in _LINEARS.items():
            outputs, inputs = (getattr(config, size) for size in LINEARS[name])
            shapes |= _linear_shapes(f"{layer}.{key}", outputs, inputs)
        for key in _STEPS.values():
            shapes[f"{layer}.{key}"] = ()
        for key in _NORMS.values():
            shapes |= bert.norm_shapes(f"{layer}.{key}", config.hidden)
        for name in DEAD:
            shapes[f"{layer}.attention.self.{name}"] = (config.hidden,)
    return shapes | _linear_shapes(_POOLER, config.hidden, config.hidden)


def _linear_shapes(key: str, outputs: int, inputs: int) -> bert.Shapes:
    return {
        f"{key}.weight": (outputs, inputs),
        f"{key}.bias": (outputs,),
        f"{key}.move.bias": (inputs,),
        f"{key}.input_clip_val": (),
    }


@dataclass
class _Reader:
    """Turns checked tensors into a description, and notes what is odd on the way."""

    files: CheckpointFiles
    settings: _Settings
    untrained: list[str] = field(default_factory=list)
    floored: list[tuple[str, float]] = field(default_factory=list)

    def description(self, task: str | None, names: tuple[str, ...]) -> Description:
        files, settings, config = self.files, self.settings, self.settings.config
        embeddings, head = "bert.embeddings", bert.head_key(config)
        word = self._values(f"{embeddings}.word_embeddings.weight")
        return Description(
            family=BIT.name,
            config=config,
            codes=settings.codes,
            word=binarize(word, layerwise=settings.embed_layerwise),
            position=self._values(f"{embeddings}.position_embeddings.weight"),
            token_type=self._values(f"{embeddings}.token_type_embeddings.weight"),
            embedding_norm=bert.read_norm(files, f"{embeddings}.LayerNorm"),
            layers=tuple(self._layer(bert.layer_key(i)) for i in range(config.layers)),
            pooler=self._linear(_POOLER),
            head_weight=self._values(f"{head}.weight"),
            head_bias=self._values(f"{head}.bias"),
            label_names=names,
            task=task,
            vocab=files.vocab,
            lowercase=files.lowercase,
            source_file=files.file,
            source_sha256=files.sha256,
            notes=Notes(
                dropped=self._dropped(),
                untrained=tuple(self.untrained),
                floored=tuple(self.floored),
                remarks=bert.remarks(files, config) + settings.remarks,
            ),
        )

    def _layer(self, layer: str) -> Layer:
        return Layer(
            linears={name: self._linear(f"{layer}.{key}") for name, key in _LINEARS.items()},
            steps={point: self._step(f"{layer}.{key}") for point, key in _STEPS.items()},
            norms={n: bert.read_norm(self.files, f"{layer}.{key}") for n, key in _NORMS.items()},
        )

    def _linear(self, key: str) -> BinaryLinear:
        weight = self._values(f"{key}.weight")
        return BinaryLinear(
            weight=binarize(weight, layerwise=self.settings.weight_layerwise),
            bias=self._values(f"{key}.bias"),
            shift=self._values(f"{key}.move.bias"),
            step=self._step(f"{key}.input_clip_val"),
        )

    def _step(self, key: str) -> np.float32:
        """A learned step.  1.0 is what it starts from, so a step of exactly 1.0 was not trained."""
        step: np.float32 = np.float32(self._values(key).item())
        if step == 1:
            self.untrained.append(key)
        if step > STEP_FLOOR:
            return step
        self.floored.append((key, float(step)))
        return STEP_FLOOR

    def _values(self, key: str) -> F32:
        return bert.read_values(self.files, key)

    def _dropped(self) -> tuple[str, ...]:
        suffixes = tuple(f".{name}" for name in DEAD)
        dead = tuple(key for key in self.files.state if key.endswith(suffixes))
        for key in dead:
            self._values(key)  # dead, but a value that is not finite means a damaged file
        return dead + ((bert.IGNORED,) if bert.IGNORED in self.files.state else ())


def _recognises(files: CheckpointFiles) -> str | None:
    """No other family shifts the inputs of its linears."""
    shifted = any(str(key).endswith(".move.bias") for key in files.state)
    return None if shifted else "no key ends in .move.bias"


def _read(files: CheckpointFiles, wishes: Wishes) -> Description:
    settings = _Settings.of(files, wishes.bits)
    config = settings.config
    what = f"a BiT model with {config.layers} layers"
    bert.check_keys(files, _shapes(config), what)
    bert.check_vocab(files, config)
    return _Reader(files, settings).description(*bert.task_and_names(files, config, wishes))


# ---- back to the published form


def _write(description: Description) -> tuple[dict[str, F32], dict[str, Any]]:
    """Weights that lead back to the very codes and scales; the dead parameters are 0."""
    embeddings, head = "bert.embeddings", bert.head_key(description.config)
    words = f"{embeddings}.word_embeddings.weight"
    state: dict[str, F32] = {
        words: _weights(words, description.word),
        f"{embeddings}.position_embeddings.weight": description.position,
        f"{embeddings}.token_type_embeddings.weight": description.token_type,
        **bert.write_norm(f"{embeddings}.LayerNorm", description.embedding_norm),
        f"{head}.weight": description.head_weight,
        f"{head}.bias": description.head_bias,
    }
    for index, layer in enumerate(description.layers):
        prefix = bert.layer_key(index)
        for name, key in _LINEARS.items():
            state |= _write_linear(f"{prefix}.{key}", layer.linears[name])
        for point, key in _STEPS.items():
            state[f"{prefix}.{key}"] = np.array(layer.steps[point])
        for name, key in _NORMS.items():
            state |= bert.write_norm(f"{prefix}.{key}", layer.norms[name])
        for name in DEAD:
            state[f"{prefix}.attention.self.{name}"] = np.zeros_like(layer.linears["query"].bias)
    from_zero = not any(codes.from_min for codes in description.codes.values())
    settings = {
        **bert.write_config(description),
        **quantization(description.bits, from_zero=from_zero),
        "weight_layerwise": len(description.pooler.weight.scale) == 1,
        "embed_layerwise": len(description.word.scale) == 1,
        "learnable_scaling": True,
        "clip_init_val": 2.5,
    }
    return state | _write_linear(_POOLER, description.pooler), settings


def _write_linear(key: str, linear: BinaryLinear) -> dict[str, F32]:
    return {
        f"{key}.weight": _weights(f"{key}.weight", linear.weight),
        f"{key}.bias": linear.bias,
        f"{key}.move.bias": linear.shift,
        f"{key}.input_clip_val": np.array(linear.step),
    }


def _weights(key: str, matrix: BinaryMatrix) -> F32:
    """Weights float32 [N, K] that `binarize` turns into the given codes and scales."""
    try:
        weights = latent_weights(matrix)
    except ConversionError as error:
        raise ConversionError(f"{key}: {error}") from error
    back = binarize(weights, layerwise=len(matrix.scale) == 1)
    if not np.array_equal(back.codes, matrix.codes) or not np.array_equal(back.scale, matrix.scale):
        raise ConversionError(f"{key}: found no float32 weights with exactly its codes and scales")
    return weights


BIT = Family("bit", _recognises, _read, _write)
register(BIT)
