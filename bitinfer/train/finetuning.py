"""Fine-tuning: a BERT gets a classifier and learns a task, in float."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bitinfer.train.losses import label_loss
from bitinfer.train.loop import LoopOptions, Run, train as run_stage
from bitinfer.train.options import FINETUNE_EPOCHS, FINETUNE_RATE, check_budget
from bitinfer.train.session import Columns, evaluate, open_session
from bitinfer.train.teacher import open_folder, read_model

def main(encoder, train, dev, output, *, epochs, seed=0, batch_size=32, learning_rate=FINETUNE_RATE, dropout=0.1, evaluate_every=500, labels=None, resume=False):
    folder = open_folder(encoder)
    session = open_session(folder, train, dev, Columns(None, None, None), labels=labels, regression=False, max_length=None, bf16=None)
    torch.manual_seed(seed)
    model = read_model(folder, outputs=session.task.outputs, head=False, dropout=dropout).to(session.device)
    dense = model.bert.pooler.dense
    torch.nn.init.normal_(dense.weight, std=0.02); torch.nn.init.zeros_(dense.bias)
    def logits(batch) -> Tensor:
        with torch.autocast(session.device.type, session.dtype, enabled=session.dtype != torch.float32):
            return model(batch.ids, attention_mask=batch.mask.long(), token_type_ids=batch.segments).logits.float()
    run = Run(Path(str(output)+".partial"), {}, resume=resume)
    r = run_stage(model, lambda b: label_loss(logits(b), b, session.task), lambda: evaluate(logits, session.dev, session.device), session.train,
        name="32-32-32", budget=check_budget(None, None, epochs, default_epochs=3),
        options=LoopOptions(batch_size, learning_rate, 0.1, 1.0, 0.01, 1.0, evaluate_every, seed), run=run)
    print(r)
    model.save_pretrained(output)
if __name__ == "__main__":
    import sys
    main(*sys.argv[1:5], epochs=float(sys.argv[5]))
