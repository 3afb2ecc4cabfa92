"""Multi-distillation: a float teacher, then students of fewer and fewer bits (BiT, section 3.3)."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from bitinfer.codes import POINTS
from bitinfer.conversion.convert import convert
from bitinfer.conversion.parity import measure_parity
from bitinfer.data import evaluation
from bitinfer.errors import InputError
from bitinfer.families import read_checkpoint
from bitinfer.families.bit import UNUSED, dead_keys, quantization
from bitinfer.heads import Head
from bitinfer.runtime.format import read_packed
from bitinfer.runtime.model import load
from bitinfer.runtime.origin import PACKED
from bitinfer.train.data import Batch, Table, collate, evaluation_batches, read_tables
from bitinfer.train.finetuning import finetune_on
from bitinfer.train.loop import epoch_batches
from bitinfer.train.options import DistillOptions, FinetuneOptions, names_of, takes_options
from bitinfer.train.report import (
    PackedResult,
    StageResult,
    TeacherResult,
    TrainingReport,
    read_report,
)
from bitinfer.train.run import check_same
from bitinfer.train.session import Session, measure, reserved, session, settings_of
from bitinfer.train.student import Outputs, Student
from bitinfer.train.teacher import Folder, as_student, has_head, open_folder, read_bert

_PARITY_BATCH = 16
# What fine-tuning is told where the teacher has no head; all else has its own defaults.
_SHARED = ("text", "pair", "label", "labels", "regression", "max_length", "seed", "bf16", "threads")


@takes_options(DistillOptions)
def distill(options: DistillOptions) -> TrainingReport:
    """Train a model of few bits: each student begins with the weights of its teacher.

    The first teacher is the float model, each later one the student before.  A float model without
    a classification head gets one first: `finetune` makes a teacher in a folder beside the output
    whose name ends in ``.teacher``, with what is given here for data, length, seed and products,
    and for batches unless by tokens, and its own defaults for all else.

    The output holds the packed file ``packed.safetensors``, the same in the published form
    (``pytorch_model.bin``, ``config.json``, ``vocab.txt``), a report and a model card.  Until it is
    complete, what is needed to go on is in a folder beside it, whose name ends in ``.partial``.

    A table is a path, or rows as `bitinfer.data.tables.read_rows` takes them.

    Args:
        {options}

    Returns:
        The report; its accuracy is that of the packed engine on dev.

    Raises:
        InputError, InputTypeError: an option or a row of a table is not as expected; names it.
        ConversionError: the teacher is not a BERT with a head, or is damaged.
        FormatError: the report of a teacher that was made before is damaged.
        FileExistsError: ``output`` exists.
        OSError: a file cannot be read or written.
        UnsupportedError: a package of the extra ``train`` is missing.

    Example:
        >>> from bitinfer.train import finetune
        >>> teacher = finetune("toy/encoder", "toy/train.tsv", "toy/dev.tsv", "teacher", steps=9)
        >>> report = distill("teacher", "toy/train.tsv", "toy/dev.tsv", "mine", steps=9)
        >>> load("mine").predict("bread and butter").label in report.labels
        True
    """
    with reserved(options) as place:
        folder = open_folder(options.teacher)
        tables = read_tables(options)
        if not has_head(folder):
            folder = _fine_tuned(folder, tables, options)
        with session(folder, options, tables, place) as ready:
            model = read_bert(folder, outputs=ready.outputs, head=True)
            taught = _teacher_result(model, ready)
            teacher = as_student(model, dtype=ready.dtype).to(ready.device)
            student, results = train_stages(teacher, ready)
            with ready.output() as output:
                file = _write_published(output, student, ready)
                packed = _pack(output, ready)
                return ready.write_report(output, file, results, teacher=taught, packed=packed)


def train_stages(teacher: Student, ready: Session) -> tuple[Student, list[StageResult]]:
    """Train every student, taught by the one before it: the last one, and the results of all."""
    options, run = cast(DistillOptions, ready.options), ready.run
    activation: Any = options.activation
    config, begun = teacher.config._replace(activation=activation), len(run.results)
    for index, (bits, share) in enumerate(options.stages):
        student = teacher.twin(config, bits)
        if index < begun - 1:
            continue  # of a student that is done, and not the last of those, nothing is needed
        if index == begun - 1:
            with run.reading():
                student.load_state_dict(run.weights)
        else:
            _begin_steps(student, teacher, ready)
            loss = partial(_loss, student, teacher, ready)
            result = ready.stage(student, loss, student.logits, name=str(bits), share=share)
            run.finish(student.state_dict(), result)
        teacher = student.eval()
    return teacher, run.results


def _loss(student: Student, teacher: Student, ready: Session, batch: Batch) -> Tensor:
    options = cast(DistillOptions, ready.options)
    weights = {"hidden": options.hidden_weight, "attention": options.attention_weight}
    weights["labels"] = options.label_weight
    with torch.no_grad():
        expected = teacher(*batch.inputs)
    return distillation_loss(student(*batch.inputs), expected, batch, ready.head, **weights)


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
    """The sum of losses by their weights; padding does not count.

    Of hidden states and attention scores it is the mean squared error, added up over the layers.
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


