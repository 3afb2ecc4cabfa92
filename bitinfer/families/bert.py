"""What the checkpoints of all families share: a BERT's settings, task, labels and keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bitinfer.checks import check_text
from bitinfer.config import Config
from bitinfer.description import (
    F32,
    NORMS,
    Description,
    Shapes,
    array_shapes,
    matrix_shapes,
)
from bitinfer.errors import ConversionError, InputTypeError, quote
from bitinfer.families import Wishes
from bitinfer.families.checkpoint import CheckpointFiles, to_float32
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
_NORM_KEYS = ("attention.output.LayerNorm", "output.LayerNorm")


class Task(NamedTuple):
    """A task of the published training code.

    Attributes:
        name: its name there.
        labels: its classes in the order of the head's rows; empty for regression and span heads.
        max_length: tokens a sequence was cut to in training.
    """

    name: str
    labels: tuple[str, ...]
    max_length: int


TASKS = (
    Task("cola", ("0", "1"), 64),
    Task("sst-2", ("0", "1"), 64),
    Task("mrpc", ("0", "1"), 128),
    Task("qqp", ("0", "1"), 128),
    Task("mnli", ("contradiction", "entailment", "neutral"), 128),
    Task("qnli", ("entailment", "not_entailment"), 128),
    Task("rte", ("entailment", "not_entailment"), 128),
    Task("sts-b", (), 128),
    Task("squad", (), 384),
)


# ---- settings


def check_setting(key: str, value: object, holds: bool, expected: str) -> None:
    """Raises ConversionError for a value of the configuration that is not as expected."""
    if not holds:
        raise ConversionError(f"config {key}: found {quote(value)}, expected {expected}")


def read_sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Config` that the settings tell, checked.

    Raises:
        ConversionError: naming the setting.
    """
    sizes: dict[str, Any] = {name: settings.get(key) for name, key in _SIZES.items()}
    for name, n in sizes.items():
        check_setting(_SIZES[name], n, type(n) is int and n > 0, "a positive integer")
    heads, hidden = sizes["heads"], sizes["hidden"]
    check_setting("num_attention_heads", heads, hidden % heads == 0, f"a divisor of {hidden}")
    activation = settings.get("hidden_act")
    check_setting("hidden_act", activation, activation in ("relu", "gelu"), "'relu' or 'gelu'")
    return {**sizes, "activation": activation}


def read_config(files: CheckpointFiles) -> Config:
    """Sizes and kinds; raises ConversionError that names the setting or key."""
    sizes, most = read_sizes(files.config), len(files.state)
    layers = sizes["layers"]
    check_setting("num_hidden_layers", layers, layers < most, f"fewer than the {most} keys")
    head, labels = _head(files)
    return Config(**sizes, labels=labels, head=head)


def write_config(description: Description) -> dict[str, Any]:
    """The settings that `read_config` and `shared_fields` read."""
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


def _head(files: CheckpointFiles) -> tuple[str, int]:
    """Name of the head and number of its rows."""
    names = {f"{head.key}.weight": head.name for head in heads()}
    found = [key for key in names if key in files.state]
    if len(found) != 1:
        raise ConversionError(
            f"head: found {found or 'none'}, expected one of {' and '.join(names)}"
        )
    shape = list(files.state[found[0]].shape)
    rows = files.config.get("num_labels", shape[0] if shape else 0)
    if len(shape) != 2 or shape[0] != rows:
        raise ConversionError(
            f"{found[0]}: found shape {shape}, expected {quote(rows)} rows (num_labels)"
        )
    find_head(names[found[0]], shape[0])
    return names[found[0]], shape[0]


# ---- the task and the labels


def find_task(name: str | None) -> Task | None:
    """The task of that name, in any case and with or without hyphens; None if there is none."""

    def plain(name: str) -> str:
        return re.sub("[-_ ]", "", name).lower()

    return next((task for task in TASKS if name and plain(task.name) == plain(name)), None)


