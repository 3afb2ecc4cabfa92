"""What fine-tuning and distillation have in common: what is read, where it is computed, the end."""

from __future__ import annotations

import contextlib
import numbers
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bitinfer.checks import check_bool, check_int, check_unicode, shows_progress
from bitinfer.data.tables import LabelledTexts, read_rows
from bitinfer.diagnostics import cpu_name, package_version
from bitinfer.errors import ConversionError, InputError, InputTypeError, quote
from bitinfer.families.glue import real_names
from bitinfer.files import file_sha256, locked_folder
from bitinfer.heads.classify import class_indices
from bitinfer.runtime.text import MIN_LENGTH, TextPair
from bitinfer.train.data import (
    Batch,
    Dataset,
    Task,
    collate,
    evaluation_batches,
    find_task,
    join,
    padding_share,
    tokenize,
    tokenize_texts,
)
from bitinfer.train.loop import LoopOptions, Run
from bitinfer.train.options import RUN, check_number
from bitinfer.train.report import Architecture, DataFile, TrainingReport, check_plotting
from bitinfer.train.teacher import Folder, open_folder

__all__ = [
    "Session",
    "evaluate",
    "plain",
    "products_type",
    "read_tables",
    "reserved",
    "session",
    "type_name",
]

_MAX_LENGTH = 128
_EVALUATION_BATCH = 64
_WARMUP, _DECAY = 0.1, 0.01
_MOST_SEED = 2**63 - 1
# Arguments that may be others when a run goes on: the number of threads too, which decides in which
# order sums are added up, so that one may go on with what is left of a busy machine.
_FREE = ("output", "threads", *RUN)
# Arguments in whose place is the content of what they name.
_NAMES = ("encoder", "teacher")
_MOST_THREADS = 1024  # far more could not be started, which ends the process


@dataclass(frozen=True)
class Session:
    """Everything that a training reads, and where it computes.

    Attributes:
        options: the arguments of the call, plain data.
        folder, folder_sha256: the model that it begins with.
        task, train, dev: what is learned, from what (texts without labels too), measured on what.
        texts: the rows of dev.
        files: the tables, for the report.
        max_length: tokens a text is cut to.
        device: a GPU if torch sees one.
        dtype: of the factors of matrix products.
        run: keeps what is needed to go on.
        started: when, in the local time zone.
        began: the same on the clock that only goes forward.
    """

    options: Mapping[str, Any]
    folder: Folder
    folder_sha256: str
    task: Task
    train: Dataset
    dev: Dataset
    texts: LabelledTexts
    files: dict[str, DataFile]
    max_length: int
    device: torch.device
    dtype: torch.dtype
    run: Run
    started: datetime
    began: float

    @property
    def output(self) -> Path:
        """The folder to make."""
        return Path(self.options["output"])

    @property
    def show_progress_bar(self) -> bool:
        """Whether to show how far it is."""
        return shows_progress(self.options["show_progress_bar"])

    def loop(self, **kinds: Any) -> LoopOptions:
        """How to train, by the options."""
        options = self.options
        return LoopOptions(
            # None where tokens alone limit a step.
            batch_size=options["batch_size"] or len(self.train),
            batch_tokens=options.get("batch_tokens"),
            rate=options["learning_rate"],
            warmup=_WARMUP,
            decay=_DECAY,
            evaluate_every=options["evaluate_every"],
            seed=options["seed"],
            **kinds,
        )

    def report(
        self,
        command: Literal["distill", "finetune"],
        weights: Path,
        loop: LoopOptions,
        **found: Any,
    ) -> TrainingReport:
        """The report of the run, whose weights are in a file."""
        config = self.folder.config
        threads = torch.get_num_threads()
        gpu = f", {torch.cuda.get_device_name()}" if self.device.type == "cuda" else ""
        return TrainingReport(
            command=command,
            metric=self.task.metric,
            labels=self.task.labels,
            pairs=any(second is not None for _, second in self.texts.texts),
            architecture=Architecture(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                heads=config["num_attention_heads"],
                intermediate=config["intermediate_size"],
                vocab=config["vocab_size"],
                positions=config["max_position_embeddings"],
                max_length=self.max_length,
            ),
            float_bytes=weights.stat().st_size,
            options={**self.options, **self._found_out(loop)},
            versions=_versions(),
            machine=f"{cpu_name()}, {threads} thread{'s' * (threads != 1)}{gpu}",
            started=self.started.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began + self.run.earlier,
            data=self.files,
            **found,
        )

    def _found_out(self, loop: LoopOptions) -> dict[str, Any]:
        """What no option says."""
        batches = loop.batches(self.train, epoch=0)
        return {
            "dtype": type_name(self.dtype),
            "folder_sha256": self.folder_sha256,
            "padding": f"{padding_share(self.train.lengths, batches):.1%}",
        }


