"""Multi-distillation: a float teacher, then students of fewer and fewer bits (BiT, section 3.3)."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from bitinfer.codes import POINTS, Bits
from bitinfer.conversion.convert import convert, measure_parity
from bitinfer.data import evaluation
from bitinfer.errors import InputError, quote
from bitinfer.families import read_checkpoint
from bitinfer.families.bit import DEAD, quantization
from bitinfer.runtime.format import read_packed
from bitinfer.runtime.model import load
from bitinfer.runtime.origin import PACKED
from bitinfer.train.data import Batch, Table, collate, evaluation_batches, read_tables
from bitinfer.train.finetuning import finetune_on
from bitinfer.train.loop import LoopOptions
from bitinfer.train.loop import train as train_stage
from bitinfer.train.losses import LossWeights, distillation_loss
from bitinfer.train.options import (
    Budget,
    DistillOptions,
    FinetuneOptions,
    names_of,
    takes_options,
)
from bitinfer.train.report import (
    PackedResult,
    StageResult,
    TeacherResult,
    TrainingReport,
    read_report,
)
from bitinfer.train.session import Session, products_type, reserved, session, type_name
from bitinfer.train.student import Outputs, Shape, Student
from bitinfer.train.teacher import (
    Folder,
    as_student,
    has_head,
    open_folder,
    read_bert,
)

__all__ = ["distill", "train_stages"]

_EPSILON = 1e-12  # of the layer norms of every BiT model
_PARITY_BATCH = 16
# What fine-tuning is told where the teacher has no head; all else has its own defaults.
_SHARED = ("text", "pair", "label", "labels", "regression", "max_length", "seed", "bf16", "threads")
_TEACHER = "a teacher that finetune made (delete it, or choose another output)"


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

    A table is a path, or rows as `bitinfer.data.tables.read_rows` takes them: ``(text, label)``, or
    dicts by column, as a ``datasets.Dataset`` gives them.

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
    with reserved(options) as partial:
        given = open_folder(options.teacher)
        tables = read_tables(options)
        folder = given if has_head(given) else _fine_tuned(given, tables, options)
        with session(folder, options, tables, partial, head=True) as ready:
            return _distill(options, ready)


def _distill(options: DistillOptions, ready: Session) -> TrainingReport:
    float_model = read_bert(ready.folder, outputs=ready.task.outputs, head=True)
    first = as_student(float_model, dtype=ready.dtype).to(ready.device)
    taught = _teacher_result(float_model, ready)
    shape = replace(first.shape, activation=options.activation, epsilon=_EPSILON)
    loop = ready.loop(
        token_noise=options.token_noise,
        vector_rate=options.vector_rate,
        batch_tokens=options.batch_tokens,
    )
    weights = LossWeights(
        hidden=options.hidden_weight,
        attention=options.attention_weight,
        labels=options.label_weight,
    )
    last, results = train_stages(first, shape, options.stages, ready, loop=loop, weights=weights)
    with ready.output() as folder:
        file = _write_published(folder, last, ready)
        return ready.write_report(
            folder, file, loop, teacher=taught, stages=tuple(results), packed=_pack(folder, ready)
        )


def train_stages(
    teacher: Student,
    shape: Shape,
    stages: Sequence[tuple[Bits, Budget]],
    ready: Session,
    *,
    loop: LoopOptions,
    weights: LossWeights,
) -> tuple[Student, list[StageResult]]:
    """Train every student, taught by the one before it.

    Args:
        teacher: of the first student, which begins with its weights.
        shape: of the students; parameters are as many and as large as the teacher's.
        stages: bits and budget of each student.

    Returns:
        The last student and the results of all.
    """
    run, begun = ready.run, len(ready.run.results)
    for index, (bits, budget) in enumerate(stages):
        student = teacher.twin(shape, bits)
        if index < begun - 1:
            continue  # of a student that is done, and not the last of those, nothing is needed
        if index == begun - 1:
            with run.reading():
                student.load_state_dict(run.weights)
        else:
            _begin_steps(student, teacher, ready, loop)
            result = _train_student(student, teacher, budget, ready, loop, weights)
            run.finish(student.state_dict(), result)
        teacher = student.eval()
    return teacher, run.results


def _fine_tuned(encoder: Folder, tables: dict[str, Table], options: DistillOptions) -> Folder:
    """A teacher made of an encoder, unless a run that is resumed has made it."""
    output = Path(options.output)
    path = output.with_name(f"{output.name}.teacher")
    shared = (*_SHARED, *names_of("distill", "run"))
    given: dict[str, Any] = {name: getattr(options, name) for name in shared}
    if options.batch_size is not None and options.batch_tokens is None:
        given["batch_size"] = options.batch_size
    how = FinetuneOptions(encoder.path, options.train, options.dev, path, **given)
    if options.resume and path.exists():
        _check_made_so(path, encoder, tables, how)
    else:
        with reserved(how) as partial:
            labelled = {name: tables[name] for name in ("train", "dev")}
            finetune_on(encoder, labelled, how, partial)
    return open_folder(path)


def _check_made_so(
    teacher: Path, encoder: Folder, tables: dict[str, Table], how: FinetuneOptions
) -> None:
    """Whether a teacher that is found was made by the same options from the same files.

    Raises:
        InputError: it was not, or it is no teacher that `finetune` made.
        FormatError: its report is damaged.
    """
    try:
        report = read_report(teacher)
    except OSError as error:
        raise InputError(f"{teacher}: found no report ({error}), expected {_TEACHER}") from None
    if report.command != "finetune":
        raise InputError(f"{teacher}: found what {report.command} made, expected {_TEACHER}")
    found = report.options | {name: file.sha256 for name, file in report.data.items()}
    found["encoder"] = report.options.get("folder_sha256")
    digests = {name: tables[name].sha256 for name in ("train", "dev")}
    digests["encoder"] = encoder.sha256
    # Of the type of products the machine may decide; threads do not tell how it was made.
    untold = {*names_of("finetune", "files", "run"), "bf16", "threads"}
    options = {name: value for name, value in how.plain().items() if name not in untold}
    wanted = {**digests, **options, "dtype": type_name(products_type(how.bf16))}
    for name, value in wanted.items():
        if found.get(name) != value:
            made = f"made with {name} {quote(found.get(name))}, expected {quote(value)}"
            made = f"of another {name}, expected the same" if name in digests else made
            raise InputError(f"{teacher}: found a teacher {made}")


def _train_student(
    student: Student,
    teacher: Student,
    budget: Budget,
    ready: Session,
    loop: LoopOptions,
    weights: LossWeights,
) -> StageResult:
    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            expected = _outputs(teacher, batch)
        found = _outputs(student, batch)
        return distillation_loss(found, expected, batch, ready.task.head, weights)

    return train_stage(
        student,
        loss,
        lambda: ready.measure(lambda batch: _outputs(student, batch).logits),
        ready.train,
        name=str(student.bits),
        budget=budget,
        options=loop,
        run=ready.run,
        show_progress_bar=ready.show_progress_bar,
    )


def _outputs(model: Student, batch: Batch) -> Outputs:
    outputs: Outputs = model(batch.ids, batch.segments, batch.mask)
    return outputs


def _begin_steps(student: Student, teacher: Student, ready: Session, loop: LoopOptions) -> None:
    """Steps from the first batch, at the points whose bits are not the teacher's."""
    points = [point for point in POINTS if student.bits.at(point) != teacher.bits.at(point)]
    if points:
        batch = collate(ready.train, loop.batches(ready.train, epoch=0)[0]).to(ready.device)
        student.begin_steps(batch.ids, batch.segments, batch.mask, points=points)


