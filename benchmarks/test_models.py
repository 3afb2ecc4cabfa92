"""Whole models from token ids to logits, by batch and length, and `predict` from text to labels.

`base` is a BERT-base (12 layers x 768) of random weights, whose speed is that of trained ones;
`sst2` is the built-in model (6 layers x 384).  Sequences have full length.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from interleaved import Limit, measure
from models import Subject, engine_call, float_bert, float_reference, operations, random_ids

import bitinfer
from bitinfer import _core

CPUS = _core.resolve_num_threads(None)
ISA = _core.resolve_isa(None)
HAS_TORCH = importlib.util.find_spec("torch") is not None
BATCHES = [(1, 32), (1, 128), (8, 128), (32, 128)]
WITH_FLOAT = [(1, 32), (1, 128), (8, 128)]  # float32 takes seconds beyond
WITH_REFERENCE = [(1, 128)]
SENTENCE = "a gripping story , told with warmth and a good deal of wit , that never once lets go"


@pytest.mark.parametrize("shape", BATCHES, ids=lambda shape: "{}x{}".format(*shape))
@pytest.mark.parametrize("threads", sorted({1, CPUS}))
@pytest.mark.parametrize("name", ["sst2", "base"])
@pytest.mark.benchmark(group="models")
def test_model(
    benchmark: Any,
    subject: Callable[[str], Subject],
    name: str,
    threads: int,
    shape: tuple[int, int],
) -> None:
    chosen = subject(name)
    model = bitinfer.load(chosen.path, num_threads=threads)
    config: dict[str, Any] = model.config
    ids = random_ids(config, *shape)
    call = engine_call(model, ids)
    plain = engine_call(bitinfer.load(chosen.path, num_threads=1, isa="portable"), ids[:1])
    np.testing.assert_array_equal(call()[:1], plain())
    rivals = {}
    if HAS_TORCH and shape in WITH_FLOAT:
        rivals["torch float32"] = float_bert(config, ids, threads)
    if chosen.description is not None and shape in WITH_REFERENCE:
        rivals["binarized float32"] = float_reference(chosen.description, ids, threads)
    measure(
        benchmark,
        call,
        operations=operations(config, *shape),
        limit=Limit(ISA, threads),
        rivals=rivals,
        seconds=3,
        model=name,
        batch=shape[0],
        length=shape[1],
        isa=ISA,
        threads=threads,
    )


@pytest.mark.parametrize("count", [1, 32])
@pytest.mark.parametrize("threads", sorted({1, CPUS}))
@pytest.mark.benchmark(group="predict")
def test_predict(benchmark: Any, threads: int, count: int) -> None:
    model = bitinfer.load("sst2", num_threads=threads)
    texts: Any = SENTENCE if count == 1 else [SENTENCE] * count
    first = model.predict(texts) if count == 1 else model.predict(texts)[0]
    assert first == bitinfer.load("sst2", isa="portable").predict(SENTENCE)
    tokens = model._tokenizer.encode([(SENTENCE, None)], max_length=64)
    pairs = [(SENTENCE, None)] * count
    measure(
        benchmark,
        lambda: model.predict(texts),
        operations=operations(model.config, count, len(tokens.ids)),
        rivals={"tokenizer": lambda: model._tokenizer.encode(pairs, max_length=64)},
        seconds=1,
        model="sst2",
        batch=count,
        length=len(tokens.ids),
        isa=ISA,
        threads=threads,
    )
