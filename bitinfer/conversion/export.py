"""Writes a packed model back as a float checkpoint in the published form.

A checkpoint does not hold signs and scales but weights W, from which a reader takes the codes
``sign(W - mean(W))`` and the scale ``mean|W|``.  So weights are looked for that lead back to the
very codes and scales of the packed model:

- The mean is made exactly 0, so that signs are signs and a zero is a zero: the positive weights of
  a row and the negative ones have the same sum, half of ``K * scale``, added as exact integers.
- Weights of one sign are all but equal; what equal float32 values cannot sum to is left to one or
  two small ones.

Every matrix is read back and compared before anything is written.
"""

from __future__ import annotations

import json
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitinfer.conversion.packing import from_tensors
from bitinfer.description import (
    F32,
    I8,
    BinaryLinear,
    BinaryMatrix,
    Description,
    Layer,
    LayerNorm,
)
from bitinfer.errors import ConversionError, UnsupportedError
from bitinfer.families.bit import QUANTIZATION, binarize
from bitinfer.families.exact import UNIT_EXPONENT
from bitinfer.files import new_folder
from bitinfer.runtime.format import read_packed

__all__ = ["export_float", "state_dict"]

_DIGITS = 24  # of a float32


def export_float(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Writes ``pytorch_model.bin``, ``config.json`` and ``vocab.txt`` of a packed model.

    The checkpoint means the same network: converting it again gives the same tensors, bit for bit.
    Its weights are not those that were trained, which a packed file does not hold.  The published
    code takes the mean in float32 and so can miss exact zeros, as with any checkpoint.

    Args:
        src: packed file.
        dst: folder to make; appears only when it is complete.

    Raises:
        FormatError: ``src`` is not a valid packed file.
        ConversionError: a matrix cannot be written as float32 weights that lead back to it: it
            holds a row whose codes are all of one sign, or too few of a sign.
        FileExistsError: ``dst`` exists.
        UnsupportedError: PyTorch is not installed.

    Example:
        >>> export_float("sst2.safetensors", "sst2-float")
    """
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError("export_float needs PyTorch: install bitinfer[torch]") from error
    target = Path(dst)
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists; expected a new folder")
    metadata, tensors = read_packed(src)
    description = from_tensors(tensors, metadata)
    state = {key: torch.tensor(value) for key, value in state_dict(description).items()}
    tokenizer = {
        "do_lower_case": description.lowercase,
        "model_max_length": metadata["tokenizer"]["max_length"],
    }
    with new_folder(target) as folder:
        torch.save(state, folder / "pytorch_model.bin")
        _write_json(folder / "config.json", _config(description))
        _write_json(folder / "tokenizer_config.json", tokenizer)
        (folder / "vocab.txt").write_bytes(
            "".join(f"{each}\n" for each in description.vocab).encode()
        )


def state_dict(description: Description) -> dict[str, npt.NDArray[np.float32]]:
    """Every parameter of the published form, float32, by its published key.

    The dead parameters ``move_q``, ``move_k`` and ``move_v``, which the published code wants to
    find, are 0.

    Raises:
        ConversionError: as `export_float`.
    """
    state: dict[str, F32] = {
        "bert.embeddings.word_embeddings.weight": _weights("embeddings.word", description.word),
        "bert.embeddings.position_embeddings.weight": description.position,
        "bert.embeddings.token_type_embeddings.weight": description.token_type,
        **_norm("bert.embeddings.LayerNorm", description.embedding_norm),
    }
    for index, layer in enumerate(description.layers):
        state |= _layer(f"bert.encoder.layer.{index}", layer)
    state |= _linear("bert.pooler.dense", description.pooler)
    head = "qa_outputs" if description.config.head == "span" else "classifier"
    state |= {f"{head}.weight": description.head_weight, f"{head}.bias": description.head_bias}
    return state


def _layer(key: str, layer: Layer) -> dict[str, F32]:
    attention = f"{key}.attention.self"
    dead = np.zeros_like(layer.query.bias)
    return {
        **_linear(f"{attention}.query", layer.query),
        **_linear(f"{attention}.key", layer.key),
        **_linear(f"{attention}.value", layer.value),
        **{f"{attention}.move_{letter}.bias": dead for letter in "qkv"},
        f"{attention}.clip_query": np.array(layer.query_step),
        f"{attention}.clip_key": np.array(layer.key_step),
        f"{attention}.clip_value": np.array(layer.value_step),
        f"{attention}.clip_attn": np.array(layer.probs_step),
        **_linear(f"{key}.attention.output.dense", layer.attention_output),
        **_norm(f"{key}.attention.output.LayerNorm", layer.attention_norm),
        **_linear(f"{key}.intermediate.dense", layer.intermediate),
        **_linear(f"{key}.output.dense", layer.output),
        **_norm(f"{key}.output.LayerNorm", layer.output_norm),
    }


def _linear(key: str, linear: BinaryLinear) -> dict[str, F32]:
    return {
        f"{key}.weight": _weights(f"{key}.weight", linear.weight),
        f"{key}.bias": linear.bias,
        f"{key}.move.bias": linear.shift,
        f"{key}.input_clip_val": np.array(linear.step),
    }


def _norm(key: str, norm: LayerNorm) -> dict[str, F32]:
    return {f"{key}.weight": norm.weight, f"{key}.bias": norm.bias}


def _weights(key: str, matrix: BinaryMatrix) -> F32:
    """Weights float32 [N, K] that `binarize` turns into the given codes and scales."""
    layerwise = len(matrix.scale) == 1
    rows = matrix.codes.reshape(len(matrix.scale), -1)
    try:
        values = np.stack(
            [_row(codes, float(s)) for codes, s in zip(rows, matrix.scale, strict=True)]
        )
    except ConversionError as error:
        raise ConversionError(f"{key}: {error}") from error
    weights = values.reshape(matrix.codes.shape)
    back = binarize(weights, layerwise=layerwise)
    if not np.array_equal(back.codes, matrix.codes) or not np.array_equal(back.scale, matrix.scale):
        raise ConversionError(f"{key}: found no float32 weights with exactly its codes and scales")
    return weights


def _row(codes: I8, scale: float) -> F32:
    """Values [K] of the signs of ``codes``, with mean 0 and a mean absolute value of ``scale``."""
    values = np.zeros(len(codes), np.float32)
    if scale > 0:
        half = _half_sum(len(codes), scale)
        for sign in (1, -1):
            places = np.flatnonzero(codes == sign)
            values[places] = sign * _split(half, len(places))
    return values


def _half_sum(count: int, scale: float) -> int:
    """Half of ``count * scale``, in units of 2**-149, with as few digits as name the scale."""
    exact = Fraction(scale) * count / 2 / Fraction(2) ** UNIT_EXPONENT
    # The mean may be off by a quarter of the last place of the scale: within rounding, also just
    # below a power of two.  So the sum may be off by count quarters and its half by half of that.
    last_place = math.frexp(math.ulp(scale))[1] - 1 - UNIT_EXPONENT
    grain = max(0, last_place + count.bit_length() - 1 - 2)
    grains: int = round(exact / 2**grain)
    return grains << grain


def _split(total: int, count: int) -> F32:
    """``count`` positive float32 values, all but equal, that sum to ``total`` units of 2**-149."""
    small: list[float] = []
    while True:
        left = count - len(small)
        if left < 1:
            raise ConversionError("found too few weights of one sign to carry the scale exactly")
        exponent = max(0, (total // left).bit_length() - _DIGITS)
        tail = total % (1 << exponent)
        if not tail:
            break
        # The tail is below the last place of the equal values: give it a weight of its own.
        piece = _carrier(tail)
        small.append(math.ldexp(piece, UNIT_EXPONENT))
        total -= piece
    each, extra = divmod(total >> exponent, left)
    mantissas = np.full(left, each, np.float64)
    mantissas[:extra] += 1
    return np.append(np.ldexp(mantissas, exponent + UNIT_EXPONENT), small).astype(np.float32)


def _carrier(tail: int) -> int:
    """A float32 of 24 digits that ends like ``tail``.

    It is as large as it can be and still below the equal values, so that code which computes the
    mean in float32, and not quite 0, still sees its sign.
    """
    lowest = (tail & -tail).bit_length() - 1
    highest = 1 << (lowest + _DIGITS - 1)
    return tail % highest | highest


def _config(description: Description) -> dict[str, Any]:
    config = description.config
    names = description.label_names
    labels = {"id2label": {str(i): name for i, name in enumerate(names)}} if names else {}
    return {
        "model_type": "bert",
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
        "hidden_act": config.activation,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": 1e-12,
        "num_labels": config.labels,
        "finetuning_task": description.task,
        **labels,
        **QUANTIZATION,
        "weight_layerwise": len(description.pooler.weight.scale) == 1,
        "embed_layerwise": len(description.word.scale) == 1,
        "learnable_scaling": True,
        "clip_init_val": 2.5,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
