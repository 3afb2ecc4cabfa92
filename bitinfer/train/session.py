"""What fine-tuning and distillation have in common: data, device, arithmetic, the end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitinfer.errors import InputError
from bitinfer.tables import LabelledTexts, read_table
from bitinfer.text import MIN_LENGTH
from bitinfer.train.data import Batch, Dataset, Task, collate, evaluation_batches, find_task, tokenize
from bitinfer.train.teacher import Folder

__all__ = ["Columns", "Session", "evaluate", "open_session"]

_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table, None for those that GLUE uses."""

    text: str | None
    pair: str | None
    label: str | None


@dataclass(frozen=True)
class Session:
    """Everything that a training reads, and where it computes.

    Attributes:
        folder: the model that it begins with.
        task, train, dev: what is learned, from what, measured on what.
        max_length: tokens a text is cut to.
        device: a GPU if torch sees one.
        dtype: of the factors of matrix products.
    """

    folder: Folder
    task: Task
    train: Dataset
    dev: Dataset
    texts: LabelledTexts
    max_length: int
    device: torch.device
    dtype: torch.dtype


def open_session(
    folder: Folder,
    train: str | os.PathLike[str],
    dev: str | os.PathLike[str],
    columns: Columns,
    *,
    labels: Sequence[str] | None,
    regression: bool,
    max_length: int | None,
    bf16: bool | None,
) -> Session:
    """Read the tables, decide where to compute.

    Raises:
        InputError: a table or option is not as expected.
        OSError: a table cannot be read.
    """
    texts = [
        read_table(path, text=columns.text, pair=columns.pair, label=columns.label)
        for path in (train, dev)
    ]
    task = find_task(texts[0], labels=labels, regression=regression)
    longest = min(max_length or 128, folder.positions)
    tokenizer = folder.tokenizer()
    data = [
        tokenize(each, task, tokenizer, longest, name=os.fspath(path))
        for each, path in zip(texts, (train, dev), strict=True)
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if (_has_bf16(device) if bf16 is None else bf16) else torch.float32
    return Session(folder, task, data[0], data[1], texts[1], longest, device, dtype)


@torch.no_grad()
def evaluate(logits: Callable[[Batch], Tensor], data: Dataset, device: torch.device) -> float:
    """Accuracy, or the correlation of a regression with its targets.

    Args:
        logits: of a batch, [B, outputs].
    """
    outputs = torch.empty(len(data), data.task.outputs)
    for indices in evaluation_batches(data.lengths, _EVALUATION_BATCH):
        outputs[indices] = logits(collate(data, indices).to(device)).float().cpu()
    if data.task.kind == "classification":
        return float((outputs.argmax(1) == data.targets).double().mean())
    both = torch.stack([outputs[:, 0], data.targets]).double()
    correlation = float(torch.corrcoef(both)[0, 1])
    return correlation if math.isfinite(correlation) else -1.0


def _has_bf16(device: torch.device) -> bool:
    """Whether products of bfloat16 are fast: elsewhere they are emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