@contextlib.contextmanager
def session(
    model: str | os.PathLike[str], options: Mapping[str, Any], partial: Path, *, head: bool
) -> Iterator[Session]:
    """Read the model and the tables, decide where to compute.

    Args:
        model: folder to begin with.
        options: the arguments of the call.
        partial: for what is needed to go on, as `reserved` has it.
        head: whether the classifier in the folder is used, and decides what the classes are.

    Raises:
        InputError: a table or option is not as expected, names it.
        ConversionError: the folder does not hold a BERT.
        OSError: a table cannot be read.
    """
    ready = _prepare(model, options, partial, head=head)
    with _threads(options["threads"]), torch.random.fork_rng():
        torch.manual_seed(options["seed"])
        yield ready


@contextlib.contextmanager
def reserved(options: Mapping[str, Any]) -> Iterator[Path]:
    """Check the options, and keep other runs from making the same output.

    Gives the folder for what is needed to go on.

    Raises:
        InputError, InputTypeError: an option is not as expected, names it; or the output cannot be
            made there, or another run is making it, or one that is not to be resumed has begun to,
            or the folder for what is needed to go on holds something else.
        FileExistsError: it is there already.
        UnsupportedError: a package is missing.
    """
    check_plotting()
    check_options(options)
    output = Path(options["output"])
    _check_output(output)
    partial = output.with_name(f"{output.name}.partial")
    with locked_folder(partial):
        _check_output(output)  # who had the lock before may have made it
        Run.check_folder(partial, resume=options["resume"])
        yield partial


def _prepare(
    path: str | os.PathLike[str], options: Mapping[str, Any], partial: Path, *, head: bool
) -> Session:
    folder = open_folder(path)
    longest = _longest(options["max_length"], folder)
    texts, more = read_tables(options)
    task = _find_task(texts["train"], options, folder if head else None)
    tokenizer = folder.tokenizer()
    data = {
        name: tokenize(each, task, tokenizer, longest, name=os.fspath(options[name]))
        for name, each in texts.items()
    }
    train = data["train"]
    if more:
        source = os.fspath(options["unlabelled"])
        data["unlabelled"] = tokenize_texts(more, task, tokenizer, longest, name=source)
        train = join(train, data["unlabelled"])
    files = {
        name: DataFile(Path(options[name]).name, len(data[name]), file_sha256(Path(options[name])))
        for name in data
    }
    device = _device()
    dtype = products_type(options["bf16"])
    settings = {key: value for key, value in options.items() if key not in (*_FREE, *_NAMES)}
    settings |= {name: each.sha256 for name, each in files.items()}
    settings["bf16"] = dtype == torch.bfloat16  # the default depends on the machine
    settings["model"] = folder.sha256()
    return Session(
        options=options,
        folder=folder,
        folder_sha256=settings["model"],
        task=task,
        train=train,
        dev=data["dev"],
        texts=texts["dev"],
        files=files,
        max_length=longest,
        device=device,
        dtype=dtype,
        run=Run(partial, settings),
        started=datetime.now(timezone.utc).astimezone(),
        began=time.monotonic(),
    )


@torch.no_grad()
def evaluate(logits: Callable[[Batch], Tensor], data: Dataset, device: torch.device) -> float:
    """Accuracy in 0..1, or the correlation of a regression with its targets, nan for constants.

    Args:
        logits: of a batch on the device, [B, outputs].
    """
    outputs = torch.empty(len(data), data.task.outputs)
    for indices in evaluation_batches(data.lengths, _EVALUATION_BATCH):
        outputs[torch.from_numpy(indices)] = logits(collate(data, indices).to(device)).float().cpu()
    if data.task.kind == "classification":
        return float((outputs.argmax(1) == data.targets).double().mean())
    return float(torch.corrcoef(torch.stack([outputs[:, 0], data.targets]).double())[0, 1])


