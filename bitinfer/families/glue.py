"""What a checkpoint's task says about its labels and its sequence length."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitinfer.description import Config
from bitinfer.errors import ConversionError, InputError, InputTypeError, quote
from bitinfer.heads import find_head
from bitinfer.kinds import check_text

__all__ = ["TASKS", "Task", "find_task", "label_names", "real_names"]


@dataclass(frozen=True)
class Task:
    """A task of the published training code.

    Attributes:
        name: its name there.
        labels: its classes in the order of the head's rows; empty for regression and span heads.
        max_length: tokens a sequence was cut to in training.
    """

    name: str
    labels: tuple[str, ...]
    max_length: int

    @property
    def outputs(self) -> int:
        """Rows of the head: start and end of a span, or one for each class, or one score."""
        return 2 if self.name == "squad" else max(1, len(self.labels))


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


def find_task(name: str | None) -> Task | None:
    """The task of that name, in any case and with or without hyphens; None if there is none."""
    if name is None:
        return None
    return next((task for task in TASKS if _plain(task.name) == _plain(name)), None)


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


def label_names(
    config: Config,
    *,
    labels: Sequence[str] | None,
    id2label: object,
    task: Task | None,
    task_given: bool,
) -> tuple[str, ...]:
    """Names of the classes: the user's, else the checkpoint's, else its task's, else 0, 1, ...

    Args:
        config: tells the number of classes; regression and span heads have none.
        labels: the user's names, which win.
        id2label: the checkpoint's mapping, used if it holds more than numbers.
        task: the task, whose order of labels is the published one.
        task_given: whether the user named the task, which then must fit even beside ``labels``; a
            checkpoint may still name the one that its teacher was trained with.

    Raises:
        ConversionError: if the names that apply do not fit the head.
        InputTypeError: if ``labels`` is not a sequence of strings.
    """
    classes = config.labels if find_head(config.head, config.labels).has_names else 0
    if task is not None and (task_given or labels is None):
        _check_head(config, task, classes)
    if labels is not None:
        return _checked("labels", _given(labels), classes)
    if classes == 0:
        return ()
    named = real_names(id2label)
    if named is not None:
        return _checked("config id2label", named, classes)
    if task is not None:
        return task.labels
    return tuple(str(index) for index in range(classes))


def _check_head(config: Config, task: Task, classes: int) -> None:
    if task.outputs != config.labels or bool(task.labels) != bool(classes):
        raise ConversionError(
            f"task {task.name!r}: found a {config.head} head with {config.labels} outputs, "
            f"expected {'a span head' if task.name == 'squad' else f'{task.outputs} outputs'}"
        )


def _given(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(each, str) for each in labels):
        raise InputTypeError(f"labels: found {labels!r}, expected a sequence of strings")
    return tuple(labels)


def real_names(id2label: object) -> tuple[str, ...] | None:
    """The names in order, or None if there are none, or only ``LABEL_0`` or ``0`` and so on."""
    if not isinstance(id2label, Mapping) or not id2label:
        return None
    entries: Mapping[Any, Any] = id2label
    if all(str(name) in (f"LABEL_{index}", str(index)) for index, name in entries.items()):
        return None
    by_index = {str(index): name for index, name in entries.items()}
    expected = [str(index) for index in range(len(by_index))]
    if sorted(by_index) != sorted(expected) or not all(
        isinstance(name, str) for name in by_index.values()
    ):
        raise ConversionError(
            f"config id2label: found {quote(dict(entries))}, expected a name for each of 0 .. n-1"
        )
    names = tuple(by_index[index] for index in expected)
    for index, name in enumerate(names):
        try:
            check_text(f"config id2label {index}", name)
        except InputError as error:
            raise ConversionError(str(error)) from None
    return names


def _checked(what: str, names: tuple[str, ...], classes: int) -> tuple[str, ...]:
    if len(names) != classes:
        raise ConversionError(f"{what}: found {len(names)} names, expected {classes}")
    if len(set(names)) != len(names):
        raise ConversionError(f"{what}: found the same name twice in {quote(list(names))}")
    return names
