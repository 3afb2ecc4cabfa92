"""OpenVINO: static shapes, and for every batch the settings that were the fastest for it.

On the CPU a batch can run at once on all threads, or cut into parts, down to single texts, that run
beside each other on one thread each; what is not int8 can be bf16 or float32.  ``prepare`` tries
what there is, and holds all variants to the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..artefacts import FIRST, FOLDER, path, ragged_ids, random_ids, reference
from ..contestants import Check
from .float_bert import TOLERANCES, FloatBert, difference

Ids = NDArray[np.int64]

_TRIALS = 3  # timed calls for each variant, the fastest counts
_PATIENCE = 2.0  # seconds after which a variant has had its trial
_HOPELESS = 1.5  # times the fastest so far: no further trial
_HOPELESS_FIRST = 2.0  # the same for its first call, which warms up
_AGREE = 0.15  # relative difference of the answers of two variants that is let pass
_BUCKETS, _MOST_BUCKETS = 4, 8
_STEP = 8  # to which lengths are rounded up, text by text: fewer shapes to compile


@dataclass(frozen=True)
class Variant:
    hint: str
    streams: int
    parts: int

    def __str__(self) -> str:
        streams = f"{self.streams} streams" if self.streams > 1 else "1 stream"
        return f"{self.hint}, {streams}" + (f" x {self.parts} parts" if self.parts > 1 else "")


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

    def check(self) -> Check:
        """Also of the file with which the start is measured; the worse answer counts."""
        checks = [super().check()]
        self.prepare({"model": "base", "lengths": [FIRST[1]] * FIRST[0], "first": True})
        apart = difference(self.call(), reference("base", "first.npy"))
        checks.append(Check(checks[0].reference, apart, checks[0].tolerance))
        return max(checks, key=lambda check: check.difference)

    def file_bytes(self) -> int:
        return self._file().with_suffix(".bin").stat().st_size

    def _file(self) -> Path:
        return path(self._model, f"openvino/{'int8' if self.kind == 'int8' else 'fp32'}.xml")

    def _variants(self, batch: int) -> Iterator[Variant]:
        for hint in self._hints():
            for parts in _doubled(1, batch if self.threads == 1 else 1):
                yield Variant(hint, 1, parts)
            if self.threads > 1:
                for parts in _doubled(self.threads, batch):
                    yield Variant(hint, self.threads, parts)

    def _hints(self) -> tuple[str, ...]:
        return {"int8": ("bf16", "f32"), "bf16": ("bf16",), "fp32": ("f32",)}[self.kind]


def _doubled(least: int, most: int) -> Iterator[int]:
    """``least``, twice that and so on, and ``most``."""
    while least < most:
        yield least
        least *= 2
    if least == most:
        yield most


def _fastest(runs: Iterable[Run]) -> Run:
    """By trial; the others are given back at once.

    Raises:
        ValueError: One gives another answer than the first.
    """
    best, fewest, wanted = None, float("inf"), None
    for run in runs:
        begin = time.perf_counter()
        answer = run()
        first = time.perf_counter() - begin
        wanted = answer if wanted is None else wanted
        apart = difference(answer, wanted)
        if not apart <= _AGREE:
            raise ValueError(f"{run.variant}: {apart:.2g} from the answer of the first variant")
        if first > _HOPELESS_FIRST * fewest:
            continue
        seconds = _trial(run, fewest)
        if seconds < fewest:
            best, fewest = run, seconds
    assert best is not None
    return best


def _trial(run: Run, fewest: float) -> float:
    begin = time.perf_counter()
    taken: list[float] = []
    while not taken or (len(taken) < _TRIALS and time.perf_counter() - begin < _PATIENCE):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
        if min(taken) > _HOPELESS * fewest:
            break
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
        """Against texts one by one, which need no padding."""
        self._model = "base"
        texts = ragged_ids()
        self._take_texts(texts)
        order = np.argsort([-len(text) for text in texts], kind="stable")
        wanted = reference("base", "ragged.npy")
        if self._texts is not texts:  # sorted
            wanted = wanted[order]
        apart = difference(self.call(), wanted)
        return Check("PyTorch in float64, text by text", apart, TOLERANCES[self.kind])


class Buckets(Padded):
    """Sorted by length and cut into groups, each padded to its own longest."""

    def _sorted(self, texts: list[Ids]) -> list[Ids]:
        return sorted(texts, key=len, reverse=True)  # stable

    def _variants(self, batch: int) -> Iterator[Variant]:
        return super()._variants(min(batch, _MOST_BUCKETS))

    def _groups(self, parts: int) -> list[list[Ids]]:
        groups = _split(self._texts, max(_BUCKETS, parts))
        return [_padded(group, max(map(len, group))) for group in groups]


class OneByOne(Buckets):
    """Hardly padded: a request a text, the longest first, each on one thread or each on all."""

    def _variants(self, batch: int) -> Iterator[Variant]:
        for hint in self._hints():
            for streams in sorted({self.threads, 1}, reverse=True):
                yield Variant(hint, streams, batch)

    def _groups(self, parts: int) -> list[list[Ids]]:
        return [_padded([text], -(-len(text) // _STEP) * _STEP) for text in self._texts]


def _split(texts: list[Ids], parts: int) -> list[list[Ids]]:
    """Of equal size, but for a rest."""
    ends = [len(texts) * index // parts for index in range(parts + 1)]
    return [texts[start:end] for start, end in pairwise(ends) if start < end]


def _padded(texts: list[Ids], length: int) -> list[Ids]:
    """Ids and mask."""
    ids = np.stack([np.pad(text, (0, length - len(text))) for text in texts])
    mask = np.stack([np.arange(length) < len(text) for text in texts])
    return [ids, mask.astype(np.int64)]
