"""ONNX Runtime, on the graph that its own optimizer has fused; full texts, so without a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..artefacts import path
from .float_bert import FloatBert


class OnnxRuntime(FloatBert):
    _session: onnxruntime.InferenceSession
    _inputs: dict[str, NDArray[np.int64]]

    def take(self, ids: NDArray[np.int64]) -> str:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        for name, size in zip(("batch", "length"), ids.shape, strict=True):
            options.add_free_dimension_override_by_name(name, size)
        self._session = onnxruntime.InferenceSession(
            str(self._file()), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {"input_ids": ids}
        return ""

    def call(self) -> Any:
        return self._session.run(None, self._inputs)[0]

    def file_bytes(self) -> int:
        return self._file().stat().st_size

    def _file(self) -> Path:
        return path(self._model, f"onnx/{self.kind}.onnx")