def plain(value: Any) -> Any:
    """An argument as it is reported: a path as text, a sequence as a list, numbers as Python's."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    other = isinstance(value, numbers.Real) and not isinstance(value, (int, float))
    if other:
        with contextlib.suppress(OverflowError):  # who checks the option says what is wrong
            return float(value)
    return value


def check_options(options: Mapping[str, Any]) -> None:
    """Check what needs no file.

    Raises:
        InputError, InputTypeError: an option has a value or a type that is not allowed; names it.
    """
    check_int("seed", options["seed"], 0, _MOST_SEED)
    if options["max_length"] is not None:
        check_int("max_length", options["max_length"], MIN_LENGTH)
    tokens = options.get("batch_tokens")  # fine-tuning has none
    if tokens is None or options["batch_size"] is not None:
        check_int("batch_size", options["batch_size"], 1)
    if tokens is not None:
        check_int("batch_tokens", tokens, 1)
    for name, most in (("evaluate_every", None), ("threads", _MOST_THREADS)):
        if options[name] is not None:
            check_int(name, options[name], 1, most)
    check_number("learning_rate", options["learning_rate"], above=0)
    for name in ("regression", "resume"):
        check_bool(name, options[name])
    for name in ("bf16", "show_progress_bar"):
        if options[name] is not None:
            check_bool(name, options[name])
    for name in ("text", "pair", "label", "licence"):
        if not isinstance(options[name], (str, NoneType)):
            raise InputTypeError(f"{name}: found {type(options[name]).__name__}, expected str")
        check_unicode(name, options[name] or "")  # the report has them all
    labels = options["labels"]
    if not isinstance(labels, (list, NoneType)):
        found = type(labels).__name__
        raise InputTypeError(f"labels: found {found}, expected a sequence of names")
    for name in ("teacher", "encoder", "train", "dev", "unlabelled", "output"):
        if name in options and (name != "unlabelled" or options[name] is not None):
            _check_path(name, options[name])


def read_tables(options: Mapping[str, Any]) -> tuple[dict[str, LabelledTexts], list[TextPair]]:
    """The tables ``train`` and ``dev``, and texts without labels if the options name any.

    Raises:
        InputError: one is no such table, or all its texts are pairs and none of ``train`` is, or
            the other way round; names it.
        OSError: one cannot be read.
    """
    columns = {key: options[key] for key in ("text", "pair", "label")}
    tables = {name: read_rows(options[name], **columns) for name in ("train", "dev")}
    more = []
    if options.get("unlabelled") is not None:  # fine-tuning has none
        more = read_rows(options["unlabelled"], **columns, labelled=False).texts
        _check_pairs("unlabelled", more, tables["train"], options)
    _check_pairs("dev", tables["dev"].texts, tables["train"], options)
    return tables, more


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected a path")
    if "\0" in value:
        raise InputError(f"{name}: found {value!r}, expected a path")
    check_unicode(name, value)  # the name of a file may be bytes that are no text


def _check_output(output: Path) -> None:
    """Whether a folder of that name can be made."""
    if not output.name or not output.parent.is_dir():
        raise InputError(f"output: found {str(output)!r}, expected a new folder in one that exists")
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists; expected a new folder")


def _longest(max_length: int | None, folder: Folder) -> int:
    if max_length is None:
        return min(_MAX_LENGTH, folder.positions)
    return check_int("max_length", max_length, MIN_LENGTH, folder.positions)


def _find_task(train: LabelledTexts, options: Mapping[str, Any], teacher: Folder | None) -> Task:
    """What is to be learned: what the teacher, if there is one, was taught."""
    labels, regression = options["labels"], options["regression"]
    if teacher is None:
        return find_task(train, labels=labels, regression=regression)
    outputs = _outputs(teacher)
    if labels is None and not regression and outputs > 1:
        labels = _class_names(teacher)
        if labels is not None:
            _check_named(train, options["train"], labels, teacher)
    task = find_task(train, labels=labels, regression=regression)
    if task.outputs != outputs:
        found = "a number" if regression else f"labels {quote(list(task.labels))}"
        raise InputError(
            f"{options['train']}: found {found} to predict, expected {outputs}, as many as the "
            f"classifier of {teacher.path} has outputs (labels: the names of all, in order)"
        )
    return task


def _check_named(train: LabelledTexts, source: str, names: Sequence[str], teacher: Folder) -> None:
    """Whether the labels of a table are those of the teacher."""
    try:
        class_indices(train.labels, names, source=source)
    except InputError as error:
        raise InputError(
            f"{error}, as {teacher.path} has it (labels: other names, in the same order)"
        ) from None


def _class_names(folder: Folder) -> tuple[str, ...] | None:
    """The names of the classes, if the folder has any but numbers."""
    try:
        names = real_names(folder.config.get("id2label"))
        if names is not None and len({*names}) != len(names):
            raise ConversionError(f"config id2label: found a name twice in {quote(list(names))}")
    except ConversionError as error:
        raise ConversionError(f"{folder.path}: {error}") from None
    return names


def _outputs(folder: Folder) -> int:
    """Rows of the classifier, as transformers has it from the configuration."""
    names = folder.config.get("id2label")
    return len(names) if isinstance(names, dict) else folder.config.get("num_labels", 2)


def _check_pairs(
    name: str, texts: Sequence[TextPair], train: LabelledTexts, options: Mapping[str, Any]
) -> None:
    """Whether some of the texts are pairs if those of the training table are; it may have both."""
    found, expected = (
        {"single texts" if second is None else "pairs" for _, second in each}
        for each in (texts, train.texts)
    )
    if not found & expected:
        source, other = options[name], options["train"]
        raise InputError(f"{source}: found {min(found)}, expected {min(expected)} as in {other}")


def _versions() -> dict[str, str]:
    names = ("bitinfer", "torch", "transformers")
    versions = {name: package_version(name) or "not installed" for name in names}
    return {**versions, "python": platform.python_version()}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def products_type(bf16: bool | None) -> torch.dtype:
    """Of the factors of products: as an option says, or what is fast here."""
    chosen = _has_bf16(_device()) if bf16 is None else bf16
    return torch.bfloat16 if chosen else torch.float32


def type_name(dtype: torch.dtype) -> str:
    """As a report has it.

    >>> type_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def _has_bf16(device: torch.device) -> bool:
    """Whether products of bfloat16 are fast: elsewhere they are emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
