"""The loop that every training goes through: batches, learning rate, measuring, going on later."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from bitinfer.errors import InputError, quote, shorten
from bitinfer.families.checkpoint import unpickle
from bitinfer.files import TEMPORARY, write_file
from bitinfer.train.data import Batch, Dataset, TokenNoise, collate, training_batches
from bitinfer.train.options import Budget
from bitinfer.train.report import Point, StageResult

__all__ = ["LoopOptions", "Run", "learning_rate", "train", "write_log"]

LOG = "log.jsonl"

_OWN = re.compile(rf"state\.pt|stage-\d+\.pt|{re.escape(LOG)}|{TEMPORARY.pattern}")
_FORMAT = 3  # of the states of a run: one of another format cannot be gone on with
_SAVE_EVERY = 300.0  # seconds of work that a kill may cost
_BETAS = (0.9, 0.999)
# Looks at dev for each time through the data, where nothing is said.
_LOOKS_PER_EPOCH = 2


@dataclass(frozen=True)
class LoopOptions:
    """How to train.

    Attributes:
        batch_size: examples of a step; the most of them if ``batch_tokens`` is a number.
        rate: the highest learning rate, of AdamW.
        warmup: part of the budget in which the rate rises to it; then it falls to 0, in a line.
        decay: weight decay of matrices.
        evaluate_every: steps from one measurement to the next; None is half an epoch.
        seed: of the order of the examples, and of what is replaced in them.
        token_noise: mean part of the tokens of a batch that is replaced at random.
        most_gradient: norm to which the gradient is cut, which must be dense then, or None.
        batch_tokens: most tokens of a step, padding included, or None; an example that is longer
            is a step of its own.
        vector_rate: the rate of parameters that are no matrices, as a multiple of that of others.
    """

    batch_size: int
    rate: float
    warmup: float
    decay: float
    evaluate_every: int | None
    seed: int
    token_noise: float = 0.0
    most_gradient: float | None = None
    batch_tokens: int | None = None
    vector_rate: float = 1.0

    def batches(self, data: Dataset, epoch: int) -> list[NDArray[np.int64]]:
        """The examples of each step of an epoch; every epoch has as many steps."""
        return training_batches(
            data.lengths,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            batch_tokens=self.batch_tokens,
        )


@dataclass
class _State:
    """Where a stage is."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best: float = -math.inf
    points: list[Point] = field(default_factory=list)


