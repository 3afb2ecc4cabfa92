"""Fine-tuning: a BERT gets a classifier and learns a task, in float."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from bitinfer.train.data import Batch, Table, read_tables
from bitinfer.train.options import FinetuneOptions, takes_options
from bitinfer.train.report import TrainingReport
from bitinfer.train.session import Session, reserved, session
from bitinfer.train.teacher import Folder, open_folder, read_bert

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

_BITS = "32-32-32"


@takes_options(FinetuneOptions)
def finetune(options: FinetuneOptions) -> TrainingReport:
    """Train a float classifier, or a regression, that `distill` can take as its teacher.

    The output is a folder in the form of Hugging Face, with a report and a model card.  A table is
    a path, or rows as `bitinfer.data.tables.read_rows` takes them.

    Args:
        {options}

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
    with reserved(options) as place:
        folder = open_folder(options.encoder)
        return finetune_on(folder, read_tables(options), options, place)


def finetune_on(
    encoder: Folder, tables: dict[str, Table], options: FinetuneOptions, place: Path
) -> TrainingReport:
    """The same with what has been read, in a place that is `reserved`."""
    with session(encoder, options, tables, place) as ready:
        model = read_bert(encoder, outputs=ready.outputs, head=False, dropout=options.dropout)
        model = model.to(ready.device)
        if options.reinitialize_pooler:
            dense = model.bert.pooler.dense
            nn.init.normal_(dense.weight, std=model.config.initializer_range)
            nn.init.zeros_(dense.bias)

        def logits(batch: Batch) -> Tensor:
            ids, segments, mask = batch.inputs
            with torch.autocast(ids.device.type, ready.dtype, ready.dtype != torch.float32):
                output: Tensor = model(ids, mask.long(), segments).logits
            return output.float()

        def loss(batch: Batch) -> Tensor:
            return ready.head.label_loss(logits(batch), batch.targets)

        result = ready.stage(model, loss, logits, name=_BITS)
        with ready.output() as folder:
            weights = _write_model(folder, model, ready)
            return ready.write_report(folder, weights, [result], teacher=None, packed=None)


def _write_model(folder: Path, model: BertForSequenceClassification, ready: Session) -> Path:
    """Writes the checkpoint and gives the file of its weights."""
    names = dict(enumerate(ready.labels))
    if names:
        model.config.id2label = names
        model.config.label2id = {name: index for index, name in names.items()}
    model.config.problem_type = "single_label_classification" if names else "regression"
    # The probabilities of training are no property of what was trained.
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(model.config, key, ready.folder.settings.get(key, 0.1))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # Not by transformers, which shows a bar and gives nobody else the right to read the file.
    weights = folder / "model.safetensors"
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    weights.write_bytes(to_safetensors(state, metadata={"format": "pt"}))
    ready.folder.write_tokenizer(folder)
    return weights
