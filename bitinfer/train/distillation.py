"""Multi-distillation: a float teacher, then students of fewer and fewer bits (BiT, section 3.3)."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from bitinfer import codes
from bitinfer.conversion.convert import convert, measure_parity
from bitinfer.data import evaluation
from bitinfer.errors import InputError, quote
from bitinfer.families import read_checkpoint
from bitinfer.families.bit import DEAD, quantization
from bitinfer.files import file_sha256, new_folder
from bitinfer.runtime.format import read_packed
from bitinfer.runtime.model import load
from bitinfer.runtime.origin import PACKED
from bitinfer.train.card import write_card
from bitinfer.train.data import Batch, collate, evaluation_batches
from bitinfer.train.finetuning import finetune
from bitinfer.train.loop import LoopOptions, write_log
from bitinfer.train.loop import train as train_stage
from bitinfer.train.losses import LossWeights, distillation_loss
from bitinfer.train.options import (
    BATCH_SIZE,
    DATA,
    DEFAULT_BITS,
    DISTILL_EPOCHS,
    DISTILL_RATE,
    RUN,
    Bits,
    Budget,
    check_bits,
    check_budget,
    check_number,
    check_shares,
)
from bitinfer.train.report import (
    PackedResult,
    StageResult,
    TeacherResult,
    TrainingReport,
    read_report,
    standard_error,
    write_report,
)
from bitinfer.train.session import (
    Session,
    evaluate,
    plain,
    products_type,
    read_tables,
    reserved,
    session,
    type_name,
)
from bitinfer.train.student import Outputs, Shape, Student
from bitinfer.train.teacher import (
    Folder,
    as_student,
    has_head,
    open_folder,
    read_model,
    weights_files,
)

__all__ = ["distill", "train_stages"]

_EPSILON = 1e-12  # of the layer norms of every BiT model
_PARITY_BATCH = 16
# What does not tell how a teacher was made, that of products only with the machine.
_UNTOLD = ("bf16", "threads", *RUN)
# What fine-tuning is told where the teacher has no head; all else has its own defaults.
_SHARED = (*DATA, "batch_size", "seed", *_UNTOLD)
_TEACHER = "a teacher that finetune made (delete it, or choose another output)"


def distill(
    teacher: str | os.PathLike[str],
    train: str | os.PathLike[str],
    dev: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    unlabelled: str | os.PathLike[str] | None = None,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    regression: bool = False,
    max_length: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    bits: Sequence[str] = DEFAULT_BITS,
    shares: Sequence[float] | None = None,
    token_noise: float = 0.0,
    label_weight: float = 0.0,
    hidden_weight: float = 1.0,
    attention_weight: float = 0.0,
    activation: str = "relu",
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    learning_rate: float = DISTILL_RATE,
    vector_rate: float = 1.0,
    seed: int = 0,
    evaluate_every: int | None = None,
    bf16: bool | None = None,
    threads: int | None = None,
    licence: str | None = None,
    resume: bool = False,
    show_progress_bar: bool | None = None,
) -> TrainingReport:
    """Train a 1-bit model: each student begins with the weights of its teacher, the one before.

    The output holds the model in the published form (``pytorch_model.bin``, ``config.json``,
    ``vocab.txt``), the packed file ``packed.safetensors`` if the last student is 1-1-1, a report
    and a model card.  Until it is complete, what is needed to go on is in a folder beside it, whose
    name ends in ``.partial``.

    Args:
        teacher: local Hugging Face folder of a BERT with a classification head; without one
            `finetune` first makes a teacher of it, in a folder beside the output whose name ends in
            ``.teacher``, with what is given here for data, length, seed and products, and for
            batches unless by tokens, and its own defaults for all else.
        train, dev: tables of labelled texts, ``.tsv``, ``.csv`` or ``.jsonl``; dev chooses the
            weights that are kept.
        output: folder to make.
        unlabelled: a table of more texts, from which only the students learn: the teacher says what
            to learn of them, and labels are not looked for. Its columns are named as in the others.
        text, pair, label: names of the columns; default those of GLUE.
        labels: names of the classes in the order of the teacher's outputs; default the teacher's
            names, or if it has none, those found in train, sorted.
        regression: whether labels are numbers to predict.
        max_length: tokens a text is cut to; default 128, or all positions if those are fewer.
        minutes, steps, epochs: how long to train in all, one of them; default 12 epochs.
        bits: of each student, ``W-E-A``: weights, word embeddings, activations.
        shares: of the budget for each student; default equal ones.
        token_noise: mean part of the tokens of a text, 0 to below 0.5, in whose place students and
            teachers see random ones, so that texts are not learned by heart; labels stay those of
            the texts as they were.
        label_weight, hidden_weight, attention_weight: of the loss on labels, hidden states and
            attention scores; that on the teacher's logits has 1.
        activation: ``"relu"`` or ``"gelu"``, of the students.
        batch_size: texts of a step; default 32.  With ``batch_tokens`` the most of them; default
            any number.
        batch_tokens: most tokens of a step, padding included; a text that is longer is a step of
            its own.  All steps take about as long, and a long text counts for more than a short
            one.
        learning_rate: the highest; default 5e-4.
        vector_rate: the learning rate of shifts, steps, biases and layer norms, from which the
            thresholds of the packed model are made, as a multiple of the one of weights.
        seed: of everything random.  With a budget in steps or epochs the same call on the same
            machine gives the same weights.
        evaluate_every: steps between measurements; default half an epoch.
        bf16: products in bfloat16, in which codes are exact; default where the machine is made
            for them.
        threads: of PyTorch; default all CPUs.
        licence: of the result, recorded in it and on its card.
        resume: go on with a run that was stopped.
        show_progress_bar: ``None`` shows one if the logger ``bitinfer`` is at level INFO or below.

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
        >>> teacher = finetune("toy/encoder", "toy/train.tsv", "toy/dev.tsv", "teacher", steps=9)
        >>> report = distill("teacher", "toy/train.tsv", "toy/dev.tsv", "mine", steps=9)
        >>> load("mine").predict("bread and butter").label in report.labels
        True
    """
    options = {name: plain(value) for name, value in locals().items()}
    if batch_size is None and batch_tokens is None:
        options["batch_size"] = BATCH_SIZE
    students = check_bits(bits)
    budget = check_budget(minutes, steps, epochs, default_epochs=DISTILL_EPOCHS)
    parts = [budget.part(share) for share in check_shares(shares, len(students))]
    losses = LossWeights(
        hidden=check_number("hidden_weight", hidden_weight, low=0),
        attention=check_number("attention_weight", attention_weight, low=0),
        labels=check_number("label_weight", label_weight, low=0),
    )
    vectors = check_number("vector_rate", vector_rate, above=0)
    noise = check_number("token_noise", token_noise, low=0, below=0.5)
    if activation not in ("relu", "gelu"):
        raise InputError(f"activation: found {activation!r}, expected 'relu' or 'gelu'")
    with (
        reserved(options) as partial,
        session(_with_head(options), options, partial, head=True) as ready,
    ):
        float_model = read_model(ready.folder, outputs=ready.task.outputs, head=True)
        first = as_student(float_model, dtype=ready.dtype).to(ready.device)
        taught = _teacher_result(as_student(float_model, dtype=torch.float32), ready)
        shape = replace(first.shape, activation=activation, epsilon=_EPSILON)
        loop = ready.loop(token_noise=noise, vector_rate=vectors)
        last, results = train_stages(
            first, shape, students, parts, ready, loop=loop, weights=losses
        )
        with new_folder(ready.output) as folder:
            weights = _write_published(folder, last, ready)
            packed = _pack(folder, ready, licence) if last.bits == Bits(1, 1, 1) else None
            report = ready.report(
                "distill", weights, loop, teacher=taught, stages=tuple(results), packed=packed
            )
            write_report(folder, report)
            write_card(folder, report, name=ready.output.name, licence=licence)
            write_log(folder, report.stages)
        ready.run.remove()
    return report


def train_stages(
    teacher: Student,
    shape: Shape,
    bits: Sequence[Bits],
    budgets: Sequence[Budget],
    ready: Session,
    *,
    loop: LoopOptions,
    weights: LossWeights,
) -> tuple[Student, list[StageResult]]:
    """Train every student, taught by the one before it.

    Args:
        teacher: of the first student, which begins with its weights.
        shape: of the students; parameters are as many and as large as the teacher's.
        bits, budgets: of each student.

    Returns:
        The last student and the results of all.
    """
    results = []
    for index, (each, budget) in enumerate(zip(bits, budgets, strict=True)):
        student = teacher.twin(shape, each)
        done = ready.run.finished(index)
        if done is None:
            if each.activations != teacher.bits.activations:
                _begin_steps(student, ready, loop)
            result = _train_student(student, teacher, index, budget, ready, loop, weights)
            ready.run.finish(index, student.state_dict(), result)
        else:
            state, result = done
            student.load_state_dict(state)
        results.append(result)
        teacher = student.eval()
    return teacher, results


def _with_head(options: Mapping[str, Any]) -> Path:
    """The teacher; fine-tuned if it has no head, unless a run that is resumed has done it."""
    given = open_folder(options["teacher"])
    if has_head(given):
        return given.path
    read_tables(options)  # a mistake in one is found before hours of work
    output = Path(options["output"])
    teacher = output.with_name(f"{output.name}.teacher")
    how = {name: each.default for name, each in signature(finetune).parameters.items()}
    for name in ("encoder", "train", "dev", "output"):
        del how[name]
    how |= {name: options[name] for name in _SHARED}
    if options["batch_tokens"] is not None:
        how["batch_size"] = BATCH_SIZE  # that of the students is but a bound then
    if options["resume"] and teacher.exists():
        _check_made_so(teacher, given, options, how)
    else:
        finetune(options["teacher"], options["train"], options["dev"], teacher, **how)
    return teacher


def _check_made_so(
    teacher: Path, encoder: Folder, options: Mapping[str, Any], how: Mapping[str, Any]
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
    digests = {name: file_sha256(Path(options[name])) for name in ("train", "dev")}
    digests["encoder"] = encoder.sha256()
    found = {name: file.sha256 for name, file in report.data.items()}
    found["encoder"] = report.options.get("folder_sha256", "")
    for name, digest in digests.items():
        if found.get(name) != digest:
            given = encoder.path if name == "encoder" else options[name]
            raise InputError(f"{teacher}: found a teacher of another {name}, expected {given}")
    wanted = {name: value for name, value in how.items() if name not in _UNTOLD}
    wanted["dtype"] = type_name(products_type(options["bf16"]))
    for name, value in wanted.items():
        if report.options.get(name) != value:
            raise InputError(
                f"{teacher}: found a teacher made with {name} {quote(report.options.get(name))}, "
                f"expected {quote(value)}"
            )


def _train_student(
    student: Student,
    teacher: Student,
    index: int,
    budget: Budget,
    ready: Session,
    loop: LoopOptions,
    weights: LossWeights,
) -> StageResult:
    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            expected = _outputs(teacher, batch)
        return distillation_loss(_outputs(student, batch), expected, batch, ready.task, weights)

    return train_stage(
        student,
        loss,
        lambda: evaluate(lambda batch: _outputs(student, batch).logits, ready.dev, ready.device),
        ready.train,
        name=str(student.bits),
        budget=budget,
        options=loop,
        run=ready.run,
        stage=index,
        show_progress_bar=ready.show_progress_bar,
    )


def _outputs(model: Student, batch: Batch) -> Outputs:
    outputs: Outputs = model(batch.ids, batch.segments, batch.mask)
    return outputs


def _begin_steps(student: Student, ready: Session, loop: LoopOptions) -> None:
    """Steps from the first batch."""
    first = loop.batches(ready.train, epoch=0)[0]
    batch = collate(ready.train, first).to(ready.device)
    student.begin_steps(batch.ids, batch.segments, batch.mask)


def _teacher_result(teacher: Student, ready: Session) -> TeacherResult:
    teacher.eval().to(ready.device)
    value = evaluate(lambda batch: _outputs(teacher, batch).logits, ready.dev, ready.device)
    size = sum(file.stat().st_size for file in weights_files(ready.folder.path))
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
    config = published_config(student, ready)
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


def published_config(student: Student, ready: Session) -> dict[str, Any]:
    """The teacher's configuration and what the published code adds to it."""
    shape, names = student.shape, dict(enumerate(ready.task.labels))
    dropped = ("dtype", "torch_dtype", "_name_or_path", "transformers_version")
    kept = {key: value for key, value in ready.folder.config.items() if key not in dropped}
    return {
        **kept,
        **quantization(codes.Bits.parse(str(student.bits))),
        "weight_layerwise": not shape.row_scales,
        "embed_layerwise": False,
        "learnable_scaling": True,
        "clip_init_val": 2.5,  # unused with elastic steps, but the published code wants to find it
        "architectures": ["BertForSequenceClassification"],
        "finetuning_task": None,
        "hidden_act": shape.activation,
        "layer_norm_eps": shape.epsilon,
        "num_labels": shape.outputs,
        "id2label": names or {0: "LABEL_0"},
        "label2id": {name: index for index, name in names.items()} or {"LABEL_0": 0},
    }


def _pack(folder: Path, ready: Session, licence: str | None) -> PackedResult:
    """Convert, compare with the float64 reference on dev, and measure the packed engine there."""
    file = folder / PACKED
    labels = ready.task.labels or None
    convert(folder, file, labels=labels, max_length=ready.max_length, licence=licence)
    description = read_checkpoint(folder, labels=labels)
    _, tensors = read_packed(file)
    batches = evaluation_batches(ready.dev.lengths, _PARITY_BATCH)
    samples = (_sample(collate(ready.dev, indices)) for indices in batches)
    shown = tqdm(samples, "parity", len(batches), disable=not ready.show_progress_bar)
    parity = measure_parity(description, tensors, shown)
    found = evaluation.evaluate(load(file), ready.texts)
    return PackedResult(
        file=PACKED,
        bytes=file.stat().st_size,
        value=found.value,
        count=found.count,
        standard_error=standard_error(found.metric, found.value, found.count),
        parity=parity,
    )


def _sample(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ids, segments and mask as the engine and the reference take them."""
    return batch.ids.numpy(), batch.segments.numpy(), batch.mask.long().numpy()
