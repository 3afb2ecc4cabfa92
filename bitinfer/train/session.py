"""What fine-tuning and distillation have in common: what is read, where it is computed, the end."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitinfer.data.tables import LabelledTexts
from bitinfer.diagnostics import cpu_name, package_version
from bitinfer.errors import ConversionError, InputError, quote
from bitinfer.families.bert import real_names
from bitinfer.files import locked_folder, new_folder
from bitinfer.heads.classify import class_indices
from bitinfer.kinds import check_int, shows_progress
from bitinfer.runtime.text import MIN_LENGTH
from bitinfer.train.data import (
    Batch,
    Dataset,
    Table,
    Task,
    collate,
    evaluation_batches,
    padding_share,
    task_of,
    tokenize,
)
from bitinfer.train.loop import LoopOptions, train
from bitinfer.train.options import Budget, DistillOptions, Options, check_installed, names_of
from bitinfer.train.pages import write_pages
from bitinfer.train.report import Architecture, DataFile, StageResult, TrainingReport
from bitinfer.train.run import Run, check_folder, write_log
from bitinfer.train.teacher import Folder

_MAX_LENGTH = 128
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Session:
    """Everything that a training reads, and where it computes.

    Attributes:
        options: of the call.
        folder: the model that it begins with.
        task, train, dev: what is learned, from what (texts without labels too), measured on what.
        tables: the rows of all, for the report.
        max_length: tokens a text is cut to.
        device: a GPU if torch sees one.
        dtype: of the factors of matrix products.
        run: keeps what is needed to go on.
        started, began: when, in the local time zone and on the clock that only goes forward.
    """

    options: Options
    folder: Folder
    task: Task
    train: Dataset
    dev: Dataset
    tables: dict[str, Table]
    max_length: int
    device: torch.device
    dtype: torch.dtype
    run: Run
    started: datetime
    began: float

    @property
    def show_progress_bar(self) -> bool:
        """Whether to show how far it is."""
        return shows_progress(self.options.show_progress_bar)

    @property
    def loop(self) -> LoopOptions:
        """How to train."""
        return LoopOptions.of(self.options, self.train)

    def stage(
        self,
        model: torch.nn.Module,
        name: str,
        budget: Budget,
        loss: Callable[[Batch], Tensor],
        logits: Callable[[Batch], Tensor],
    ) -> StageResult:
        """Train a model in place, as `train` does, measured on dev by its logits."""
        return train(
            model,
            loss,
            lambda: self.measure(logits),
            self.train,
            name=name,
            budget=budget,
            options=self.loop,
            run=self.run,
            show_progress_bar=self.show_progress_bar,
        )

    def measure(self, logits: Callable[[Batch], Tensor]) -> float:
        """The metric of a model on dev."""
        return measure(logits, self.dev, self.device)

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
        sizes, threads = self.folder.config._asdict(), torch.get_num_threads()
        names = ("layers", "hidden", "heads", "intermediate", "vocab", "positions")
        gpu = f", {torch.cuda.get_device_name()}" if self.device.type == "cuda" else ""
        padding = padding_share(self.train.lengths, self.loop.batches(self.train, epoch=0))
        found_out = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "folder_sha256": self.folder.sha256,
            "padding": f"{padding:.1%}",
        }
        packages = ("bitinfer", "torch", "transformers")
        versions = {name: package_version(name) or "not installed" for name in packages}
        report = TrainingReport(
            command=self.options.command,
            metric=self.task.metric.name,  # type: ignore[arg-type]  # there are two
            labels=self.task.labels,
            pairs="pairs" in self.tables["dev"].kinds,
            architecture=Architecture(
                **{name: sizes[name] for name in names}, max_length=self.max_length
            ),
            stages=tuple(stages),
            float_bytes=weights.stat().st_size,
            options={**self.options.plain(), **found_out},
            versions={**versions, "python": platform.python_version()},
            machine=f"{cpu_name()}, {threads} thread{'s' * (threads != 1)}{gpu}",
            started=self.started.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began + self.run.earlier,
            data={
                name: DataFile(table.name, len(table.rows.texts), table.sha256)
                for name, table in self.tables.items()
            },
            **found,
        )
        name = Path(self.options.output).name
        write_pages(folder, report, name=name, licence=self.options.licence)
        write_log(folder, report.stages)
        return report


@contextlib.contextmanager
def reserved(options: Options) -> Iterator[Path]:
    """Keep other runs from making the same output.

    Gives the folder for what is needed to go on.

    Raises:
        InputError: the output cannot be made there, or another run is making it, or one that is not
            to be resumed has begun to, or the folder for what is needed to go on holds something
            else.
        FileExistsError: it is there already.
        UnsupportedError: a plot is wanted, and matplotlib is not installed.
    """
    if options.plot:
        check_installed("matplotlib")
    output = Path(options.output)
    _check_output(output)
    partial = output.with_name(f"{output.name}.partial")
    with locked_folder(partial):
        _check_output(output)  # who had the lock before may have made it
        check_folder(partial, resume=options.resume)
        yield partial


@contextlib.contextmanager
def session(
    folder: Folder, options: Options, tables: dict[str, Table], partial: Path
) -> Iterator[Session]:
    """Tokenize the tables, decide where to compute, and find what was done before.

    Args:
        folder: the model to begin with, whose classifier decides what the classes of a distillation
            are.
        options: of the call.
        tables: as `read_tables` has them.
        partial: for what is needed to go on, as `reserved` has it.

    Raises:
        InputError: a table or option is not as expected, or what is needed to go on is damaged or
            of another run; names it.
    """
    most = folder.config.positions
    longest = check_int(
        "max_length", options.max_length or min(_MAX_LENGTH, most), MIN_LENGTH, most
    )
    train, dev, rows = tables["train"], tables["dev"], tables["train"].rows
    task = _task(train, options, folder if isinstance(options, DistillOptions) else None)
    if "unlabelled" in tables:
        rows = LabelledTexts(rows.texts + tables["unlabelled"].rows.texts, rows.labels)
    tokenizer = folder.tokenizer()
    ready = Session(
        options=options,
        folder=folder,
        task=task,
        train=tokenize(rows, task, tokenizer, longest, name=train.source),
        dev=tokenize(dev.rows, task, tokenizer, longest, name=dev.source),
        tables=tables,
        max_length=longest,
        device=_device(),
        dtype=_products_type(options),
        run=Run(partial, settings_of(options, tables, folder)),
        started=datetime.now(timezone.utc).astimezone(),
        began=time.monotonic(),
    )
    threads = torch.get_num_threads()
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
    settings |= {name: table.sha256 for name, table in tables.items()}
    # The default of the type of products depends on the machine.
    bf16 = _products_type(options) == torch.bfloat16
    return {**settings, "bf16": bf16, "model": folder.sha256}


@torch.no_grad()
def measure(logits: Callable[[Batch], Tensor], data: Dataset, device: torch.device) -> float:
    """Accuracy in 0..1, or the correlation of a regression with its targets, nan for constants.

    Args:
        logits: of a batch on the device, [B, outputs].
    """
    outputs = torch.empty(len(data), data.task.outputs)
    for indices in evaluation_batches(data.lengths, _EVALUATION_BATCH):
        outputs[torch.from_numpy(indices)] = logits(collate(data, indices).to(device)).float().cpu()
    answers = data.task.head.answers(outputs).tolist()
    return data.task.metric.score(answers, data.targets.tolist())


def _check_output(output: Path) -> None:
    if not output.name or not output.parent.is_dir():
        raise InputError(f"output: found {str(output)!r}, expected a new folder in one that exists")
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists; expected a new folder")


def _task(train: Table, options: Options, teacher: Folder | None) -> Task:
    """What is to be learned: what the teacher, if there is one, was taught."""
    labels = options.labels
    outputs = teacher.config.labels if teacher is not None else None
    if teacher is not None and outputs != 1 and labels is None and not options.regression:
        labels = _class_names(teacher)
        if labels is not None:
            try:
                class_indices(train.rows.labels, labels, source=train.source)
            except InputError as error:
                raise InputError(
                    f"{error}, as {teacher.path} has it (labels: other names, in the same order)"
                ) from None
    task = task_of(train.rows, labels=labels, regression=options.regression)
    if teacher is not None and task.outputs != outputs:
        found = "a number" if options.regression else f"labels {quote(list(task.labels))}"
        raise InputError(
            f"{train.source}: found {found} to predict, expected {outputs}, as many as the "
            f"classifier of {teacher.path} has outputs (labels: the names of all, in order)"
        )
    return task


def _class_names(folder: Folder) -> tuple[str, ...] | None:
    """The names of the classes, if the folder has any but numbers."""
    try:
        names = real_names(folder.settings.get("id2label"))
        if names is not None and len({*names}) != len(names):
            raise ConversionError(f"config id2label: found a name twice in {quote(list(names))}")
    except ConversionError as error:
        raise ConversionError(f"{folder.path}: {error}") from None
    return names


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _products_type(options: Options) -> torch.dtype:
    """Of the factors of products: as an option says, or what is fast here."""
    chosen = _has_bf16(_device()) if options.bf16 is None else options.bf16
    return torch.bfloat16 if chosen else torch.float32


def _has_bf16(device: torch.device) -> bool:
    """Whether products of bfloat16 are fast: elsewhere they are emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
