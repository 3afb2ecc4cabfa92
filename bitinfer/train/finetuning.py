"""Fine-tuning: a BERT gets a classifier and learns a task, in float."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from bitinfer.checks import check_bool
from bitinfer.files import new_folder
from bitinfer.train.card import write_card
from bitinfer.train.data import Batch
from bitinfer.train.loop import train as train_stage
from bitinfer.train.loop import write_log
from bitinfer.train.losses import label_loss
from bitinfer.train.options import (
    BATCH_SIZE,
    FINETUNE_EPOCHS,
    FINETUNE_RATE,
    check_budget,
    check_number,
)
from bitinfer.train.report import TrainingReport, write_report
from bitinfer.train.session import Session, evaluate, plain, reserved, session
from bitinfer.train.teacher import read_model

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

__all__ = ["finetune"]

_BITS = "32-32-32"
_MOST_GRADIENT = 1.0


def finetune(
    encoder: str | os.PathLike[str],
    train: str | os.PathLike[str],
    dev: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    regression: bool = False,
    max_length: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = FINETUNE_RATE,
    seed: int = 0,
    evaluate_every: int | None = None,
    bf16: bool | None = None,
    threads: int | None = None,
    licence: str | None = None,
    resume: bool = False,
    show_progress_bar: bool | None = None,
    reinitialize_pooler: bool = False,
    dropout: float = 0.1,
) -> TrainingReport:
    """Train a float classifier, or a regression, that `distill` can take as its teacher.

    Args:
        encoder: local Hugging Face folder of BERT architecture, with or without a head.
        train, dev: tables of labelled texts, ``.tsv``, ``.csv`` or ``.jsonl``; dev chooses the
            weights that are kept.
        output: folder to make, in the form of Hugging Face, with a report and a model card.
        text, pair, label: names of the columns; default those of GLUE.
        labels: names of the classes in order; default those found in train, sorted.
        regression: whether labels are numbers to predict.
        max_length: tokens a text is cut to; default 128, or all positions if those are fewer.
        minutes, steps, epochs: how long to train, one of them; default 3 epochs.
        batch_size: texts of a step; default 32.
        learning_rate: the highest; default 5e-5.
        seed: of everything random.  With a budget in steps or epochs the same call on the same
            machine gives the same weights.
        evaluate_every: steps between measurements; default half an epoch.
        bf16: products in bfloat16; default where the machine is made for them.
        threads: of PyTorch; default all CPUs.
        licence: of the result, for its card.
        resume: go on with a run that was stopped.
        show_progress_bar: ``None`` shows one if the logger ``bitinfer`` is at level INFO or below.
        reinitialize_pooler: draw a new pooler, where that of the encoder was never trained.
        dropout: probability.

    Raises:
        InputError, InputTypeError: an option or a row of a table is not as expected; names it.
        ConversionError: the encoder is not a BERT, or is damaged.
        FileExistsError: ``output`` exists.
        OSError: a file cannot be read or written.
        UnsupportedError: a package of the extra ``train`` is missing.

    Example:
        >>> report = finetune("toy/encoder", "toy/train.tsv", "toy/dev.tsv", "teacher", steps=9)
        >>> print(report.table())
    """
    options = {name: plain(value) for name, value in locals().items()}
    budget = check_budget(minutes, steps, epochs, default_epochs=FINETUNE_EPOCHS)
    probability = check_number("dropout", dropout, low=0, below=1)
    check_bool("reinitialize_pooler", reinitialize_pooler)
    with (
        reserved(options) as partial,
        session(encoder, options, partial, head=False) as ready,
    ):
        model = read_model(
            ready.folder, outputs=ready.task.outputs, head=False, dropout=probability
        ).to(ready.device)
        if reinitialize_pooler:
            _draw_pooler(model)

        def logits(batch: Batch) -> Tensor:
            return _logits(model, batch, ready.dtype)

        loop = ready.loop(most_gradient=_MOST_GRADIENT)
        result = train_stage(
            model,
            lambda batch: label_loss(logits(batch), batch, ready.task),
            lambda: evaluate(logits, ready.dev, ready.device),
            ready.train,
            name=_BITS,
            budget=budget,
            options=loop,
            run=ready.run,
            show_progress_bar=ready.show_progress_bar,
        )
        with new_folder(ready.output) as folder:
            weights = _write_model(folder, model, ready)
            report = ready.report(
                "finetune", weights, loop, teacher=None, stages=(result,), packed=None
            )
            write_report(folder, report)
            write_card(folder, report, name=ready.output.name, licence=licence)
            write_log(folder, report.stages)
        ready.run.remove()
    return report


def _draw_pooler(model: BertForSequenceClassification) -> None:
    dense = model.bert.pooler.dense
    nn.init.normal_(dense.weight, std=model.config.initializer_range)
    nn.init.zeros_(dense.bias)


def _logits(model: BertForSequenceClassification, batch: Batch, dtype: torch.dtype) -> Tensor:
    with torch.autocast(batch.ids.device.type, dtype, enabled=dtype != torch.float32):
        output: Tensor = model(
            batch.ids, attention_mask=batch.mask.long(), token_type_ids=batch.segments
        ).logits
    return output.float()


def _write_model(folder: Path, model: BertForSequenceClassification, ready: Session) -> Path:
    """Write the checkpoint; the file of its weights."""
    names = dict(enumerate(ready.task.labels))
    if names:
        model.config.id2label = names
        model.config.label2id = {name: index for index, name in names.items()}
    kind = "single_label_classification" if names else "regression"
    model.config.problem_type = kind
    # The probabilities of training are no property of what was trained.
    original = ready.folder.config
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(model.config, key, original.get(key, 0.1))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # Not by transformers, which shows a bar and gives nobody else the right to read the file.
    weights = folder / "model.safetensors"
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    weights.write_bytes(to_safetensors(state, metadata={"format": "pt"}))
    ready.folder.write_tokenizer(folder)
    return weights
