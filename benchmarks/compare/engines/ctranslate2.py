"""CTranslate2: the encoder is theirs, the classifier on its pooled output is one small product."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artefacts import path
from .float_bert import FloatBert


def _package(kind: str) -> Any:
    """The library reads the variable when it is loaded: one instruction set a process."""
    # It has kernels for AVX-512 and takes those for AVX2 unless told.
    has_avx512 = "avx512vl" in Path("/proc/cpuinfo").read_text("utf-8")
    wanted = "AVX512" if has_avx512 and kind != "avx2" else "AVX2"
    os.environ["CT2_FORCE_CPU_ISA"] = wanted
    import ctranslate2

    return ctranslate2


class CTranslate2(FloatBert):
    """The kind is ``int8``, or ``avx2`` for the same on processors without AVX-512."""

    _loaded: str | None = None
    _encoder: Any
    _head: dict[str, NDArray[np.float32]]
    _ids: Any
    _lengths: Any

    def take(self, ids: NDArray[np.int64]) -> str:
        ctranslate2 = _package(self.kind)
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
