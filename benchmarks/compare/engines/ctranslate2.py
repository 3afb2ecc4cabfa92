"""CTranslate2: the encoder is theirs, the classifier on its pooled output is one small product."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artefacts import path
from .float_bert import FloatBert

# It has kernels for AVX-512 and takes those for AVX2 unless told.
with open("/proc/cpuinfo", encoding="utf-8") as _file:
    if "avx512vl" in _file.read():
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")

import ctranslate2


class CTranslate2(FloatBert):
    _loaded: str | None = None
    _encoder: Any
    _head: dict[str, NDArray[np.float32]]
    _ids: Any
    _lengths: Any

    def take(self, ids: NDArray[np.int64]) -> str:
        if self._loaded != self._model:
            self._loaded = self._model
            folder = path(self._model, "ctranslate2")
            self._encoder = ctranslate2.Encoder(
                str(folder), compute_type="int8", inter_threads=1, intra_threads=self.threads
            )
            with np.load(folder / "head.npz") as head:
                self._head = dict(head)
        lengths = np.full(len(ids), ids.shape[1], np.int32)
        self._ids = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        self._lengths = ctranslate2.StorageView.from_array(lengths)
        return ""

    def call(self) -> Any:
        pooled = self._encoder.forward_batch(self._ids, lengths=self._lengths).pooler_output
        return np.array(pooled) @ self._head["weight"].T + self._head["bias"]

    def file_bytes(self) -> int:
        return path(self._model, "ctranslate2/model.bin").stat().st_size
