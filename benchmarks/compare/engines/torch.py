"""PyTorch, eager.

``torch.compile`` was tried: nothing for float32, some 15 % for bf16 at 1 x 128, after half a minute
of compiling for each shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertForSequenceClassification

from ..artefacts import path
from .float_bert import FloatBert

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Torch(FloatBert):
    _loaded: str | None = None
    _bert: Any
    _ids: torch.Tensor

    def take(self, ids: NDArray[np.int64]) -> str:
        torch.set_num_threads(self.threads)
        if self._loaded != self._model:
            self._loaded = self._model
            self._bert = BertForSequenceClassification.from_pretrained(
                path(self._model, "float"), dtype=_DTYPES[self.kind], attn_implementation="sdpa"
            ).eval()
        self._ids = torch.from_numpy(ids)
        return ""

    def call(self) -> Any:
        with torch.inference_mode():
            return self._bert(input_ids=self._ids).logits.float()

    def file_bytes(self) -> int:
        return path(self._model, "float/model.safetensors").stat().st_size
