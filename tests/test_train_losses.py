"""Losses, against loops over single numbers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("transformers", reason="training needs it")

import torch

from bitinfer.heads import Head, find_head
from bitinfer.train.data import Batch
from bitinfer.train.distillation import distillation_loss
from bitinfer.train.student import Outputs

CLASSES, NUMBER = find_head("classification", 3), find_head("classification", 1)
NONE = {"logits": 0.0, "hidden": 0.0}
LENGTHS = [4, 1, 3]
ROWS, COLUMNS, HIDDEN, HEADS, LAYERS = 3, 4, 5, 2, 2


def outputs(seed: int, head: Head) -> Outputs:
    torch.manual_seed(seed)
    kind: Any = {"dtype": torch.float64}
    return Outputs(
        torch.randn(ROWS, 3 if head is CLASSES else 1, **kind).mul(2).requires_grad_(),
        tuple(torch.randn(ROWS, COLUMNS, HIDDEN, **kind) for _ in range(LAYERS + 1)),
        tuple(torch.randn(ROWS, HEADS, COLUMNS, COLUMNS, **kind) for _ in range(LAYERS)),
    )


def batch(head: Head) -> Batch:
    mask = torch.arange(COLUMNS) < torch.tensor(LENGTHS)[:, None]
    classes, numbers = torch.tensor([2, 0, 1]), torch.tensor([0.5, -2.0, 4.0])
    targets = classes if head is CLASSES else numbers
    return Batch(mask.long(), mask.long(), mask, targets, np.arange(ROWS))


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(each) for each in row]
    return [power / sum(powers) for power in powers]


def expected(student: Outputs, teacher: Outputs, head: Head) -> dict[str, float]:
    """Every part of the loss."""
    mine, theirs = student.logits.tolist(), teacher.logits.tolist()
    targets = batch(head).targets.tolist()
    if head is NUMBER:
        logits = sum((s[0] - t[0]) ** 2 for s, t in zip(mine, theirs, strict=True)) / ROWS
        labels = sum((s[0] - t) ** 2 for s, t in zip(mine, targets, strict=True)) / ROWS
    else:
        logits = labels = 0.0
        for s, t, target in zip(mine, theirs, targets, strict=True):
            for probability, own in zip(softmax(t), softmax(s), strict=True):
                logits -= probability * math.log(own) / ROWS
            labels -= math.log(softmax(s)[target]) / ROWS
    hidden = attention = 0.0
    for s, t in zip(student.hidden, teacher.hidden, strict=True):
        for row, length in enumerate(LENGTHS):
            for column, channel in itertools.product(range(length), range(HIDDEN)):
                error = (s[row, column, channel] - t[row, column, channel]).item()
                hidden += error**2 / (sum(LENGTHS) * HIDDEN)
    for s, t in zip(student.scores, teacher.scores, strict=True):
        for row, length in enumerate(LENGTHS):
            for head, query, key in itertools.product(range(HEADS), range(length), range(length)):
                error = (s[row, head, query, key] - t[row, head, query, key]).item()
                attention += error**2 / (HEADS * sum(each**2 for each in LENGTHS))
    return {"logits": logits, "hidden": hidden, "attention": attention, "labels": labels}


@pytest.mark.parametrize("head", [CLASSES, NUMBER], ids=["classes", "number"])
@pytest.mark.parametrize("part", ["logits", "hidden", "attention", "labels"])
def test_each_part(head: Head, part: str) -> None:
    student, teacher = outputs(1, head), outputs(2, head)
    wanted = expected(student, teacher, head)[part]
    found = distillation_loss(student, teacher, batch(head), head, **{**NONE, part: 1.0})
    assert found.shape == ()
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    if part == "labels":
        alone = head.label_loss(student.logits, batch(head).targets)
        assert alone.item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("head", [CLASSES, NUMBER], ids=["classes", "number"])
def test_the_weighted_sum(head: Head) -> None:
    student, teacher = outputs(1, head), outputs(2, head)
    parts = expected(student, teacher, head)
    weights = {"logits": 0.5, "hidden": 3.0, "attention": 0.25, "labels": 2.0}
    wanted = sum(weights[name] * value for name, value in parts.items())
    found = distillation_loss(student, teacher, batch(head), head, **weights)
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    default = distillation_loss(student, teacher, batch(head), head)
    assert default.item() == pytest.approx(parts["logits"] + parts["hidden"], rel=1e-12)
    assert distillation_loss(student, teacher, batch(head), head, **NONE).item() == 0


@pytest.mark.parametrize("head", [CLASSES, NUMBER], ids=["classes", "number"])
def test_examples_without_a_label(head: Head) -> None:
    """The others alone count, and a batch of none has a loss of 0 and no gradient."""
    student, whole = outputs(1, head), batch(head)
    unknown = head.no_target
    targets = whole.targets.clone()
    targets[1] = unknown
    found = head.label_loss(student.logits, targets)
    rest = torch.tensor([0, 2])
    wanted = head.label_loss(student.logits[rest], whole.targets[rest])
    assert found.item() == pytest.approx(wanted.item(), rel=1e-15)
    none = replace(whole, targets=torch.full_like(targets, unknown))
    loss = head.label_loss(student.logits, none.targets)
    assert loss.item() == 0
    loss.backward()
    assert student.logits.grad.abs().max() == 0


def test_padding_does_not_count() -> None:
    student, teacher = outputs(1, CLASSES), outputs(2, CLASSES)
    whole, weights = batch(CLASSES), dict.fromkeys(("logits", "hidden", "attention", "labels"), 1.0)
    before = distillation_loss(student, teacher, whole, CLASSES, **weights)
    real = whole.mask
    for each in student.hidden:
        each[~real] = 1e6
    for each in student.scores:
        each.masked_fill_(~(real[:, None, :, None] & real[:, None, None]), -1e6)
    assert distillation_loss(student, teacher, whole, CLASSES, **weights) == before


def test_a_teacher_is_matched_best_by_itself() -> None:
    """Then the gradient of the soft cross-entropy is 0, and so are the other parts."""
    teacher = outputs(2, CLASSES)
    weights = {"attention": 1.0}
    expected_probabilities = replace(teacher, logits=teacher.logits.detach())
    distillation_loss(
        teacher, expected_probabilities, batch(CLASSES), CLASSES, **weights
    ).backward()
    assert teacher.logits.grad.abs().max() < 1e-15


@pytest.mark.parametrize("head", [CLASSES, NUMBER], ids=["classes", "number"])
def test_finite_differences(head: Head) -> None:
    student, teacher = outputs(1, head), outputs(2, head)
    parts = [*student.hidden, *student.scores]
    parts = [student.logits, *(each.requires_grad_() for each in parts)]
    weights = {"hidden": 0.5, "attention": 0.25, "labels": 2.0}
    layers = LAYERS + 1

    def loss(logits: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        changed = Outputs(logits, others[:layers], others[layers:])
        return distillation_loss(changed, teacher, batch(head), head, **weights)

    assert torch.autograd.gradcheck(loss, parts, fast_mode=True)


def test_layers_must_be_as_many() -> None:
    student, teacher = outputs(1, CLASSES), outputs(2, CLASSES)
    fewer = replace(teacher, hidden=teacher.hidden[1:])
    with pytest.raises(ValueError, match="shorter"):
        distillation_loss(student, fewer, batch(CLASSES), CLASSES)
