"""The binarized network as its published code runs it: floats that take two values.

Weights are multiplied with their scales once instead of in every call, which the published code
does not do: this is what it could reach without packing bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitinfer.families import read_checkpoint
from bitinfer.reference import Reference, _BinaryLinear

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
            self._model = _cached(Reference(description, dtype=torch.float32).eval())
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


def _cached(model: Reference) -> Reference:
    for module in model.modules():
        if isinstance(module, _BinaryLinear):
            _cache(module)
    return model


def _cache(linear: _BinaryLinear) -> None:
    weight = (linear.codes.T * linear.scale).T.contiguous()

    def forward(coded: Any) -> Tensor:
        return torch.nn.functional.linear(coded.values(), weight, linear.bias)

    linear.forward = forward  # type: ignore[method-assign]
