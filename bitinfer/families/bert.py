"""What the checkpoints of all families share: a BERT's sizes, embeddings, head, labels and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitinfer.description import F32, Config, Description, LayerNorm
from bitinfer.errors import ConversionError, quote
from bitinfer.families import Wishes
from bitinfer.families.checkpoint import CheckpointFiles, to_float32
from bitinfer.families.glue import TASKS, Task, find_task, label_names
from bitinfer.heads import find_head, heads

__all__ = [
    "IGNORED",
    "Shapes",
    "check_keys",
    "check_vocab",
    "embedding_shapes",
    "head_key",
    "layer_key",
    "norm_shapes",
    "read_config",
    "read_norm",
    "read_values",
    "remarks",
    "task_and_names",
    "write_config",
    "write_norm",
]

Shapes = dict[str, tuple[int, ...]]

# Keys without effect that any checkpoint may hold.
IGNORED = "bert.embeddings.position_ids"
_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
}


def layer_key(index: int) -> str:
    """What the keys of a layer begin with."""
    return f"bert.encoder.layer.{index}"


def head_key(config: Config) -> str:
    """What the keys of the head begin with."""
    return find_head(config.head, config.labels).key


# ---- settings


def read_config(files: CheckpointFiles) -> Config:
    """Sizes and kinds, checked.

    Raises:
        ConversionError: naming the setting or key.
    """
    settings = files.config
    sizes = {name: _size(settings, key) for name, key in _SIZES.items()}
    if sizes["layers"] > len(files.state):
        raise ConversionError(
            f"config num_hidden_layers: found {sizes['layers']}, "
            f"expected fewer than the {len(files.state)} keys of {files.file}"
        )
    if sizes["hidden"] % sizes["heads"]:
        raise ConversionError(
            f"config num_attention_heads: found {sizes['heads']}, "
            f"expected a divisor of hidden_size {sizes['hidden']}"
        )
    activation = settings.get("hidden_act")
    if activation not in ("relu", "gelu"):
        raise ConversionError(
            f"config hidden_act: found {quote(activation)}, expected 'relu' or 'gelu'"
        )
    name, labels = _head(files)
    return Config(**sizes, labels=labels, activation=activation, head=name)


def write_config(description: Description) -> dict[str, Any]:
    """The settings that `read_config` and `task_and_names` read."""
    config = description.config._asdict()
    names = description.label_names
    labels = {"id2label": {str(i): name for i, name in enumerate(names)}} if names else {}
    return {
        "model_type": "bert",
        **{key: config[name] for name, key in _SIZES.items()},
        "hidden_act": config["activation"],
        "layer_norm_eps": 1e-12,
        "num_labels": config["labels"],
        "finetuning_task": description.task,
        **labels,
    }


def task_and_names(
    files: CheckpointFiles, config: Config, wishes: Wishes
) -> tuple[str | None, tuple[str, ...]]:
    """Name of the task, if it has one, and names of the classes.

    Raises:
        ConversionError: they do not fit the head, or the user's task is not a known one.
    """
    own = files.config.get("finetuning_task")
    own_name = own if isinstance(own, str) else None
    task = _task(wishes.task, own_name)
    names = label_names(
        config,
        labels=wishes.labels,
        id2label=files.config.get("id2label"),
        task=task,
        task_given=wishes.task is not None,
    )
    return task.name if task else own_name, names


def check_vocab(files: CheckpointFiles, config: Config) -> None:
    """Whether every token has an embedding.

    Raises:
        ConversionError: there are more tokens.
    """
    if len(files.vocab) > config.vocab:
        raise ConversionError(
            f"vocab: found {len(files.vocab)} tokens, expected at most vocab_size {config.vocab}"
        )


def remarks(files: CheckpointFiles, config: Config) -> tuple[str, ...]:
    """What a user may want to know of any checkpoint."""
    found = []
    if len(files.vocab) < config.vocab:
        found.append(f"the vocabulary has {len(files.vocab)} tokens for {config.vocab} embeddings")
    epsilon = files.config.get("layer_norm_eps", 1e-12)
    if epsilon != 1e-12:
        found.append(
            f"layer_norm_eps is {epsilon!r}; the published model uses 1e-12 whatever it says"
        )
    types = sorted({str(each.dtype) for each in files.state.values()} - {"torch.float32"})
    types = [each for each in types if "float" in each]
    if types:
        found.append(f"some tensors were {' and '.join(types)}; their values are kept exactly")
    return tuple(found)


def _size(settings: Mapping[str, Any], key: str) -> int:
    value = settings.get(key)
    if type(value) is not int or value < 1:
        raise ConversionError(f"config {key}: found {quote(value)}, expected a positive integer")
    return value


def _head(files: CheckpointFiles) -> tuple[str, int]:
    """Name of the head and number of its rows, checked where the configuration tells it."""
    keys = {head.key: head.name for head in heads()}
    found = [key for key in keys if f"{key}.weight" in files.state]
    if len(found) != 1:
        raise ConversionError(
            f"head: found {[f'{key}.weight' for key in found] or 'none'}, "
            f"expected one of {' and '.join(f'{key}.weight' for key in keys)}"
        )
    [key] = found
    shape = tuple(files.state[f"{key}.weight"].shape)
    rows = shape[0] if len(shape) == 2 else 0
    [first, *others] = [head for head in heads() if head.key == key]
    fixed = first.outputs.start if len(first.outputs) == 1 and not others else None
    named = files.config.get("num_labels", fixed or rows)
    if fixed and named != fixed:
        raise ConversionError(
            f"config num_labels: found {quote(named)}, expected {fixed} for a {first.kind} head"
        )
    if type(named) is not int or rows != named or rows < 1:
        raise ConversionError(
            f"{key}.weight: found shape {list(shape)}, expected {quote(named)} rows (num_labels)"
        )
    return keys[key], rows


def _task(given: str | None, own: str | None) -> Task | None:
    """The task; the user's must be a known one, the checkpoint's may be any."""
    task = find_task(own if given is None else given)
    if given is not None and task is None:
        known = ", ".join(each.name for each in TASKS)
        raise ConversionError(f"task: found {given!r}, expected one of {known}")
    return task


# ---- tensors


def embedding_shapes(config: Config) -> Shapes:
    """Keys and shapes of the embeddings and of the head."""
    embeddings, head = "bert.embeddings", head_key(config)
    return {
        f"{embeddings}.word_embeddings.weight": (config.vocab, config.hidden),
        f"{embeddings}.position_embeddings.weight": (config.positions, config.hidden),
        f"{embeddings}.token_type_embeddings.weight": (config.token_types, config.hidden),
        **norm_shapes(f"{embeddings}.LayerNorm", config.hidden),
        f"{head}.weight": (config.labels, config.hidden),
        f"{head}.bias": (config.labels,),
    }


def norm_shapes(key: str, size: int) -> Shapes:
    """Keys and shapes of a layer normalization."""
    return {f"{key}.weight": (size,), f"{key}.bias": (size,)}


def check_keys(files: CheckpointFiles, shapes: Shapes, what: str) -> None:
    """Whether every key is known, present and of its shape; ``()`` also stands for ``(1,)``.

    Raises:
        ConversionError: naming the keys; ``what`` says whose keys were expected.
    """
    missing = [key for key in shapes if key not in files.state]
    unknown = [key for key in files.state if key not in shapes and key != IGNORED]
    if missing or unknown:
        parts = [
            f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            for kind, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        raise ConversionError(
            f"keys of {files.file}: {'; '.join(parts)}; expected the {len(shapes)} keys of {what}"
        )
    for key, expected in shapes.items():
        found = tuple(files.state[key].shape)
        if found != expected and not (expected == () and found == (1,)):
            raise ConversionError(f"{key}: found shape {list(found)}, expected {list(expected)}")


def read_values(files: CheckpointFiles, key: str) -> F32:
    """The values of a key, float32 of its shape.

    Raises:
        ConversionError: as `to_float32`.
    """
    return to_float32(key, files.state[key])


def read_norm(files: CheckpointFiles, key: str) -> LayerNorm:
    """A layer normalization by what its keys begin with."""
    return LayerNorm(read_values(files, f"{key}.weight"), read_values(files, f"{key}.bias"))


def write_norm(key: str, norm: LayerNorm) -> dict[str, F32]:
    """The inverse of `read_norm`."""
    return {f"{key}.weight": norm.weight, f"{key}.bias": norm.bias}
