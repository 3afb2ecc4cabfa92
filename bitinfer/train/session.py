"""What fine-tuning and distillation have in common: what is read, where it is computed, the end."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bitinfer.diagnostics import cpu_name, package_version
from bitinfer.errors import InputError
from bitinfer.options import check_int
from bitinfer.tables import LabelledTexts, read_table
from bitinfer.text import MIN_LENGTH
from bitinfer.train.data import (
    Batch,
    Dataset,
    Task,
    collate,
    evaluation_batches,
    find_task,
    tokenize,
)
from bitinfer.train.loop import LoopOptions, Run
from bitinfer.train.options import check_number
from bitinfer.train.report import Architecture, DataFile, TrainingReport, check_plotting
from bitinfer.train.teacher import Folder, open_folder

__all__ = ["Session", "evaluate", "plain", "session", "weights_file"]

_MAX_LENGTH = 128
_EVALUATION_BATCH = 64
# Looks at dev for each time through the data, where nothing is said.
_LOOKS_PER_EPOCH = 2
# How a run is watched and continued is no part of how its result came about.
_FREE = ("output", "resume", "show_progress_bar", "threads")


@dataclass(frozen=True)
class Session:
    """Everything that a training reads, and where it computes.

    Attributes:
        options: the arguments of the call, plain data.
        folder: the model that it begins with.
        task, train, dev: what is learned, from what, measured on what.
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
        return self.options["show_progress_bar"] is not False

    def loop(self, *, default_rate: float, **kinds: Any) -> LoopOptions:
        """How to train, by the options."""
        options = self.options
        batch_size = options["batch_size"]
        per_epoch = math.ceil(len(self.train) / batch_size)
        rate = options["learning_rate"]
        return LoopOptions(
            batch_size=batch_size,
            rate=default_rate if rate is None else rate,
            evaluate_every=options["evaluate_every"] or max(1, per_epoch // _LOOKS_PER_EPOCH),
            seed=options["seed"],
            **kinds,
        )

    def report(
        self, command: Literal["distill", "finetune"], weights: Path, **found: Any
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
            options={**self.options, "dtype": str(self.dtype).removeprefix("torch.")},
            versions=_versions(),
            machine=f"{cpu_name()}, {threads} thread{'s' * (threads != 1)}{gpu}",
            started=self.started.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began + self.run.earlier,
            data=self.files,
            **found,
        )


@contextlib.contextmanager
def session(model: str | os.PathLike[str], options: Mapping[str, Any]) -> Iterator[Session]:
    """Check the options, read the tables, decide where to compute.

    Args:
        model: folder to begin with.
        options: the arguments of the call.

    Raises:
        InputError, InputTypeError: a table or option is not as expected; names it.
        ConversionError: the folder does not hold a BERT.
        FileExistsError: the output folder exists.
        OSError: a table cannot be read.
        UnsupportedError: a package is missing.
    """
    check_plotting()
    _check(options)
    output = Path(options["output"])
    _check_output(output)
    folder = open_folder(model)
    texts = {name: _read(options, name) for name in ("train", "dev")}
    task = find_task(texts["train"], labels=options["labels"], regression=options["regression"])
    longest = min(options["max_length"] or _MAX_LENGTH, folder.positions)
    tokenizer = folder.tokenizer()
    data = {
        name: tokenize(each, task, tokenizer, longest, name=os.fspath(options[name]))
        for name, each in texts.items()
    }
    files = {
        name: DataFile(Path(options[name]).name, len(data[name]), _sha256(Path(options[name])))
        for name in data
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = _has_bf16(device) if options["bf16"] is None else options["bf16"]
    settings = {key: value for key, value in options.items() if key not in _FREE}
    settings |= {name: each.sha256 for name, each in files.items()}
    settings["model"] = _sha256(weights_file(folder.path))
    with _threads(options["threads"]):
        torch.manual_seed(options["seed"])
        yield Session(
            options=options,
            folder=folder,
            task=task,
            train=data["train"],
            dev=data["dev"],
            texts=texts["dev"],
            files=files,
            max_length=longest,
            device=device,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            run=Run(output.with_name(f"{output.name}.partial"), settings, resume=options["resume"]),
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
    """An argument as it is reported: a path as text, a sequence as a list."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return list(value) if isinstance(value, (list, tuple)) else value


def weights_file(folder: Path) -> Path:
    """The weights of a folder, or the list of the files they are in.

    Raises:
        InputError: it holds none.
    """
    names = ("model.safetensors", "pytorch_model.bin")
    names += tuple(f"{name}.index.json" for name in names)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: found no weights, expected {' or '.join(names[:2])}")


def _check(options: Mapping[str, Any]) -> None:
    check_int("batch_size", options["batch_size"], 1)
    check_int("seed", options["seed"], 0)
    for name, low in (("evaluate_every", 1), ("threads", 1), ("max_length", MIN_LENGTH)):
        if options[name] is not None:
            check_int(name, options[name], low)
    if options["learning_rate"] is not None:
        check_number("learning_rate", options["learning_rate"], above=0)


def _check_output(output: Path) -> None:
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists; expected a new folder")
    if not output.name or not output.parent.is_dir():
        raise InputError(f"output: found {str(output)!r}, expected a new folder in one that exists")


def _read(options: Mapping[str, Any], name: str) -> LabelledTexts:
    columns = {key: options[key] for key in ("text", "pair", "label")}
    return read_table(options[name], **columns)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    names = ("bitinfer", "torch", "transformers")
    versions = {name: package_version(name) or "not installed" for name in names}
    return {**versions, "python": platform.python_version()}


def _has_bf16(device: torch.device) -> bool:
    """Whether products of bfloat16 are fast: elsewhere they are emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