def _teacher_result(float_model: Any, ready: Session) -> TeacherResult:
    teacher = as_student(float_model, dtype=torch.float32).eval().to(ready.device)
    value = ready.measure(lambda batch: _outputs(teacher, batch).logits)
    size = sum(each.nbytes for each in float_model.state_dict().values())
    # The folder may be given by a path that does not name it, and its name may be no text.
    name = os.fsencode(ready.folder.path.absolute().name).decode(errors="replace")
    return TeacherResult(name, value, size)


# ---- what is written


def _write_published(folder: Path, student: Student, ready: Session) -> Path:
    """Write the checkpoint; the file of its weights."""
    weights = folder / "pytorch_model.bin"
    # Not to the file itself: of a full disk PyTorch tells in its own kind of error.
    buffer = io.BytesIO()
    torch.save(published_state(student), buffer)
    weights.write_bytes(buffer.getbuffer())
    config = published_config(student, ready.task.labels, ready.folder.config)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    ready.folder.write_tokenizer(folder)
    return weights


def published_state(student: Student) -> dict[str, Tensor]:
    """The parameters by their published keys, float32.

    The dead parameters ``move_q``, ``move_k`` and ``move_v``, which the published code wants to
    find, are 0.
    """
    state = {key: value.detach().float().cpu() for key, value in student.state_dict().items()}
    dead = torch.zeros(student.shape.hidden)
    for layer in range(student.shape.layers):
        for name in DEAD:
            state[f"bert.encoder.layer.{layer}.attention.self.{name}"] = dead.clone()
    return state


def published_config(
    student: Student, labels: Sequence[str], teacher: dict[str, Any]
) -> dict[str, Any]:
    """The teacher's configuration and what the published code, and ours, adds to it."""
    names = dict(enumerate(labels)) or {0: "LABEL_0"}
    dropped = ("dtype", "torch_dtype", "_name_or_path", "transformers_version")
    return {
        **{key: value for key, value in teacher.items() if key not in dropped},
        **quantization(student.bits),
        "weight_layerwise": False,
        "embed_layerwise": False,
        "learnable_scaling": True,
        "clip_init_val": 2.5,  # unused with elastic steps, but the published code wants to find it
        "architectures": ["BertForSequenceClassification"],
        "finetuning_task": None,
        "hidden_act": student.shape.activation,
        "layer_norm_eps": student.shape.epsilon,
        "num_labels": student.shape.outputs,
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }


def _pack(folder: Path, ready: Session) -> PackedResult:
    """Convert, compare with the float64 reference on dev, and measure the packed engine there."""
    file = folder / PACKED
    labels = ready.task.labels or None
    licence = ready.options.licence
    convert(folder, file, labels=labels, max_length=ready.max_length, licence=licence)
    description = read_checkpoint(folder, labels=labels)
    _, tensors = read_packed(file)
    batches = [
        collate(ready.dev, indices)
        for indices in evaluation_batches(ready.dev.lengths, _PARITY_BATCH)
    ]
    # Ids, segments and mask as the engine and the reference take them.
    samples = (
        (each.ids.numpy(), each.segments.numpy(), each.mask.long().numpy()) for each in batches
    )
    shown = tqdm(samples, "parity", len(batches), disable=not ready.show_progress_bar)
    parity = measure_parity(description, tensors, shown)
    found = evaluation.evaluate(load(file), ready.tables["dev"].rows)
    return PackedResult(
        file=PACKED,
        bytes=file.stat().st_size,
        value=found.value,
        count=found.count,
        standard_error=ready.task.metric.standard_error(found.value, found.count),
        parity=parity,
    )