def _begin_steps(student: Student, teacher: Student, ready: Session) -> None:
    """Steps from the first batch, at the points whose bits are not the teacher's."""
    points = [point for point in POINTS if student.bits.at(point) != teacher.bits.at(point)]
    if points:
        indices = epoch_batches(ready.train, ready.options, 0)[0]
        batch = collate(ready.train, indices).to(ready.device)
        student.begin_steps(batch.ids, batch.segments, batch.mask, points=points)


def _teacher_result(model: Any, ready: Session) -> TeacherResult:
    teacher = as_student(model, dtype=torch.float32).eval().to(ready.device)
    # The folder may be given by a path that does not name it, and its name may be no text.
    name = os.fsencode(ready.folder.path.absolute().name).decode(errors="replace")
    size = sum(each.nbytes for each in model.state_dict().values())
    return TeacherResult(name, measure(teacher.logits, ready.dev, ready.device), size)


def _fine_tuned(encoder: Folder, tables: dict[str, Table], options: DistillOptions) -> Folder:
    """A teacher made of an encoder, unless a run that is resumed has made it."""
    output = Path(options.output)
    path = output.with_name(f"{output.name}.teacher")
    shared = (*_SHARED, *names_of("distill", "run"))
    given: dict[str, Any] = {name: getattr(options, name) for name in shared}
    if options.batch_size and options.batch_tokens is None:
        given["batch_size"] = options.batch_size
    how = FinetuneOptions(encoder.path, options.train, options.dev, path, **given)
    labelled = {name: tables[name] for name in ("train", "dev")}
    if options.resume and path.exists():
        _check_made_so(path, settings_of(how, labelled, encoder))
    else:
        with reserved(how) as place:
            finetune_on(encoder, labelled, how, place)
    return open_folder(path)


def _check_made_so(teacher: Path, settings: dict[str, Any]) -> None:
    """Raises an InputError unless `finetune` made a teacher by these settings."""
    expected = "expected a teacher that finetune made (delete it, or choose another output)"
    try:
        report = read_report(teacher)
    except OSError as error:
        raise InputError(f"{teacher}: found no report ({error}), {expected}") from None
    if report.command != "finetune":
        raise InputError(f"{teacher}: found what {report.command} made, {expected}")
    found = report.options
    made = found | {name: file.sha256 for name, file in report.data.items()}
    made |= {"model": found.get("folder_sha256"), "bf16": found.get("dtype") == "bfloat16"}
    check_same(teacher, {name: made.get(name) for name in settings}, settings)


def _write_published(folder: Path, student: Student, ready: Session) -> Path:
    """Write the checkpoint; the file of its weights."""
    weights = folder / "pytorch_model.bin"
    # Not to the file itself: of a full disk PyTorch tells in its own kind of error.
    buffer = io.BytesIO()
    torch.save(published_state(student), buffer)
    weights.write_bytes(buffer.getbuffer())
    config = published_config(student, ready.labels, ready.folder.settings)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    ready.folder.write_tokenizer(folder)
    return weights


def published_state(student: Student) -> dict[str, Tensor]:
    """The parameters by their published keys, float32; the dead ones are 0."""
    state = {key: value.detach().float().cpu() for key, value in student.state_dict().items()}
    config = student.config
    return state | {key: torch.zeros(config.hidden) for key in dead_keys(config)}


def published_config(
    student: Student, labels: Sequence[str], teacher: dict[str, Any]
) -> dict[str, Any]:
    """The teacher's configuration and what the published code, and ours, adds to it."""
    names = dict(enumerate(labels)) or {0: "LABEL_0"}
    dropped = ("dtype", "torch_dtype", "_name_or_path", "transformers_version")
    return {
        **{key: value for key, value in teacher.items() if key not in dropped},
        **quantization(student.bits),
        **UNUSED,
        "architectures": ["BertForSequenceClassification"],
        "finetuning_task": None,
        "hidden_act": student.config.activation,
        "layer_norm_eps": student.numerics.epsilon,
        "num_labels": student.config.labels,
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }


def _pack(folder: Path, ready: Session) -> PackedResult:
    """Convert, compare with the float64 reference on dev, and measure the packed engine there."""
    file = folder / PACKED
    labels, licence = ready.labels or None, ready.options.licence
    convert(folder, file, labels=labels, max_length=ready.max_length, licence=licence)
    _, tensors = read_packed(file)
    batches = evaluation_batches(ready.dev.lengths, _PARITY_BATCH)
    shown = tqdm(batches, "parity", disable=not ready.show_progress_bar)
    samples = (
        (each.ids.numpy(), each.segments.numpy(), each.mask.long().numpy())
        for each in (collate(ready.dev, indices) for indices in shown)
    )
    parity = measure_parity(read_checkpoint(folder, labels=labels), tensors, samples)
    found = evaluation.evaluate(load(file), ready.tables["dev"].rows)
    return PackedResult(PACKED, file.stat().st_size, found.value, parity)
