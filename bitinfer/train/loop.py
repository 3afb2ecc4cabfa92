"""The loop that every training goes through: batches, learning rate, measuring, going on later."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from bitinfer.errors import InputError
from bitinfer.train.data import Batch, Dataset, Indices, collate, training_batches, with_noise
from bitinfer.train.options import Options
from bitinfer.train.report import Point, StageResult, from_plain, to_plain
from bitinfer.train.run import Run

_SAVE_EVERY = 300.0  # seconds of work that a kill may cost
_DECAY = 0.01  # of matrices
_WARMUP = 0.1  # part of the budget in which the rate rises
_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def epoch_batches(data: Dataset, options: Options, epoch: int) -> list[Indices]:
    """The examples of each step of an epoch; every epoch has as many steps."""
    most, tokens = options.batch_size or len(data), options.batch_tokens
    return training_batches(data.lengths, most, seed=options.seed, epoch=epoch, batch_tokens=tokens)


def learning_rate(progress: float, highest: float) -> float:
    """The rate at a progress of 0..1: it rises in a line, then falls to 0 in a line."""
    return highest * min(progress / _WARMUP, (1 - progress) / (1 - _WARMUP))


def train(
    model: nn.Module,
    loss: Callable[[Batch], Tensor],
    measure: Callable[[], float],
    data: Dataset,
    *,
    name: str,
    options: Options,
    share: float = 1.0,
    run: Run,
    show_progress_bar: bool = True,
) -> StageResult:
    """Train a model in place; at the end it has the weights that were best by ``measure``.

    Everything random but dropout, whose state is saved, is a function of the seed and the step: a
    stage that was resumed ends as one that was not, unless the budget is in minutes, or PyTorch
    adds in another order, with other threads or on a GPU, which also drops out as it likes.

    The loss is of a batch on the model's device, more of the metric is better, the share is that of
    the budget, and the run may hold where the stage was stopped, the one after those it finished.
    """
    stage = _Stage(model, options)
    with run.reading():
        stage.load(run.middle)
    saved = time.monotonic()
    began = saved - stage.seconds
    device = next(model.parameters()).device
    steps_per_epoch = len(epoch_batches(data, options, 0))
    every = options.evaluate_every or max(1, steps_per_epoch // 2)

    def look() -> None:
        model.eval()
        value = measure()
        model.train()
        run.log(name, stage.note(time.monotonic() - began, value))

    model.train()
    with tqdm(total=1.0, desc=name, disable=not show_progress_bar, bar_format=_BAR) as bar:
        for batch in _batches(data, options, stage.step, len(run.results)):
            seconds = time.monotonic() - began
            progress = options.progress(share, stage.step, seconds, steps_per_epoch)
            if progress >= 1:
                break
            stage.advance(loss(batch.to(device)), learning_rate(progress, options.learning_rate))
            if not math.isfinite(stage.losses[-1]):
                found = f"stage {name}, step {stage.step}: the loss became {stage.losses[-1]}"
                hint = f"(a learning rate below {options.learning_rate:g} may help)"
                raise InputError(f"{found}; expected a finite one {hint}")
            if stage.step % every == 0:
                look()
            bar.set_postfix(stage.figures(), refresh=False)
            bar.update(progress - bar.n)
            if time.monotonic() - saved > _SAVE_EVERY:
                run.keep(stage.saved(time.monotonic() - began))
                saved = time.monotonic()
    if not stage.points or stage.points[-1].step != stage.step:
        look()
    model.load_state_dict(stage.best_weights)
    model.eval()
    best, spent = stage.best, (stage.step / steps_per_epoch, stage.points[-1].seconds)
    return StageResult(name, stage.step, *spent, best.step, best.value, tuple(stage.points))


class _Stage:
    """A model on its way: all that is saved, and given back."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model, self.options = model, options
        self.optimizers = _optimizers(model, options)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []  # since the last measurement
        self.points: list[Point] = []
        self.best_weights = _copy(model)

    @property
    def best(self) -> Point:
        """The first of the best; one that is nan is worse than any other."""
        return max(self.points, key=lambda each: (not math.isnan(each.value), each.value))

    def advance(self, loss: Tensor, rate: float) -> None:
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.options.most_gradient is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.most_gradient)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["multiple"]
            optimizer.step()
        self.step += 1
        self.losses.append(loss.item())

    def note(self, seconds: float, value: float) -> Point:
        """A measurement; the weights are kept if it is the best so far."""
        mean = sum(self.losses) / len(self.losses) if self.losses else None
        self.losses = []
        self.points.append(Point(self.step, seconds, mean, value))
        if self.best is self.points[-1]:
            self.best_weights = _copy(self.model)
        return self.points[-1]

    def figures(self) -> dict[str, str]:
        recent = self.losses[-100:]
        shown = {"loss": f"{sum(recent) / len(recent):.3f}"} if recent else {}
        return shown | ({"dev": f"{self.points[-1].value:.4f}"} if self.points else {})

    def saved(self, seconds: float) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "optimizers": [each.state_dict() for each in self.optimizers],
            "step": self.step,
            "seconds": seconds,
            "points": to_plain(self.points),
            "losses": self.losses,
            "random": torch.get_rng_state(),
        }

    def load(self, saved: dict[str, Any] | None) -> None:
        """Go on where a stage was, if it was anywhere."""
        if saved is None:
            return
        self.model.load_state_dict(saved["best"])
        self.best_weights = _copy(self.model)
        self.model.load_state_dict(saved["model"])
        for optimizer, each in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(each)
        self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
        self.points = [from_plain(Point, each, "points") for each in saved["points"]]
        self.losses = [float(each) for each in saved["losses"]]
        torch.set_rng_state(saved["random"])


def _batches(data: Dataset, options: Options, step: int, stage: int) -> Iterator[Batch]:
    """The batches after those of the steps that are done, without end."""
    first, skip = divmod(step, len(epoch_batches(data, options, 0)))
    for epoch in itertools.count(first):
        for number, indices in enumerate(epoch_batches(data, options, epoch)[skip:], skip):
            batch = collate(data, indices)
            if options.token_noise:
                # Of the step alone, so that a run that is resumed draws the same; not 0 at the end,
                # which would be as if it were not there, and the order of an epoch drawn again.
                random = np.random.default_rng([options.seed, epoch, number, stage + 1])
                batch = with_noise(batch, data, options.token_noise, random)
            yield batch
        skip = 0


def _optimizers(model: nn.Module, options: Options) -> list[torch.optim.Optimizer]:
    """AdamW; and Adam for the rows that a batch touches, where a table's gradient is sparse."""
    tables = [each for each in model.modules() if isinstance(each, nn.Embedding) and each.sparse]
    sparse = [table.weight for table in tables]
    known = {id(each) for each in sparse}
    dense = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    matrices, vectors = [p for p in dense if p.ndim >= 2], [p for p in dense if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": _DECAY, "multiple": 1.0},
        {"params": vectors, "weight_decay": 0.0, "multiple": options.vector_rate},
    ]
    adam = torch.optim.AdamW(groups, fused=True)
    rows = [torch.optim.SparseAdam([{"params": sparse, "multiple": 1.0}])] if sparse else []
    return [adam, *rows]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
