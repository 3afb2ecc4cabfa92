"""The binarized network as its published code runs it: floats that take two values.

Weights are multiplied with their scales once instead of in every call, which the published code
does not do: this is what it could reach without packing bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitinfer.description import Description, matrix_shapes
from bitinfer.families import read_checkpoint
from bitinfer.reference import Reference

from ..artefacts import checked_ids, path, random_ids
from ..contestants import Check, Contestant


class FakeQuantized(Contestant):
    _loaded: str | None = None
    _model: Reference
    _ids: Tensor

    def prepare(self, cell: dict[str, Any]) -> str:
        torch.set_num_threads(self.threads)
        if self._loaded != cell["model"]:
            self._loaded = cell["model"]
            description = read_checkpoint(path(cell["model"], "checkpoint"))
            self._model = _Cached(description)
        self._ids = torch.from_numpy(np.stack(random_ids(cell["lengths"])))
        return ""

    def call(self) -> Any:
        with torch.inference_mode():
            return self._model(self._ids).logits

    def check(self) -> Check:
        """One layer: after some, float32 is far from float64 in any binarized network."""
        ids = checked_ids()
        self.prepare({"model": "base", "lengths": [ids.shape[1]] * ids.shape[0]})
        exact = Reference(read_checkpoint(path("base", "checkpoint")))
        with torch.inference_mode():
            found, wanted = self._model(ids).hidden[1].double(), exact(ids).hidden[1]
        difference = float((found - wanted).norm() / wanted.norm())
        return Check("`bitinfer.reference` in float64, after one layer", difference, 0.05)

    def file_bytes(self) -> int:
        assert self._loaded is not None
        return path(self._loaded, "checkpoint/pytorch_model.bin").stat().st_size


class _Cached(Reference):
    def __init__(self, description: Description) -> None:
        super().__init__(description, dtype=torch.float32)
        linears = matrix_shapes(description.config).keys() - {"embeddings.word"}
        codes = {name: self.tensors[f"{name}.codes"] for name in linears}
        self._weights = {
            name: (self.tensors[f"{name}.scale"][:, None] * each).contiguous()
            for name, each in codes.items()
        }

    def apply(self, name: str, coded: Any) -> Tensor:
        bias = self.tensors[f"{name}.bias"]
        return torch.nn.functional.linear(coded.values(), self._weights[name], bias)
