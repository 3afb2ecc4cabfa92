"""OpenVINO: static shapes, and for every batch the settings that were the fastest for it.

On the CPU a batch can run at once on all threads, or cut into parts that run beside each other on
one thread each; what is not int8 can be bf16 or float32.  ``prepare`` tries what there is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..artefacts import FOLDER, path, random_ids
from ..contestants import Check
from .float_bert import FloatBert

Ids = NDArray[np.int64]

_TRIALS = 3  # timed calls for each variant, the fastest counts
_PATIENCE = 2.0  # seconds after which a variant has had its trial
_BUCKETS = 4
_RAGGED_TOLERANCE = 0.1


@dataclass(frozen=True)
class Variant:
    hint: str
    streams: int
    parts: int

    def __str__(self) -> str:
        streams = f"{self.streams} streams x {self.parts} parts" if self.streams > 1 else "1 stream"
        return f"{self.hint}, {streams}"


class Run:
    """Compiled models with their inputs; a call runs all, as many at a time as it has streams."""

    def __init__(
        self,
        file: str,
        groups: list[list[Ids]],
        variant: Variant,
        threads: int,
        *,
        reshape: bool = True,
    ) -> None:
        self.variant = variant
        core = openvino.Core()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": variant.hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": variant.streams,
            "PERFORMANCE_HINT": "LATENCY" if variant.streams == 1 else "THROUGHPUT",
        }
        if not reshape:  # only the start is faster for it
            settings["CACHE_DIR"] = str(FOLDER / "openvino-cache")
        compiled: dict[tuple[int, ...], openvino.CompiledModel] = {}
        self._requests = []
        for inputs in groups:
            shape = inputs[0].shape
            if shape not in compiled:
                network: Any = file
                if reshape:
                    network = core.read_model(file)
                    network.reshape({port: list(shape) for port in network.inputs})
                compiled[shape] = core.compile_model(network, "CPU", settings)
            request = compiled[shape].create_infer_request()
            for index, array in enumerate(inputs):
                request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(array)))
            self._requests.append(request)

    def __call__(self) -> NDArray[np.float32]:
        if self.variant.streams == 1:
            for request in self._requests:
                request.infer()
        else:
            for request in self._requests:
                request.start_async()
            for request in self._requests:
                request.wait()
        outputs = [request.get_output_tensor(0).data for request in self._requests]
        return np.concatenate(outputs)


class OpenVino(FloatBert):
    """Float32, bf16 or int8."""

    _run: Run

    def prepare(self, cell: dict[str, Any]) -> str:
        if not cell.get("first"):
            return super().prepare(cell)
        # The first answer of a process cannot wait for trials.
        self._model = cell["model"]
        hint = "f32" if self.kind == "fp32" else "bf16"
        file = self._file().with_name(f"first-{self._file().name}")
        ids = np.stack(random_ids(cell["lengths"]))
        self._run = Run(str(file), [[ids]], Variant(hint, 1, 1), self.threads, reshape=False)
        return str(self._run.variant)

    def take(self, ids: Ids) -> str:
        file = str(self._file())
        self._run = _fastest(
            Run(
                file, [[part] for part in np.array_split(ids, variant.parts)], variant, self.threads
            )
            for variant in self._variants(len(ids))
        )
        return str(self._run.variant)

    def call(self) -> Any:
        return self._run()

    def file_bytes(self) -> int:
        return self._file().with_suffix(".bin").stat().st_size

    def _file(self) -> Path:
        return path(self._model, f"openvino/{'int8' if self.kind == 'int8' else 'fp32'}.xml")

    def _variants(self, batch: int) -> Iterator[Variant]:
        hints = {"int8": ("bf16", "f32"), "bf16": ("bf16",), "fp32": ("f32",)}[self.kind]
        for hint in hints:
            yield Variant(hint, 1, 1)
        streams = self.threads
        if streams > 1:
            for parts in (streams, 2 * streams):
                if parts <= batch:
                    yield Variant(hints[0], streams, parts)


def _fastest(runs: Iterator[Run]) -> Run:
    """By trial; the others are given back at once."""
    best, fewest = None, float("inf")
    for run in runs:
        seconds = _trial(run)
        if seconds < fewest:
            best, fewest = run, seconds
    assert best is not None
    return best


def _trial(run: Run) -> float:
    run()
    begin = time.perf_counter()
    taken: list[float] = []
    while not taken or (len(taken) < _TRIALS and time.perf_counter() - begin < _PATIENCE):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


class Padded(OpenVino):
    """Texts of different length, all padded to the longest."""

    def prepare(self, cell: dict[str, Any]) -> str:
        self._model = cell["model"]
        return self._take_texts(random_ids(cell["lengths"]))

    def _take_texts(self, texts: list[Ids]) -> str:
        self._texts = self._sorted(texts)
        file = str(self._file())
        self._run = _fastest(
            Run(file, self._groups(variant.parts), variant, self.threads)
            for variant in self._variants(len(texts))
        )
        return str(self._run.variant)

    def _sorted(self, texts: list[Ids]) -> list[Ids]:
        return texts

    def _groups(self, parts: int) -> list[list[Ids]]:
        longest = max(map(len, self._texts))
        return [_padded(part, longest) for part in _split(self._texts, parts)]

    def _file(self) -> Path:
        return path(self._model, "openvino/masked-int8.xml")

    def check(self) -> Check:
        """Against texts one by one, which need no padding; int8 rounds both, each in its way."""
        self._model = "base"
        self._take_texts(random_ids([32, 20, 9, 32, 27, 11]))
        alone = [_padded([text], len(text)) for text in self._texts]
        wanted = Run(str(self._file()), alone, Variant("f32", 1, 1), self.threads)()
        difference = float(np.linalg.norm(self.call() - wanted) / np.linalg.norm(wanted))
        return Check("itself, text by text", difference, _RAGGED_TOLERANCE)


class Buckets(Padded):
    """Sorted by length and cut into groups, each padded to its own longest."""

    def _sorted(self, texts: list[Ids]) -> list[Ids]:
        return sorted(texts, key=len, reverse=True)

    def _groups(self, parts: int) -> list[list[Ids]]:
        groups = _split(self._texts, max(_BUCKETS, parts))
        return [_padded(group, max(map(len, group))) for group in groups]


def _split(texts: list[Ids], parts: int) -> list[list[Ids]]:
    """Of equal size, but for a rest."""
    ends = [len(texts) * index // parts for index in range(parts + 1)]
    return [texts[start:end] for start, end in pairwise(ends) if start < end]


def _padded(texts: list[Ids], length: int) -> list[Ids]:
    """Ids and mask."""
    ids = np.stack([np.pad(text, (0, length - len(text))) for text in texts])
    mask = np.stack([np.arange(length) < len(text) for text in texts])
    return [ids, mask.astype(np.int64)]
