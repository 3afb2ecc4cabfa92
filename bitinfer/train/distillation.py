"""Multi-distillation: a float teacher, then students of fewer and fewer bits (BiT, section 3.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bitinfer.train.data import Batch
from bitinfer.train.losses import LossWeights, distillation_loss
from bitinfer.train.loop import LoopOptions, Run
from bitinfer.train.loop import train as run_stage
from bitinfer.train.options import Bits, Budget
from bitinfer.train.report import StageResult
from bitinfer.train.session import Session, evaluate
from bitinfer.train.student import Outputs, Student


def run_stages(teacher: Student, session: Session, run: Run, *, bits, budgets, options: LoopOptions, weights: LossWeights, shape=None, show=True):
    """Every stage, taught by the one before it."""
    results = []
    before = teacher
    for index, (each, budget) in enumerate(zip(bits, budgets, strict=True)):
        student = (replace_shape(before, shape) if index == 0 else before).with_bits(each)
        result = run_stage_of(student, before, session, run, index, budget, options, weights, show, each.activations != before.bits.activations)
        results.append(result)
        before = student
    return before, results


def replace_shape(model: Student, shape) -> Student:
    other = Student(shape, model.bits, dtype=model.bert.numerics.dtype)
    other.load_state_dict(model.state_dict())
    return other


def run_stage_of(student, teacher, session, run, index, budget, options, weights, show, anew):
    student.to(session.device)
    if anew:
        from bitinfer.train.data import collate, training_batches
        first = training_batches(session.train.lengths, options.batch_size, seed=options.seed, epoch=0)[0]
        b = collate(session.train, first).to(session.device)
        student.begin_steps(b.ids, b.segments, b.mask)
    teacher.eval().requires_grad_(False)

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            taught = teacher(batch.ids, batch.segments, batch.mask)
        return distillation_loss(student(batch.ids, batch.segments, batch.mask), taught, batch, session.task, weights)

    def logits(batch: Batch) -> Tensor:
        return student(batch.ids, batch.segments, batch.mask).logits
    return run_stage(student, loss, lambda: evaluate(logits, session.dev, session.device), session.train, name=str(student.bits), budget=budget, options=options, run=run, stage=index, show_progress_bar=show)
