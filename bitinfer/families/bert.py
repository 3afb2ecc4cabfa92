"""What the checkpoints of all families share: a BERT's settings, task, labels and keys.

Whatever is not as expected raises a ConversionError that names the setting or the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bitinfer.checks import check_text
from bitinfer.config import Config
from bitinfer.description import F32, Description, Shapes, array_shapes, matrix_shapes
from bitinfer.errors import ConversionError, InputTypeError, quote
from bitinfer.families.checkpoint import Checkpoint
from bitinfer.heads import find_head, heads

# A key without effect that any checkpoint may hold.
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
# Where the parts of a BERT are: tensors, or modules with parameters of their own.
_KEYS = {
    "embeddings.word": "bert.embeddings.word_embeddings.weight",
    "embeddings.position": "bert.embeddings.position_embeddings.weight",
    "embeddings.token_type": "bert.embeddings.token_type_embeddings.weight",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
}
# And of a layer, under `layer_key`.
_LAYER_KEYS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output.norm": "output.LayerNorm",
}


class Task(NamedTuple):
    """A task of the published training code, which cut sequences to ``max_length`` tokens."""

    name: str
    max_length: int
    labels: tuple[str, ...] = ()  # in the order of the head's rows
    outputs: int = 2


TASKS = (
    Task("cola", 64, ("0", "1")),
    Task("sst-2", 64, ("0", "1")),
    Task("mrpc", 128, ("0", "1")),
    Task("qqp", 128, ("0", "1")),
    Task("mnli", 128, ("contradiction", "entailment", "neutral"), 3),
    Task("qnli", 128, ("entailment", "not_entailment")),
    Task("rte", 128, ("entailment", "not_entailment")),
    Task("sts-b", 128, outputs=1),
    Task("squad", 384),
)


def check_setting(key: str, value: object, holds: bool, expected: str) -> None:
    """For a value of the configuration."""
    if not holds:
        raise ConversionError(f"config {key}: found {quote(value)}, expected {expected}")


def read_sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Config` that the settings tell."""
    sizes: dict[str, Any] = {name: settings.get(key) for name, key in _SIZES.items()}
    for name, n in sizes.items():
        check_setting(_SIZES[name], n, type(n) is int and n > 0, "a positive integer")
    heads, hidden = sizes["heads"], sizes["hidden"]
    check_setting("num_attention_heads", heads, hidden % heads == 0, f"a divisor of {hidden}")
    activation = settings.get("hidden_act")
    check_setting("hidden_act", activation, activation in ("relu", "gelu"), "'relu' or 'gelu'")
    return {**sizes, "activation": activation}