class Run:
    """A folder that holds what a training needs to go on after a kill, and its log.

    Args:
        folder: made if it does not exist; `check_folder` tells whether it may be used.
        settings: all that the result depends on, plain data.

    Raises:
        OSError: the folder cannot be made, read, or written to; of all methods.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.earlier = 0.0  # seconds of work that were found here, and need not be done again
        self._settings = json.dumps({"format": _FORMAT, **settings}, sort_keys=True)
        folder.mkdir(exist_ok=True)

    @staticmethod
    def check_folder(folder: Path, *, resume: bool) -> None:
        """Whether a run may begin in a folder, or go on with what it holds.

        Raises:
            InputError: a training is there that is not to be resumed, or something else alone.
        """
        found = list(folder.iterdir())
        if any(map(_is_own, found)):
            if not resume:
                raise InputError(
                    f"{folder}: found an unfinished training, expected none (resume it, or delete "
                    "it)"
                )
        elif found:
            name = quote(min(path.name for path in found))
            raise InputError(f"{folder}: found {name}, expected an unfinished training or nothing")

    @contextlib.contextmanager
    def unfinished(self, stage: int) -> Iterator[dict[str, Any] | None]:
        """What was saved in the middle of a stage, if anything.

        Raises:
            InputError: it is damaged, as errors in the block show too, or of other settings.
        """
        with self._reading("state.pt") as saved:
            yield saved if saved is not None and saved["stage"] == stage else None

    def keep(self, stage: int, state: dict[str, Any]) -> None:
        """Save the middle of a stage in place of what was saved before; a kill leaves one."""
        self._write("state.pt", {"stage": stage, **state})

    def finished(self, stage: int) -> tuple[dict[str, Tensor], StageResult] | None:
        """Weights and result of a stage, if it came to its end.

        Raises:
            InputError: it is damaged, or of other settings.
        """
        with self._reading(f"stage-{stage}.pt") as saved:
            if saved is None:
                return None
            points = tuple(Point(**point) for point in saved["result"].pop("points"))
            self.earlier += saved["result"]["seconds"]
            return saved["model"], StageResult(**saved["result"], points=points)

    def finish(self, stage: int, model: dict[str, Tensor], result: StageResult) -> None:
        """Save a stage that came to its end."""
        self._write(f"stage-{stage}.pt", {"model": model, "result": asdict(result)})

    def log(self, line: str) -> None:
        """Add a line to the log, for who looks on."""
        with open(self.folder / LOG, "a", encoding="utf-8") as file:
            file.write(line)

    def remove(self) -> None:
        """Delete what is no longer needed to go on; files of other names stay."""
        for path in self.folder.iterdir():
            if _is_own(path):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[dict[str, Any] | None]:
        """What is in a file, if there is one; errors in the block are those of a damaged one."""
        path = self.folder / name
        if not path.exists():
            yield None
            return
        try:
            _check_records(path)
            saved: Any = unpickle(path)
            self._check(path, saved.pop("settings"))
            yield saved
        except InputError:
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: damaged ({shorten(str(error))}), expected the state of a training"
            ) from error

    def _check(self, path: Path, settings: str) -> None:
        found, now = json.loads(settings), json.loads(self._settings)
        if found.get("format") != _FORMAT:
            raise InputError(
                f"{path}: found a training of another version of bitinfer, expected one of this "
                "(go on with that version, or delete it)"
            )
        names = sorted(name for name in {*found, *now} if found.get(name) != now.get(name))
        if not names:
            return
        other = [f"{name} {quote(found.get(name))}, now {quote(now.get(name))}" for name in names]
        raise InputError(
            f"{path}: found a training with other options or data ({'; '.join(other)}), "
            "expected the same"
        )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save({"settings": self._settings, **content}, buffer)
        write_file(self.folder / name, buffer.getbuffer(), overwrite=True)


def write_log(folder: Path, stages: Iterable[StageResult]) -> None:
    """Write all that was measured, a line of JSON for each point.

    Not a copy of what a run logged: a kill may leave half a line, and what was done after the last
    state was saved is done again.
    """
    lines = [_log_line(stage.bits, point) for stage in stages for point in stage.points]
    (folder / LOG).write_text("".join(lines), encoding="utf-8")


def learning_rate(progress: float, options: LoopOptions) -> float:
    """The rate at a progress of 0..1.

    >>> options = LoopOptions(32, 1e-3, 0.1, 0.0, 100, 0)
    >>> learning_rate(0.05, options), learning_rate(0.1, options), learning_rate(1.0, options)
    (0.0005, 0.001, 0.0)
    """
    if progress < options.warmup:
        return options.rate * progress / options.warmup
    return options.rate * (1 - progress) / (1 - options.warmup)


def train(
    model: nn.Module,
    loss: Callable[[Batch], Tensor],
    measure: Callable[[], float],
    data: Dataset,
    *,
    name: str,
    budget: Budget,
    options: LoopOptions,
    run: Run,
    stage: int = 0,
    show_progress_bar: bool = True,
) -> StageResult:
    """Train a model in place; at the end it has the weights that were best by ``measure``.

    Everything random but dropout, whose state is saved, is a function of the seed and the step: a
    stage that was resumed ends as one that was not, unless its budget is in minutes, or PyTorch
    adds in another order, with other threads or on a GPU, which also drops out as it likes.

    Args:
        loss: of a batch on the model's device, a scalar.
        measure: a metric of the model as it is, more is better.
        name: of the stage.
        run: keeps the state, and may hold one to go on from.
        stage: number of the stage in the run.

    Raises:
        InputError: the loss is not finite any more.
    """
    loop = _Loop(model, loss, measure, data, name, budget, options, run, stage)
    loop.resume()
    with _Bar(name, show_progress_bar) as bar:
        loop.run(bar)
    return loop.finish()


class _Loop:
    """A stage on its way."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Batch], Tensor],
        measure: Callable[[], float],
        data: Dataset,
        name: str,
        budget: Budget,
        options: LoopOptions,
        run: Run,
        stage: int,
    ) -> None:
        self.model, self.loss, self.measure, self.data = model, loss, measure, data
        self.name, self.budget, self.options = name, budget, options
        self.saves, self.stage = run, stage
        self.optimizers = _optimizers(model, options)
        self.steps_per_epoch = len(options.batches(data, epoch=0))
        default = max(1, self.steps_per_epoch // _LOOKS_PER_EPOCH)
        self.evaluate_every = options.evaluate_every or default
        self.state = _State()
        self.best = _copy(model)
        self.losses: list[float] = []  # since the last point
        self.began = self.saved_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on this stage, by all runs."""
        return time.monotonic() - self.began

    def resume(self) -> None:
        """Go on from what the run holds of this stage, if it does."""
        with self.saves.unfinished(self.stage) as saved:
            if saved is None:
                return
            self.model.load_state_dict(saved["best"])
            self.best = _copy(self.model)
            self.model.load_state_dict(saved["model"])
            for optimizer, each in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(each)
            points = [Point(**point) for point in saved["state"].pop("points")]
            self.state = _State(**saved["state"], points=points)
            self.losses = [float(each) for each in saved["losses"]]
            torch.set_rng_state(saved["random"])
        self.began = time.monotonic() - self.state.seconds
        self.saves.earlier += self.state.seconds

    def run(self, bar: _Bar) -> None:
        """Train until the budget is used up."""
        self.model.train()
        for batch in self._batches():
            progress = self.budget.progress(self.state.step, self.seconds, self.steps_per_epoch)
            if progress >= 1:
                break
            self._step(batch, learning_rate(progress, self.options))
            if self.state.step % self.evaluate_every == 0:
                self._note()
            bar.show(progress, self.losses, self.state.points)
            if time.monotonic() - self.saved_at > _SAVE_EVERY:
                self._save()
        if not self.state.points or self.state.points[-1].step != self.state.step:
            self._note()

    def finish(self) -> StageResult:
        """Give the model its best weights back."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        state = self.state
        return StageResult(
            bits=self.name,
            steps=state.step,
            epochs=state.step / self.steps_per_epoch,
            seconds=state.seconds,
            best_step=state.best_step,
            best=state.best,
            points=tuple(state.points),
        )

    def _batches(self) -> Iterator[Batch]:
        """The batches after those of the steps that are done, without end."""
        data, options = self.data, self.options
        noise = TokenNoise(data, options.token_noise) if options.token_noise else None
        epoch, skip = divmod(self.state.step, self.steps_per_epoch)
        while True:
            order = options.batches(data, epoch)
            for number, indices in enumerate(order[skip:], skip):
                batch = collate(data, indices)
                if noise is not None:
                    # Of the step alone, so that a run that is resumed draws the same; not 0 at the
                    # end, which would be as if it were not there, and the order of an epoch drawn
                    # again.
                    random = np.random.default_rng([options.seed, epoch, number, self.stage + 1])
                    batch = noise(batch, random)
                yield batch
            epoch, skip = epoch + 1, 0

    def _step(self, batch: Batch, rate: float) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["multiple"]
        loss = self.loss(batch.to(next(self.model.parameters()).device))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.options.most_gradient is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.most_gradient)
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.step += 1
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise InputError(
                f"stage {self.name}, step {self.state.step}: the loss became {self.losses[-1]}; "
                f"expected a finite one (a learning rate below {self.options.rate:g} may help)"
            )

    def _note(self) -> None:
        """Measure the model, and keep it if it is the best so far."""
        self.model.eval()
        value = self.measure()
        self.model.train()
        state = self.state
        state.seconds = self.seconds
        mean = sum(self.losses) / len(self.losses) if self.losses else None
        self.losses = []
        state.points.append(Point(state.step, state.seconds, mean, value))
        if len(state.points) == 1 or _is_better(value, state.best):
            state.best, state.best_step, self.best = value, state.step, _copy(self.model)
        self.saves.log(_log_line(self.name, state.points[-1]))

    def _save(self) -> None:
        self.state.seconds = self.seconds
        content = {
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizers": [each.state_dict() for each in self.optimizers],
            "state": asdict(self.state),
            "losses": self.losses,
            "random": torch.get_rng_state(),
        }
        self.saves.keep(self.stage, content)
        self.saved_at = time.monotonic()


