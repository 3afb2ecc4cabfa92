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
from typing import Any, Final

import numpy as np

from bitinfer.codes import FLOAT, MOST_BITS, POINTS, UNSIGNED, Bits, PointCodes
from bitinfer.config import Config
from bitinfer.description import F32, F64, I8, Description, Notes, array_shapes, matrix_shapes
from bitinfer.errors import ConversionError, quote
from bitinfer.families import Family, bert, register
from bitinfer.families.checkpoint import Checkpoint
from bitinfer.families.exact import means
from bitinfer.families.latent import latent_weights

STEP_FLOOR: Final[np.float32] = np.float32(1e-5)

# Its parameters of linears and of attention.
_PARAMETERS = {
    "shift": "move.bias",
    "step": "input_clip_val",
    "query.code_step": "attention.self.clip_query",
    "key.code_step": "attention.self.clip_key",
    "value.code_step": "attention.self.clip_value",
    "attention.probs.step": "attention.self.clip_attn",
}
# Settings without effect that the published code wants to find.
UNUSED = {"learnable_scaling": True, "clip_init_val": 2.5}

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


def binarize(matrix: F32, *, layerwise: bool) -> tuple[I8, F64]:
    """Codes and scale of weights float32 [N, K], by the rules at the top of this file.

    There is one scale, or one for each row.  A row with scale 0 holds only zeros and has no value
    to show its codes by; they are -1, so that what a model computes, not how its zeros came about,
    decides its packed bytes.

    Example:
        >>> binarize(np.array([[1.0, -2.0], [0.0, 4.0]], np.float32), layerwise=True)[0]
        array([[ 1, -1],
               [-1,  1]], dtype=int8)
    """
    exact = means(matrix)
    codes = (matrix > exact.mean).astype(np.int8) - (matrix < exact.mean).astype(np.int8)
    scale = np.array([exact.mean_abs]) if layerwise else exact.row_mean_abs
    codes[np.broadcast_to(scale == 0, len(codes))] = -1
    return codes, scale


def quantization(
    bits: Bits,
    *,
    from_zero: bool = True,
    whole_weights: bool = False,
    whole_embeddings: bool = False,
) -> dict[str, Any]:
    """The settings that say how a model of such bits is quantized; the defaults are the trainer's.

    Unsigned codes begin at 0, or at the smallest value of their point; there is one scale for the
    whole matrix, or one for each row.
    """
    most = bits.activations
    settings = {**_METHOD, "weight_bits": bits.weights, "input_bits": most}
    settings |= {"weight_layerwise": whole_weights, "embed_layerwise": whole_embeddings}
    if from_zero and any(1 < n < FLOAT for n in bits.points):
        settings["unsigned_codes"] = "from_zero"
    if others := {point: bits.at(point) for point in POINTS if bits.at(point) != most}:
        settings["point_bits"] = others
    return settings


