"""What a model keeps between calls is bounded, and does not grow with their number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from children import environment

import bitinfer

_MANY_CALLS = """
import gc, sys
import bitinfer
model = bitinfer.load("sst2", num_threads=2)
def call(i):
    i %= 1000  # no new words: a table that grew, or was emptied, would hide what is lost
    text = f"a warm and funny film, number {i} " * (1 + i % 9)
    if i % 50 == 0:
        model.predict([text] * (i // 50 % 30), text_pairs=[f"second {i}"] * (i // 50 % 30))
    elif i % 50 == 1:
        model.encode([text, "x"], pooling="mean")
    elif i % 50 == 2:
        model.forward([[101, i % 1000, 102] * 9] * 3)
    elif i % 50 == 3:
        try:
            model.predict([text, None])
        except TypeError:
            pass
    else:
        model.predict(text, top_k=None)
def objects():
    gc.collect()
    return sys.getallocatedblocks()
def resident():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmRSS"].split()[0])
model.predict(["a warm and funny film " * 200] * 64, max_length=512)
for i in range(1000):
    call(i)
before = objects(), resident()
for i in range(1000, 4000):
    call(i)
print(objects() - before[0], resident() - before[1])
"""


def bound(model: bitinfer.BitModel, threads: int) -> int:
    """As `BitModel.info` documents it."""
    config = model.config
    sizes = [config[key] for key in ("positions", "hidden", "intermediate")]
    positions, hidden, intermediate = (int(size) for size in sizes)
    return threads * (positions + 128) * (10 * hidden + intermediate // 4)


@pytest.mark.parametrize("threads", [1, 3])
def test_workspace_is_bounded_and_shown(threads: int) -> None:
    model = bitinfer.load("sst2", num_threads=threads)
    assert model.info()["workspace_bytes"] == 0
    long = "good " * 600
    sizes = []
    for texts in (["good"], [long], [long] * 40, [*["good " * 100] * 9, long] * 8, ["a b"] * 3000):
        model.predict(texts, max_length=512, batch_size=3000)
        sizes.append(model.info()["workspace_bytes"])
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < sizes[-1] <= bound(model, threads)
    for texts in ([long] * 80, [long, "good"] * 100):
        model.encode(texts, max_length=512, batch_size=200)
    assert model.info()["workspace_bytes"] <= bound(model, threads)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_stays_flat() -> None:
    """`benchmarks/footprint.py --calls` does the same for longer."""
    command = [sys.executable, "-c", _MANY_CALLS]
    run = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=True)
    # Objects are counted: small ones take what was freed after loading, 2 MB, before memory grows.
    objects, kilobytes = map(int, run.stdout.split())
    assert objects < 1000  # 3000 calls that lost one each would show
    assert kilobytes < 1000  # ... or 0.4 kB outside Python