class _Bar:
    """Progress of a stage in percent of its budget, with the loss and the dev metric."""

    def __init__(self, name: str, show: bool) -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm(total=1.0, desc=name, disable=not show, bar_format=form)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, progress: float, losses: list[float], points: list[Point]) -> None:
        """Move on."""
        figures = {}
        if losses:
            recent = losses[-100:]
            figures["loss"] = f"{sum(recent) / len(recent):.3f}"
        if points:
            figures["dev"] = f"{points[-1].value:.4f}"
        self._bar.set_postfix(figures, refresh=False)
        self._bar.update(progress - self._bar.n)


def _optimizers(model: nn.Module, options: LoopOptions) -> list[torch.optim.Optimizer]:
    """AdamW; and Adam for the rows that a batch touches, where a table's gradient is sparse."""
    tables = [each for each in model.modules() if isinstance(each, nn.Embedding) and each.sparse]
    sparse = [table.weight for table in tables]
    known = {id(each) for each in sparse}
    dense = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    matrices = [parameter for parameter in dense if parameter.ndim >= 2]
    vectors = [parameter for parameter in dense if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.decay, "multiple": 1.0},
        {"params": vectors, "weight_decay": 0.0, "multiple": options.vector_rate},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=options.rate, betas=_BETAS, fused=True)
    ]
    if sparse:
        rows = [{"params": sparse, "multiple": 1.0}]
        optimizers.append(torch.optim.SparseAdam(rows, lr=options.rate, betas=_BETAS))
    return optimizers


def _is_own(path: Path) -> bool:
    """Whether a `Run` makes files of that name."""
    return _OWN.fullmatch(path.name) is not None and not path.is_dir()


def _check_records(path: Path) -> None:
    """Whether all is as it was written: PyTorch itself does not look at the checksums.

    Raises:
        ValueError: it is not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(error) from None
    if wrong is not None:
        raise ValueError(f"wrong checksum of {wrong}")


def _log_line(stage: str, point: Point) -> str:
    values = {"stage": stage, **asdict(point)}
    # JSON has no nan.
    values["value"] = point.value if math.isfinite(point.value) else None
    return f"{json.dumps(values)}\n"


def _is_better(value: float, best: float) -> bool:
    """Whether a metric is; one that is not defined is nan, and worse than any other."""
    return value > best or (math.isnan(best) and not math.isnan(value))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