def read_shared(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a `Description` that say sizes, labels, vocabulary and source."""
    sizes, most = read_sizes(checkpoint.settings), len(checkpoint.state)
    layers = sizes["layers"]
    check_setting("num_hidden_layers", layers, layers < most, f"fewer than the {most} keys")
    head, labels = _head(checkpoint)
    config = Config(**sizes, labels=labels, head=head)
    task, names = _task_and_names(checkpoint, config)
    if len(checkpoint.vocab) > config.vocab:
        found = f"vocab: found {len(checkpoint.vocab)} tokens"
        raise ConversionError(f"{found}, expected at most vocab_size {config.vocab}")
    return {
        "config": config,
        "label_names": names,
        "task": task,
        "vocab": checkpoint.vocab,
        "lowercase": checkpoint.lowercase,
        "source_file": checkpoint.file,
        "source_sha256": checkpoint.sha256,
    }


def write_config(description: Description) -> dict[str, Any]:
    """The settings that `read_shared` reads."""
    config = description.config._asdict()
    names = {str(index): name for index, name in enumerate(description.label_names)}
    return {
        "model_type": "bert",
        **{key: config[name] for name, key in _SIZES.items()},
        "hidden_act": config["activation"],
        "layer_norm_eps": 1e-12,
        "num_labels": config["labels"],
        "finetuning_task": description.task,
        **({"id2label": names} if names else {}),
    }


def _head(checkpoint: Checkpoint) -> tuple[str, int]:
    """Name of the head and number of its rows."""
    names = {f"{head.key}.weight": head.name for head in heads()}
    found = [key for key in names if key in checkpoint.state]
    if len(found) != 1:
        expected = f"one of {' and '.join(names)}"
        raise ConversionError(f"head: found {found or 'none'}, expected {expected}")
    key, shape = found[0], list(checkpoint.state[found[0]].shape)
    rows = checkpoint.settings.get("num_labels", shape[0] if shape else 0)
    if len(shape) != 2 or shape[0] != rows:
        where = f"{key}: found shape {shape}"
        raise ConversionError(f"{where}, expected {quote(rows)} rows (num_labels)")
    return names[key], shape[0]


def find_task(name: str | None) -> Task | None:
    """The task of that name, in any case and with or without hyphens; None if there is none."""

    def plain(name: str) -> str:
        return re.sub("[-_ ]", "", name).lower()

    return next((task for task in TASKS if name and plain(task.name) == plain(name)), None)


def _task_and_names(checkpoint: Checkpoint, config: Config) -> tuple[str | None, tuple[str, ...]]:
    """Name of the task, if it has one, and names of the classes.

    Names are the user's, else the checkpoint's if they are more than numbers, else those of the
    task in its published order, else 0, 1, ...  A task that the user names must fit even beside the
    user's labels; a checkpoint may still name the one that its teacher was trained with.
    """
    wish, own = checkpoint.task, checkpoint.settings.get("finetuning_task")
    own = own if isinstance(own, str) else None
    task = find_task(own if wish is None else wish)
    if wish is not None and task is None:
        known = ", ".join(each.name for each in TASKS)
        raise ConversionError(f"task: found {wish!r}, expected one of {known}")
    has_names = find_head(config.head, config.labels).has_names
    if task and (wish is not None or checkpoint.labels is None):
        fits = task.outputs == config.labels and bool(task.labels) == has_names
        if not fits:
            span = task.outputs == 2 and not task.labels
            raise ConversionError(
                f"task {task.name!r}: found a {config.head} head with {config.labels} outputs, "
                f"expected {'a span head' if span else f'{task.outputs} outputs'}"
            )
    classes = config.labels if has_names else 0
    what, names = "labels", checkpoint.labels
    if names is None and classes:
        what, names = "config id2label", real_names(checkpoint.settings.get("id2label"))
    if names is None:
        names = task.labels if task and classes else tuple(map(str, range(classes)))
    if isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise InputTypeError(f"labels: found {names!r}, expected a sequence of strings")
    if len(names) != classes:
        raise ConversionError(f"{what}: found {len(names)} names, expected {classes}")
    if len(set(names)) != len(names):
        raise ConversionError(f"{what}: found the same name twice in {quote(list(names))}")
    return task.name if task else own, tuple(names)


def real_names(id2label: object) -> tuple[str, ...] | None:
    """The names in order, or None if there are none, or only ``LABEL_0`` or ``0`` and so on."""
    if not isinstance(id2label, Mapping):
        return None
    names = {str(index): name for index, name in id2label.items()}
    if all(str(name) in (f"LABEL_{index}", index) for index, name in names.items()):
        return None
    order = [str(index) for index in range(len(names))]
    if names.keys() != {*order} or not all(isinstance(name, str) for name in names.values()):
        raise ConversionError(
            f"config id2label: found {quote(dict(id2label))}, expected a name for each of 0 .. n-1"
        )
    return tuple(check_text(f"config id2label {index}", names[index]) for index in order)


def layer_key(index: int) -> str:
    """What the keys of a layer begin with."""
    return f"bert.encoder.layer.{index}"


def head_key(config: Config) -> str:
    """What the keys of the head begin with."""
    return find_head(config.head, config.labels).key


def part_keys(config: Config, parameters: Mapping[str, str]) -> dict[str, str]:
    """The key of every part of a model, by its name.

    ``parameters`` is what a family calls its own, of linears (``shift``) and of attention
    (``query.code_step``).
    """
    modules = _KEYS | {"head": head_key(config)}
    for index in range(config.layers):
        for name, key in {**_LAYER_KEYS, **parameters}.items():
            modules[f"layer.{index}.{name}"] = f"{layer_key(index)}.{key}"
    keys = {}
    for name in matrix_shapes(config):
        keys[name] = modules[name].removesuffix(".weight") + ".weight"
    for name in array_shapes(config):
        module, _, part = name.rpartition(".")
        keys[name] = modules.get(name) or f"{modules[module]}.{parameters.get(part, part)}"
    return keys


def read_values(checkpoint: Checkpoint, shapes: Shapes, what: str) -> dict[str, F32]:
    """The values of every key, all of them and no other, ``(1,)`` standing for ``()`` too.

    ``what`` tells in errors whose keys were expected.
    """
    state = checkpoint.state
    missing, unknown = shapes.keys() - state, state.keys() - shapes - {IGNORED}
    if missing or unknown:
        parts = [
            f"{len(keys)} {kind}: {', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''}"
            for kind, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        expected = f"the {len(shapes)} keys of {what}"
        raise ConversionError(f"keys of {checkpoint.file}: {'; '.join(parts)}; expected {expected}")
    for key, shape in shapes.items():
        found = tuple(state[key].shape)
        if found != shape and (found or shape != (1,)):
            raise ConversionError(f"{key}: found shape {list(found)}, expected {list(shape)}")
    return {key: checkpoint.values(key) for key in shapes}


def remarks(checkpoint: Checkpoint, config: Config) -> tuple[str, ...]:
    """What a user may want to know of any checkpoint."""
    found, tokens = [], len(checkpoint.vocab)
    if tokens < config.vocab:
        found.append(f"the vocabulary has {tokens} tokens for {config.vocab} embeddings")
    epsilon = checkpoint.settings.get("layer_norm_eps", 1e-12)
    if epsilon != 1e-12:
        told = f"layer_norm_eps is {epsilon!r}"
        found.append(f"{told}; the published model uses 1e-12 whatever it says")
    types = {str(each.dtype) for each in checkpoint.state.values() if each.is_floating_point()}
    if others := sorted(types - {"torch.float32"}):
        found.append(f"some tensors were {' and '.join(others)}; their values are kept exactly")
    return tuple(found)