def _checked(
    settings: Mapping[str, Any], bits: Bits | None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Settings that tell the bits, and remarks: what the configuration or the user says."""
    found, remarks = (settings, ()) if bits is None else _named(settings, bits)
    if missing := [key for key in (*_METHOD, "input_bits") if key not in found]:
        raise ConversionError(
            f"config: missing {', '.join(missing)}; 1-1-1, 1-1-2 and 1-1-4 checkpoints have "
            "the same keys, so pass config= (--config), the config.json saved with this one, "
            "or bits= (--bits 1-1-2) to name its bits"
        )
    for key, only in _METHOD.items():
        same = type(found[key]) is type(only) and found[key] == only
        bert.check_setting(key, found[key], same, repr(only))
    for key in ("weight_layerwise", "embed_layerwise"):
        bert.check_setting(key, found.get(key), type(found.get(key)) is bool, "true or false")
    return found, remarks


def _named(settings: Mapping[str, Any], bits: Bits) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Settings of the bits that the user names, which may not contradict the configuration."""
    if bits.embeddings != 1:
        raise ConversionError(f"bits: found {bits}, expected embeddings of 1 bit")
    from_zero = settings.get("unsigned_codes") == "from_zero"
    meant = quantization(bits, from_zero=from_zero, whole_weights=True)  # as published scripts do
    for key in {"weight_bits", "input_bits", "point_bits"} & settings.keys():
        value, expected = settings[key], meant.get(key)
        what = f"what bits {bits} mean, {quote(expected)}"
        bert.check_setting(key, value, value == expected, what)
    added = [key for key in meant if key not in settings]
    remark = f"the configuration does not tell {', '.join(added)}: taken from bits {bits}"
    return {**meant, **settings}, (remark,) if added else ()


def _codes(settings: Mapping[str, Any]) -> dict[str, PointCodes]:
    """The codes of every point."""
    rule, others = settings.get("unsigned_codes"), settings.get("point_bits", {})
    bert.check_setting("unsigned_codes", rule, rule in (None, "from_zero"), "'from_zero'")
    known = isinstance(others, Mapping) and others.keys() <= {*POINTS}
    bert.check_setting("point_bits", others, known, f"bits of {', '.join(POINTS)}")
    bits = dict.fromkeys(POINTS, settings["input_bits"]) | dict(others)
    for point, n in bits.items():
        key = f"point_bits {point}" if point in others else "input_bits"
        few = type(n) is int and 1 <= n <= MOST_BITS
        bert.check_setting(key, n, few, f"1 .. {MOST_BITS}")
    return {
        point: PointCodes(n, point not in UNSIGNED, point in UNSIGNED and n > 1 and rule is None)
        for point, n in bits.items()
    }


def dead_keys(config: Config) -> list[str]:
    """Parameters without effect."""
    layers = map(bert.layer_key, range(config.layers))
    return [f"{layer}.attention.self.move_{name}.bias" for layer in layers for name in "qkv"]


def _recognises(checkpoint: Checkpoint) -> str | None:
    """No other family shifts the inputs of its linears."""
    shifted = any(key.endswith(".move.bias") for key in checkpoint.state)
    return None if shifted else "no key ends in .move.bias"


def _read(checkpoint: Checkpoint) -> Description:
    settings, remarks = _checked(checkpoint.settings, checkpoint.bits)
    points, shared = _codes(settings), bert.read_shared(checkpoint)
    config: Config = shared["config"]
    keys, dead = bert.part_keys(config, _PARAMETERS), dead_keys(config)
    shapes = {keys[n]: s for n, s in (matrix_shapes(config) | array_shapes(config)).items()}
    shapes |= dict.fromkeys(dead, (config.hidden,))
    values = bert.read_values(checkpoint, shapes, f"a BiT model with {config.layers} layers")
    layerwise = dict.fromkeys(matrix_shapes(config), settings["weight_layerwise"])
    layerwise["embeddings.word"] = settings["embed_layerwise"]
    arrays: dict[str, Any] = {name: values[keys[name]] for name in array_shapes(config)}
    steps = {name: array.item() for name, array in arrays.items() if name.endswith("step")}
    arrays |= {name: np.maximum([step], STEP_FLOOR, dtype="f") for name, step in steps.items()}
    for name, whole in layerwise.items():
        codes, scale = binarize(values[keys[name]], layerwise=whole)
        arrays |= {f"{name}.codes": codes, f"{name}.scale": scale}
    return Description(
        family=BIT.name,
        codes=points,
        arrays=arrays,
        notes=Notes(
            dropped=(*dead, *({bert.IGNORED} & checkpoint.state.keys())),
            # 1.0 is what a step starts from.
            untrained=tuple(keys[name] for name, step in steps.items() if step == 1),
            floored=tuple((keys[n], step) for n, step in steps.items() if step <= STEP_FLOOR),
            remarks=bert.remarks(checkpoint, config) + remarks,
        ),
        **shared,
    )


def _write(description: Description) -> tuple[dict[str, F32], dict[str, Any]]:
    """Weights that lead back to the very codes and scales; the dead parameters are 0."""
    config, arrays, state = description.config, description.arrays, {}
    keys = bert.part_keys(config, _PARAMETERS)
    for name in matrix_shapes(config):
        codes, scale = arrays[f"{name}.codes"], arrays[f"{name}.scale"]
        state[keys[name]] = _weights(keys[name], codes, scale)
    for name in array_shapes(config):
        state[keys[name]] = arrays[name].reshape(()) if name.endswith("step") else arrays[name]
    state |= dict.fromkeys(dead_keys(config), np.zeros(config.hidden, np.float32))
    settings = quantization(
        description.bits,
        from_zero=not any(codes.from_min for codes in description.codes.values()),
        whole_weights=len(arrays["pooler.scale"]) == 1,
        whole_embeddings=len(arrays["embeddings.word.scale"]) == 1,
    )
    return state, bert.write_config(description) | settings | UNUSED


def _weights(key: str, codes: I8, scale: F64) -> F32:
    """Weights float32 [N, K] that `binarize` turns into the given codes and scales."""
    try:
        weights = latent_weights(codes, scale)
    except ConversionError as error:
        raise ConversionError(f"{key}: {error}") from error
    back = binarize(weights, layerwise=len(scale) == 1)
    if not np.array_equal(back[0], codes) or not np.array_equal(back[1], scale):
        raise ConversionError(f"{key}: found no float32 weights with exactly its codes and scales")
    return weights


BIT = Family("bit", _recognises, _read, _write)
register(BIT)
