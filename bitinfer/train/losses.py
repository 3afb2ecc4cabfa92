"""What a student is told about its teacher (BiT, section 3.3)."""

from __future__ import annotations

from torch import Tensor

from bitinfer.heads import Head
from bitinfer.train.data import Batch
from bitinfer.train.student import Outputs


def distillation_loss(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    head: Head,
    *,
    logits: float = 1.0,
    hidden: float = 1.0,
    attention: float = 0.0,
    labels: float = 0.0,
) -> Tensor:
    """The weighted sum of losses, a scalar of the type of the student's logits.

    Padding does not count, and a part of weight 0 is not computed.

    Args:
        logits: weight of the distance from the teacher's logits, as the head has it.
        hidden: of the mean squared error of the embedding output and of the output of every layer,
            each averaged over tokens and channels, then added up.
        attention: of the same of the attention scores of every layer.
        labels: of the loss on the true labels, over the examples of a batch that have one.
    """
    loss = student.logits.new_zeros(())
    if logits:
        loss = loss + logits * head.teacher_loss(student.logits, teacher.logits)
    if hidden:
        tokens = batch.mask[..., None]
        pairs = zip(student.hidden, teacher.hidden, strict=True)
        loss = loss + hidden * sum(_mean_square(s, t, tokens) for s, t in pairs)
    if attention:
        both = batch.mask[:, None, :, None] & batch.mask[:, None, None, :]
        pairs = zip(student.scores, teacher.scores, strict=True)
        loss = loss + attention * sum(_mean_square(s, t, both) for s, t in pairs)
    if labels:
        loss = loss + labels * head.label_loss(student.logits, batch.targets)
    return loss


def _mean_square(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Mean squared error over the entries for which ``real``, which is broadcast, is true."""
    square = (student - teacher).square() * real
    return square.sum() / real.expand_as(square).sum()
