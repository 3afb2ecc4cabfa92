"""What else goes on in the process must change neither results nor how the process ends."""

from __future__ import annotations

import subprocess
import sys

import expected
import numpy as np
import parity
import pytest
from children import environment

from bitinfer.conversion.packing import to_metadata, to_tensors
from bitinfer.runtime.engine import make_engine

_BUSY_AT_EXIT = """
import threading, time
import bitinfer
model = bitinfer.load("sst2", num_threads={threads})
texts = ["a warm and funny film"] * 2000
def work():
    while True:
        model.predict(texts, batch_size=2000)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
print("leaving")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_interpreter_ends_while_daemon_threads_are_busy(threads: int) -> None:
    script = _BUSY_AT_EXIT.format(threads=threads)
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"leaving\n", b"")


def test_flushed_denormals_change_nothing() -> None:
    """Another library may have set this for the thread; 1e-40 is denormal as float32."""
    torch = pytest.importorskip("torch")
    description = expected.description_of("tiny")
    tensors = to_tensors(description)
    tensors["embeddings.position"] = np.full_like(tensors["embeddings.position"], 1e-40)
    tensors["embeddings.token_type"] = np.zeros_like(tensors["embeddings.token_type"])
    tensors["embeddings.word.scale"] = np.zeros_like(tensors["embeddings.word.scale"])
    tensors["embeddings.norm.bias"] = np.zeros_like(tensors["embeddings.norm.bias"])
    shift = "layer.0.query.shift"
    tensors[shift] = np.resize(np.float32([1e-40, -1e-40]), tensors[shift].shape)

    def run() -> dict[str, parity.Array]:
        model = make_engine(to_metadata(description), tensors, num_threads=1)
        return parity.trace(model, np.zeros(3, np.int32))

    normal = run()
    assert set(np.unique(normal["codes.layer0.query.in"])) == {-1, 1}
    assert torch.set_flush_denormal(True)
    try:
        flushed = run()
    finally:
        torch.set_flush_denormal(False)
    for name, values in normal.items():
        assert flushed[name].tobytes() == values.tobytes(), name
