"""What a student is told about its teacher (BiT, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bitinfer.train.data import NO_CLASS, Batch, Task
from bitinfer.train.student import Outputs

__all__ = ["LossWeights", "distillation_loss", "label_loss"]


@dataclass(frozen=True)
class LossWeights:
    """Weight of each part of the loss; a part of weight 0 is not computed.

    Attributes:
        logits: soft cross-entropy with the teacher's probabilities; for regression the mean
            squared error of the outputs.
        hidden: mean squared error of the embedding output and of the output of every layer, each
            averaged over tokens and channels, then added up.
        attention: mean squared error of the attention scores of every layer, added up likewise.
        labels: cross-entropy with the true labels, for regression the mean squared error; a mean
            over the examples of a batch that have a label.
    """

    logits: float = 1.0
    hidden: float = 1.0
    attention: float = 0.0
    labels: float = 0.0


def distillation_loss(
    student: Outputs, teacher: Outputs, batch: Batch, task: Task, weights: LossWeights
) -> Tensor:
    """The weighted sum, a scalar of the type of the student's logits.  Padding does not count."""
    loss = student.logits.new_zeros(())
    if weights.logits:
        loss = loss + weights.logits * _logits_loss(student.logits, teacher.logits, task)
    if weights.hidden:
        tokens = batch.mask[..., None]
        pairs = zip(student.hidden, teacher.hidden, strict=True)
        loss = loss + weights.hidden * sum(_mean_square(s, t, tokens) for s, t in pairs)
    if weights.attention:
        both = batch.mask[:, None, :, None] & batch.mask[:, None, None, :]
        pairs = zip(student.scores, teacher.scores, strict=True)
        loss = loss + weights.attention * sum(_mean_square(s, t, both) for s, t in pairs)
    if weights.labels:
        loss = loss + weights.labels * label_loss(student.logits, batch, task)
    return loss


def label_loss(logits: Tensor, batch: Batch, task: Task) -> Tensor:
    """Cross-entropy with the labels, or the mean squared error of a regression.

    Mean over the examples that have a label; 0 if none has.
    """
    if task.kind == "regression":
        known = ~batch.targets.isnan()
        targets = batch.targets[known].to(logits.dtype)
        total = functional.mse_loss(logits[known, 0], targets, reduction="sum")
    else:
        known = batch.targets != NO_CLASS
        total = functional.cross_entropy(logits[known], batch.targets[known], reduction="sum")
    return total / known.sum().clamp_min(1)


def _logits_loss(student: Tensor, teacher: Tensor, task: Task) -> Tensor:
    if task.kind == "regression":
        return functional.mse_loss(student, teacher)
    return functional.cross_entropy(student, torch.softmax(teacher, dim=1))


def _mean_square(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Mean squared error over the entries for which ``real``, which is broadcast, is true."""
    square = (student - teacher).square() * real
    return square.sum() / real.expand_as(square).sum()
