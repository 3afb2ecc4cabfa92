"""Reads checkpoints of BiT 1-1-1: weights, embeddings and activations of one bit.

The rules, for a weight matrix W of the checkpoint:

- ``e`` is the mean of all of W, correctly rounded to float32.  The code of a weight is the sign of
  ``W - e`` decided in float32; a weight equal to ``e`` has code 0 and contributes nothing.
- The scale is ``mean|W|``, not centred, over the whole matrix or over each row, rounded to float64.
- The word embeddings follow the same rule with a scale for each row.

A learned step that is not above float32(1e-5) is replaced by float32(1e-5).  ``move_q``, ``move_k``
and ``move_v`` have no effect in the published model and are dropped.  Every key must be known,
present, of the expected shape and finite: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from bitinfer.description import (
    F32,
    BinaryLinear,
    BinaryMatrix,
    Config,
    Description,
    Layer,
    LayerNorm,
    Notes,
)
from bitinfer.errors import ConversionError, quote
from bitinfer.families.checkpoint import (
    CheckpointFiles,
    ConfigSource,
    PathLike,
    VocabSource,
    open_checkpoint,
    to_float32,
)
from bitinfer.families.exact import means
from bitinfer.families.glue import TASKS, Task, find_task, label_names

__all__ = ["DEAD", "QUANTIZATION", "STEP_FLOOR", "binarize", "read_bit"]

STEP_FLOOR: Final[np.float32] = np.float32(1e-5)

QUANTIZATION = {
    "weight_bits": 1,
    "weight_quant_method": "bwn",
    "input_bits": 1,
    "input_quant_method": "elastic",
    "sym_quant_qkvo": True,
    "sym_quant_ffn_attn": False,
    "input_layerwise": True,
    "not_quantize_attention": False,
}
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_HEADS: tuple[tuple[str, Literal["classification", "span"]], ...] = (
    ("classifier", "classification"),
    ("qa_outputs", "span"),
)
DEAD = ("move_q.bias", "move_k.bias", "move_v.bias")
_IGNORED = "bert.embeddings.position_ids"


def read_bit(
    path: PathLike,
    *,
    config: ConfigSource | None = None,
    vocab: VocabSource | None = None,
    labels: Sequence[str] | None = None,
    task: str | None = None,
) -> Description:
    """Reads a BiT 1-1-1 checkpoint.

    Args:
        path: a folder with ``pytorch_model.bin``, or a weights file: a state dict, bare or under
            ``state_dict``, ``model`` or ``model_state_dict``.
        config: settings or the path of a ``config.json``, where the checkpoint has none.
        vocab: tokens or the path of a ``vocab.txt``, where the checkpoint has none.
        labels: names of the classes, in the order of the classifier's rows.
        task: name of the GLUE task or ``"squad"``, where the checkpoint does not tell.

    Raises:
        ConversionError: naming the key or setting, what was found and what was expected.
        UnsupportedError: if PyTorch is not installed.

    Example:
        >>> description = read_bit("bit-sst2", labels=["negative", "positive"])
        >>> description.config.hidden
        384
    """
    files = open_checkpoint(path, config=config, vocab=vocab)
    settings = _Settings.of(files)
    _check_tensors(files, settings)
    _check_vocab(files, settings.config)
    reader = _Reader(files, settings)
    known_task = _task(task, files.config)
    names = label_names(
        settings.config,
        labels=labels,
        id2label=files.config.get("id2label"),
        task=known_task,
        task_given=task is not None,
    )
    own_name = files.config.get("finetuning_task")
    return reader.description(
        names, known_task.name if known_task else own_name if isinstance(own_name, str) else None
    )


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


@dataclass(frozen=True)
class _Settings:
    """What the configuration says, checked."""

    config: Config
    head_key: str
    weight_layerwise: bool
    embed_layerwise: bool

    @classmethod
    def of(cls, files: CheckpointFiles) -> _Settings:
        settings = files.config
        _check_quantization(settings)
        sizes = {key: _size(settings, key) for key in _SIZES}
        hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
        if sizes["num_hidden_layers"] > len(files.state):
            raise ConversionError(
                f"config num_hidden_layers: found {sizes['num_hidden_layers']}, "
                f"expected fewer than the {len(files.state)} keys of {files.file}"
            )
        if hidden % heads:
            raise ConversionError(
                f"config num_attention_heads: found {heads}, "
                f"expected a divisor of hidden_size {hidden}"
            )
        activation = settings.get("hidden_act")
        if activation not in ("relu", "gelu"):
            raise ConversionError(
                f"config hidden_act: found {quote(activation)}, expected 'relu' or 'gelu'"
            )
        head_key, head = _head(files)
        config = Config(
            hidden=hidden,
            layers=sizes["num_hidden_layers"],
            heads=heads,
            intermediate=sizes["intermediate_size"],
            vocab=sizes["vocab_size"],
            positions=sizes["max_position_embeddings"],
            token_types=sizes["type_vocab_size"],
            labels=_outputs(files, head_key, head),
            activation=activation,
            head=head,
        )
        return cls(
            config,
            head_key,
            weight_layerwise=_flag(settings, "weight_layerwise"),
            embed_layerwise=_flag(settings, "embed_layerwise"),
        )


def _check_quantization(settings: Mapping[str, Any]) -> None:
    missing = [
        f"{key} (expected {value!r})" for key, value in QUANTIZATION.items() if key not in settings
    ]
    if missing:
        raise ConversionError(
            f"config: missing {', '.join(missing)}; only fully binarized BiT models are supported, "
            "and the config.json saved with one says so"
        )
    for key, expected in QUANTIZATION.items():
        found = settings[key]
        if type(found) is not type(expected) or found != expected:
            raise ConversionError(f"config {key}: found {quote(found)}, expected {expected!r}")


def _size(settings: Mapping[str, Any], key: str) -> int:
    value = settings.get(key)
    if type(value) is not int or value < 1:
        raise ConversionError(f"config {key}: found {quote(value)}, expected a positive integer")
    return value


def _flag(settings: Mapping[str, Any], key: str) -> bool:
    value = settings.get(key)
    if not isinstance(value, bool):
        raise ConversionError(f"config {key}: found {quote(value)}, expected true or false")
    return value


def _head(files: CheckpointFiles) -> tuple[str, Literal["classification", "span"]]:
    found = [(key, kind) for key, kind in _HEADS if f"{key}.weight" in files.state]
    if len(found) != 1:
        raise ConversionError(
            f"head: found {[f'{key}.weight' for key, _ in found] or 'none'}, "
            "expected one of classifier.weight and qa_outputs.weight"
        )
    return found[0]


def _outputs(files: CheckpointFiles, key: str, head: str) -> int:
    """Rows of the head, checked against the configuration where that tells their number."""
    shape = tuple(files.state[f"{key}.weight"].shape)
    rows = shape[0] if len(shape) == 2 else 0
    expected = 2 if head == "span" else files.config.get("num_labels", rows)
    if type(expected) is not int or rows != expected or rows < 1:
        raise ConversionError(
            f"{key}.weight: found shape {list(shape)}, expected {quote(expected)} rows (num_labels)"
        )
    labels = files.config.get("num_labels", 2)
    if head == "span" and labels != 2:
        raise ConversionError(
            f"config num_labels: found {quote(labels)}, expected 2 for a span head"
        )
    return rows


def _task(given: str | None, settings: Mapping[str, Any]) -> Task | None:
    """The task; the user's must be a known one, the checkpoint's may be any."""
    own = settings.get("finetuning_task")
    task = find_task(given if given is not None else own if isinstance(own, str) else None)
    if given is not None and task is None:
        known = ", ".join(each.name for each in TASKS)
        raise ConversionError(f"task: found {given!r}, expected one of {known}")
    return task


def _check_vocab(files: CheckpointFiles, config: Config) -> None:
    if len(files.vocab) > config.vocab:
        raise ConversionError(
            f"vocab: found {len(files.vocab)} tokens, expected at most vocab_size {config.vocab}"
        )


def _linear_shapes(prefix: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.weight": (outputs, inputs),
        f"{prefix}.bias": (outputs,),
        f"{prefix}.move.bias": (inputs,),
        f"{prefix}.input_clip_val": (),
    }


def _norm_shapes(prefix: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (size,), f"{prefix}.bias": (size,)}


def _shapes(config: Config, head_key: str) -> dict[str, tuple[int, ...]]:
    """Every key of a checkpoint and its shape; ``()`` also stands for ``(1,)``."""
    hidden, inner = config.hidden, config.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (config.vocab, hidden),
        "bert.embeddings.position_embeddings.weight": (config.positions, hidden),
        "bert.embeddings.token_type_embeddings.weight": (config.token_types, hidden),
        **_norm_shapes("bert.embeddings.LayerNorm", hidden),
    }
    for index in range(config.layers):
        layer = f"bert.encoder.layer.{index}"
        for name in ("query", "key", "value"):
            shapes |= _linear_shapes(f"{layer}.attention.self.{name}", hidden, hidden)
        for name in ("query", "key", "value", "attn"):
            shapes[f"{layer}.attention.self.clip_{name}"] = ()
        for name in DEAD:
            shapes[f"{layer}.attention.self.{name}"] = (hidden,)
        shapes |= _linear_shapes(f"{layer}.attention.output.dense", hidden, hidden)
        shapes |= _norm_shapes(f"{layer}.attention.output.LayerNorm", hidden)
        shapes |= _linear_shapes(f"{layer}.intermediate.dense", inner, hidden)
        shapes |= _linear_shapes(f"{layer}.output.dense", hidden, inner)
        shapes |= _norm_shapes(f"{layer}.output.LayerNorm", hidden)
    shapes |= _linear_shapes("bert.pooler.dense", hidden, hidden)
    shapes |= {f"{head_key}.weight": (config.labels, hidden), f"{head_key}.bias": (config.labels,)}
    return shapes


def _check_tensors(files: CheckpointFiles, settings: _Settings) -> None:
    """Every key known, present, and of its shape."""
    shapes = _shapes(settings.config, settings.head_key)
    missing = [key for key in shapes if key not in files.state]
    unknown = [key for key in files.state if key not in shapes and key != _IGNORED]
    if missing or unknown:
        parts = [
            f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            for what, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        raise ConversionError(
            f"keys of {files.file}: {'; '.join(parts)}; expected the {len(shapes)} keys of a BiT "
            f"model with {settings.config.layers} layers"
        )
    for key, expected in shapes.items():
        found = tuple(files.state[key].shape)
        if found != expected and not (expected == () and found == (1,)):
            raise ConversionError(f"{key}: found shape {list(found)}, expected {list(expected)}")


@dataclass
class _Reader:
    """Turns checked tensors into a description, and notes what is odd on the way."""

    files: CheckpointFiles
    settings: _Settings
    untrained: list[str] = field(default_factory=list)
    floored: list[tuple[str, float]] = field(default_factory=list)

    def description(self, names: tuple[str, ...], task: str | None) -> Description:
        embeddings = "bert.embeddings"
        config, head = self.settings.config, self.settings.head_key
        word = self._values(f"{embeddings}.word_embeddings.weight")
        layers = tuple(self._layer(f"bert.encoder.layer.{i}") for i in range(config.layers))
        return Description(
            config=config,
            word=binarize(word, layerwise=self.settings.embed_layerwise),
            position=self._values(f"{embeddings}.position_embeddings.weight"),
            token_type=self._values(f"{embeddings}.token_type_embeddings.weight"),
            embedding_norm=self._norm(f"{embeddings}.LayerNorm"),
            layers=layers,
            pooler=self._linear("bert.pooler.dense"),
            head_weight=self._values(f"{head}.weight"),
            head_bias=self._values(f"{head}.bias"),
            label_names=names,
            task=task,
            vocab=self.files.vocab,
            lowercase=self.files.lowercase,
            source_file=self.files.file,
            source_sha256=self.files.sha256,
            notes=Notes(
                dropped=self._dropped(),
                untrained=tuple(self.untrained),
                floored=tuple(self.floored),
                remarks=self._remarks(),
            ),
        )

    def _layer(self, key: str) -> Layer:
        attention = f"{key}.attention.self"
        return Layer(
            query=self._linear(f"{attention}.query"),
            key=self._linear(f"{attention}.key"),
            value=self._linear(f"{attention}.value"),
            query_step=self._step(f"{attention}.clip_query"),
            key_step=self._step(f"{attention}.clip_key"),
            value_step=self._step(f"{attention}.clip_value"),
            probs_step=self._step(f"{attention}.clip_attn"),
            attention_output=self._linear(f"{key}.attention.output.dense"),
            attention_norm=self._norm(f"{key}.attention.output.LayerNorm"),
            intermediate=self._linear(f"{key}.intermediate.dense"),
            output=self._linear(f"{key}.output.dense"),
            output_norm=self._norm(f"{key}.output.LayerNorm"),
        )

    def _linear(self, key: str) -> BinaryLinear:
        weight = self._values(f"{key}.weight")
        return BinaryLinear(
            weight=binarize(weight, layerwise=self.settings.weight_layerwise),
            bias=self._values(f"{key}.bias"),
            shift=self._values(f"{key}.move.bias"),
            step=self._step(f"{key}.input_clip_val"),
        )

    def _norm(self, key: str) -> LayerNorm:
        return LayerNorm(self._values(f"{key}.weight"), self._values(f"{key}.bias"))

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
        return to_float32(key, self.files.state[key])

    def _dropped(self) -> tuple[str, ...]:
        suffixes = tuple(f".{name}" for name in DEAD)
        dead = tuple(key for key in self.files.state if key.endswith(suffixes))
        for key in dead:
            self._values(key)  # dead, but a value that is not finite means a damaged file
        return dead + ((_IGNORED,) if _IGNORED in self.files.state else ())

    def _remarks(self) -> tuple[str, ...]:
        remarks = []
        config = self.settings.config
        if len(self.files.vocab) < config.vocab:
            remarks.append(
                f"the vocabulary has {len(self.files.vocab)} tokens for {config.vocab} embeddings"
            )
        epsilon = self.files.config.get("layer_norm_eps", 1e-12)
        if epsilon != 1e-12:
            remarks.append(
                f"layer_norm_eps is {epsilon!r}; the published model uses 1e-12 whatever it says"
            )
        types = sorted({str(each.dtype) for each in self.files.state.values()} - {"torch.float32"})
        types = [each for each in types if "float" in each]
        if types:
            remarks.append(
                f"some tensors were {' and '.join(types)}; their values are kept exactly"
            )
        return tuple(remarks)