def task_and_names(
    files: CheckpointFiles, config: Config, wishes: Wishes
) -> tuple[str | None, tuple[str, ...]]:
    """Name of the task, if it has one, and names of the classes.

    Names are the user's, else the checkpoint's if they are more than numbers, else those of the
    task in its published order, else 0, 1, ...  A task that the user names must fit even beside the
    user's labels; a checkpoint may still name the one that its teacher was trained with.

    Raises:
        ConversionError: they do not fit the head, or the user's task is not a known one.
        InputTypeError: the user's labels are not a sequence of strings.
    """
    own = files.config.get("finetuning_task")
    own = own if isinstance(own, str) else None
    task = find_task(own if wishes.task is None else wishes.task)
    if wishes.task is not None and task is None:
        known = ", ".join(each.name for each in TASKS)
        raise ConversionError(f"task: found {wishes.task!r}, expected one of {known}")
    has_names = find_head(config.head, config.labels).has_names
    if task is not None and (wishes.task is not None or wishes.labels is None):
        _check_task(task, config, has_names)
    names = _names(files, config.labels if has_names else 0, task, wishes.labels)
    return task.name if task else own, names


def _check_task(task: Task, config: Config, has_names: bool) -> None:
    outputs = 2 if task.name == "squad" else max(1, len(task.labels))
    if outputs != config.labels or bool(task.labels) != has_names:
        raise ConversionError(
            f"task {task.name!r}: found a {config.head} head with {config.labels} outputs, "
            f"expected {'a span head' if task.name == 'squad' else f'{outputs} outputs'}"
        )


def _names(
    files: CheckpointFiles, classes: int, task: Task | None, labels: Sequence[str] | None
) -> tuple[str, ...]:
    what, names = "labels", labels
    if labels is None and classes:
        what, names = "config id2label", real_names(files.config.get("id2label"))
    if names is None:
        return task.labels if task and classes else tuple(map(str, range(classes)))
    if isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise InputTypeError(f"labels: found {names!r}, expected a sequence of strings")
    if len(names) != classes:
        raise ConversionError(f"{what}: found {len(names)} names, expected {classes}")
    if len(set(names)) != len(names):
        raise ConversionError(f"{what}: found the same name twice in {quote(list(names))}")
    return tuple(names)


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


# ---- tensors


def layer_key(index: int) -> str:
    """What the keys of a layer begin with."""
    return f"bert.encoder.layer.{index}"


def head_key(config: Config) -> str:
    """What the keys of the head begin with."""
    return find_head(config.head, config.labels).key


def shared_keys(config: Config) -> dict[str, str]:
    """The keys of what no family changes: embeddings, normalizations and head, by their names."""
    modules = {"embeddings.norm": "bert.embeddings.LayerNorm", "head": head_key(config)}
    for index in range(config.layers):
        norms = zip(NORMS, _NORM_KEYS, strict=True)
        modules |= {f"layer.{index}.{name}": f"{layer_key(index)}.{key}" for name, key in norms}
    words = ("word", "position", "token_type")
    keys = {f"embeddings.{name}": f"bert.embeddings.{name}_embeddings.weight" for name in words}
    for name, key in modules.items():
        keys |= {f"{name}.weight": f"{key}.weight", f"{name}.bias": f"{key}.bias"}
    return keys


def key_shapes(config: Config, keys: Mapping[str, str]) -> Shapes:
    """The shape of each of the keys that hold a model's parts."""
    shapes = matrix_shapes(config) | array_shapes(config)
    return {key: shapes[name] for name, key in keys.items()}


def check_keys(files: CheckpointFiles, shapes: Shapes, what: str) -> None:
    """Whether every key is known, present and of its shape; ``(1,)`` also stands for ``()``.

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
        if found != expected and (found or expected != (1,)):
            raise ConversionError(f"{key}: found shape {list(found)}, expected {list(expected)}")


def read_values(files: CheckpointFiles, key: str) -> F32:
    """The values of a key as float32 of its shape; raises ConversionError as `to_float32`."""
    return to_float32(key, files.state[key])


def shared_fields(files: CheckpointFiles, config: Config, wishes: Wishes) -> dict[str, Any]:
    """The fields of a `Description` that tell labels, vocabulary and source.

    Raises:
        ConversionError: they do not fit the sizes.
    """
    task, names = task_and_names(files, config, wishes)
    if len(files.vocab) > config.vocab:
        raise ConversionError(
            f"vocab: found {len(files.vocab)} tokens, expected at most vocab_size {config.vocab}"
        )
    return {
        "config": config,
        "label_names": names,
        "task": task,
        "vocab": files.vocab,
        "lowercase": files.lowercase,
        "source_file": files.file,
        "source_sha256": files.sha256,
    }


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
