"""Our own engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import bitinfer
from bitinfer.runtime.text import TokenBatch

from ..artefacts import checked_ids, path, ragged_ids, random_ids
from ..contestants import Check, Contestant


class Bitinfer(Contestant):
    """From token ids to logits, without padding; the kind is an instruction set, or the best."""

    _loaded: str | None = None
    _file: Path
    _tokens: TokenBatch
    _model: bitinfer.BitModel

    def prepare(self, cell: dict[str, Any]) -> str:
        if self._loaded != cell["model"]:
            self._loaded = cell["model"]
            self._file = path(cell["model"], "packed.safetensors")
            self._model = bitinfer.load(self._file, num_threads=self.threads, isa=self.kind or None)
        lengths = cell["lengths"]
        self._tokens = TokenBatch(
            ids=np.concatenate(random_ids(lengths)).astype(np.int32),
            positions=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            segments=np.zeros(sum(lengths), np.int32),
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
        )
        return ""

    def call(self) -> Any:
        return self._model._run(self._tokens, hidden=False)["logits"]

    def check(self) -> Check:
        """Of texts of one length and of several, each against the reference alone."""
        import torch

        from bitinfer.families import read_checkpoint
        from bitinfer.reference import Reference

        exact = Reference(read_checkpoint(path("base", "checkpoint")))
        differences = []
        for texts in (list(checked_ids()), ragged_ids()):
            self.prepare({"model": "base", "lengths": [len(ids) for ids in texts]})
            with torch.inference_mode():
                wanted = np.concatenate([exact(ids[None]).logits.numpy() for ids in texts])
            differences.append(float(np.abs(self.call() - wanted).max()))
        return Check("`bitinfer.reference` in float64", max(differences), 1e-12)

    def file_bytes(self) -> int:
        return self._file.stat().st_size
