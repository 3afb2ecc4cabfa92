"""What fine-tuning and distillation have in common: what is read, where it is computed, the end."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitinfer.checks import check_int, shows_progress
from bitinfer.config import MIN_LENGTH
from bitinfer.data.tables import LabelledTexts
from bitinfer.diagnostics import cpu_name, package_version
from bitinfer.errors import InputError, quote
from bitinfer.files import locked_folder, new_folder
from bitinfer.heads import find_head
from bitinfer.train.data import (
    Batch,
    Dataset,
    Table,
    class_names,
    collate,
    evaluation_batches,
    padding_share,
    tokenize,
)
from bitinfer.train.loop import epoch_batches, train
from bitinfer.train.options import DistillOptions, Options, check_installed, names_of
from bitinfer.train.pages import write_pages
from bitinfer.train.report import StageResult, TrainingReport
from bitinfer.train.run import Run, check_folder, write_log
from bitinfer.train.teacher import Folder

_MAX_LENGTH = 128
_EVALUATION_BATCH = 64


class Session:
    """Everything that a training reads, and where it computes.

    The model to begin with is in a folder; its classifier decides what the classes of a
    distillation are.  ``run`` keeps in a place, as `reserved` has it, what is needed to go on.
    """

    def __init__(
        self, folder: Folder, options: Options, tables: dict[str, Table], place: Path
    ) -> None:
        self.folder, self.options, self.tables = folder, options, tables
        self.started, self.began = datetime.now(timezone.utc).astimezone(), time.monotonic()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = _products_type(options)
        self.show_progress_bar = shows_progress(options.show_progress_bar)
        most = folder.config.positions
        length = options.max_length or min(_MAX_LENGTH, most)
        self.max_length = check_int("max_length", length, MIN_LENGTH, most)
        self.labels = _labels(tables["train"], options, folder)
        self.outputs = len(self.labels) or 1
        self.head = find_head("classification", self.outputs)
        rows = tables["train"].rows
        if "unlabelled" in tables:
            rows = LabelledTexts(rows.texts + tables["unlabelled"].rows.texts, rows.labels)
        how: Any = (self.head, self.labels, folder.tokenizer(), self.max_length)
        self.train = tokenize(rows, *how, name=tables["train"].source)
        self.dev = tokenize(tables["dev"].rows, *how, name=tables["dev"].source)
        self.run = Run(place, settings_of(options, tables, folder))

    def stage(
        self,
        model: nn.Module,
        loss: Callable[[Batch], Tensor],
        logits: Callable[[Batch], Tensor],
        *,
        name: str,
        share: float = 1.0,
    ) -> StageResult:
        """`bitinfer.train.loop.train` with all that the session knows."""
        how: dict[str, Any] = {"name": name, "share": share, "options": self.options}
        how |= {"run": self.run, "show_progress_bar": self.show_progress_bar}
        look = partial(measure, logits, self.dev, self.device)
        return train(model, loss, look, self.train, **how)

    @contextlib.contextmanager
    def output(self) -> Iterator[Path]:
        """A folder to fill, which takes the place of the output; what was kept goes then."""
        with new_folder(Path(self.options.output)) as folder:
            yield folder
        self.run.remove()

    def write_report(
        self, folder: Path, weights: Path, stages: list[StageResult], **found: Any
    ) -> TrainingReport:
        """Write what is to be said of the run, whose weights are in a file."""
        threads, config = torch.get_num_threads(), self.folder.config
        names = ("layers", "hidden", "heads", "intermediate", "vocab", "positions")
        sizes = {name: getattr(config, name) for name in names}
        gpu = f", {torch.cuda.get_device_name()}" if self.device.type == "cuda" else ""
        padding = padding_share(self.train.lengths, epoch_batches(self.train, self.options, 0))
        found_out = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "folder_sha256": self.folder.sha256,
            "padding": f"{padding:.1%}",
        }
        packages = ("bitinfer", "torch", "transformers")
        versions = {name: package_version(name) or "not installed" for name in packages}
        report = TrainingReport(
            command=self.options.command,
            metric=self.train.metric.name,  # type: ignore[arg-type]  # there are two
            labels=self.labels,
            pairs="pairs" in self.tables["dev"].kinds,
            architecture=sizes | {"max_length": self.max_length},
            stages=tuple(stages),
            float_bytes=weights.stat().st_size,
            options={**self.options.plain(), **found_out},
            versions={**versions, "python": platform.python_version()},
            machine=f"{cpu_name()}, {threads} thread{'s' * (threads != 1)}{gpu}",
            started=self.started.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began + self.run.earlier,
            data={name: table.file for name, table in self.tables.items()},
            **found,
        )
        name = Path(self.options.output).name
        write_pages(folder, report, name=name, licence=self.options.licence)
        write_log(folder, report.stages)
        return report


@contextlib.contextmanager
def reserved(options: Options) -> Iterator[Path]:
    """The folder for what is needed to go on, while no other run can make the same output.

    An InputError says that another run is making it, or one that is not to be resumed has begun to.
    """
    if options.plot:
        check_installed("matplotlib")
    output = Path(options.output)
    _check_output(output)
    place = output.with_name(f"{output.name}.partial")
    with locked_folder(place):
        _check_output(output)  # who had the lock before may have made it
        check_folder(place, resume=options.resume)
        yield place


@contextlib.contextmanager
def session(
    folder: Folder, options: Options, tables: dict[str, Table], place: Path
) -> Iterator[Session]:
    """A `Session`, in which PyTorch has the threads and the seed of the options."""
    ready, threads = Session(folder, options, tables, place), torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            yield ready
    finally:
        torch.set_num_threads(threads)


def settings_of(options: Options, tables: dict[str, Table], folder: Folder) -> dict[str, Any]:
    """All that the weights depend on.

    But for the number of threads, which decides in which order sums are added up: with another one
    a run may go on on what is left of a busy machine.
    """
    free = {*names_of(options.command, "files", "run"), "threads"}
    settings = {key: value for key, value in options.plain().items() if key not in free}
    settings |= {name: table.file.sha256 for name, table in tables.items()}
    # The default of the type of products depends on the machine.
    bf16 = _products_type(options) == torch.bfloat16
    return {**settings, "bf16": bf16, "model": folder.sha256}


@torch.no_grad()
def measure(logits: Callable[[Batch], Tensor], data: Dataset, device: torch.device) -> float:
    """The metric of logits [B, outputs] of each batch on the device; nan where it is undefined."""
    answers = torch.empty_like(data.targets)
    for indices in evaluation_batches(data.lengths, _EVALUATION_BATCH):
        values = data.head.answers(logits(collate(data, indices).to(device)).float())
        answers[torch.from_numpy(indices)] = values.cpu()
    return data.metric.score(answers.tolist(), data.targets.tolist())


def _check_output(output: Path) -> None:
    if not output.name or not output.parent.is_dir():
        raise InputError(f"output: found {str(output)!r}, expected a new folder in one that exists")
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists; expected a new folder")


def _labels(train: Table, options: Options, model: Folder) -> tuple[str, ...]:
    """The classes to learn, none for a number; of a distillation, what the teacher was taught."""
    names, outputs = options.labels, model.config.labels
    if names is None and not options.regression:
        of_teacher = model.names if isinstance(options, DistillOptions) and outputs > 1 else None
        names = of_teacher or class_names(train.rows.labels)
    labels = tuple(names or ())
    if isinstance(options, DistillOptions) and (len(labels) or 1) != outputs:
        found = f"labels {quote(list(labels))}" if labels else "a number"
        raise InputError(
            f"{train.source}: found {found} to predict, expected {outputs}, as many as the "
            f"classifier of {model.path} has outputs (labels: the names of all, in order)"
        )
    return labels


def _products_type(options: Options) -> torch.dtype:
    """Of the factors of products: as an option says, or what is fast here."""
    chosen = _has_bf16() if options.bf16 is None else options.bf16
    return torch.bfloat16 if chosen else torch.float32


def _has_bf16() -> bool:
    """Whether products of bfloat16 are fast: elsewhere they are emulated."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
