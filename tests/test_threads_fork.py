"""Models in other processes and threads: pickle, spawn, fork, sharing, and Ctrl-C."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import environment

import bitinfer
from bitinfer.errors import FormatError

Packed = Callable[..., Path]
TEXTS = ["a b c", "", "aab aac aad", "q r s t u v", "z"] * 8
# Python 3.12 warns of any fork beside threads; being safe there is what is tested here.
FORK_WARNING = "ignore:.*multi-threaded.*fork:DeprecationWarning"


def predict_in_child(model: bitinfer.BitModel, texts: list[str]) -> np.ndarray:
    return model.logits(texts)


@pytest.fixture(scope="module")
def model(packed: Packed) -> bitinfer.BitModel:
    return bitinfer.load(packed(), num_threads=2)


def test_pickle(model: bitinfer.BitModel) -> None:
    data = pickle.dumps(model)
    assert len(data) < 2000  # the path, not the weights
    for twin in (pickle.loads(data), copy.deepcopy(model)):
        assert twin.logits(TEXTS).tobytes() == model.logits(TEXTS).tobytes()
        assert twin.info() == model.info()


def test_pickle_keeps_options(packed: Packed) -> None:
    isa = bitinfer.available_isas()[-1]
    twin = pickle.loads(pickle.dumps(bitinfer.load(packed(), num_threads=1, isa=isa)))
    assert twin.info()["isa"] == isa
    assert twin.info()["num_threads"] == 1


def test_pickle_works_from_another_folder(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed().parent)
    data = pickle.dumps(bitinfer.load(packed().name))
    monkeypatch.chdir(tmp_path)
    pickle.loads(data)


def test_pickle_of_a_converted_checkpoint(packed: Packed, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(packed().with_suffix(""), folder)
    model = bitinfer.load(folder)
    data = pickle.dumps(model)
    assert pickle.loads(data).logits(TEXTS).tobytes() == model.logits(TEXTS).tobytes()
    words = (folder / "vocab.txt").read_text().split("\n")
    words[5:7] = words[6:4:-1]
    (folder / "vocab.txt").write_text("\n".join(words))  # the weights are the same
    with pytest.raises(FormatError, match="not the model that was pickled"):
        pickle.loads(data)


def test_pickle_needs_the_same_file(packed: Packed, tmp_path: Path) -> None:
    path = tmp_path / "m"
    shutil.copy(packed(), path)
    data = pickle.dumps(bitinfer.load(path))
    shutil.copy(packed(seed=2), path)
    with pytest.raises(FormatError, match="not the model that was pickled"):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


def test_spawn(model: bitinfer.BitModel) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(predict_in_child, (model, TEXTS))
    assert found.tobytes() == model.logits(TEXTS).tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings(FORK_WARNING)
def test_fork_after_use(model: bitinfer.BitModel) -> None:
    expected = model.logits(TEXTS)  # the parent's threads have run
    context: Any = multiprocessing.get_context("fork")
    for _ in range(3):
        with context.Pool(2) as pool:
            jobs = [pool.apply_async(predict_in_child, (model, TEXTS)) for _ in range(4)]
            for job in jobs:
                assert job.get(timeout=60).tobytes() == expected.tobytes()
        assert model.logits(TEXTS).tobytes() == expected.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings(FORK_WARNING)
def test_fork_while_other_threads_predict(model: bitinfer.BitModel) -> None:
    expected = model.logits(TEXTS)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            model.logits(TEXTS)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert run_forked(lambda: model.logits(TEXTS).tobytes() == expected.tobytes())
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def run_forked(check: Callable[[], bool]) -> bool:
    """What `check` returns in a forked child; False if the child hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_many_threads_share_a_model(model: bitinfer.BitModel) -> None:
    expected = [model.logits(TEXTS[i:]).tobytes() for i in range(8)]
    vectors = [model.encode(TEXTS[i:], pooling="mean").tobytes() for i in range(8)]
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                if model.logits(TEXTS[number:], batch_size=7).tobytes() != expected[number]:
                    wrong.append(number)
                if model.encode(TEXTS[number:], pooling="mean").tobytes() != vectors[number]:
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_number_of_threads_does_not_matter(packed: Packed) -> None:
    expected = bitinfer.load(packed(), num_threads=1).logits(TEXTS)
    for threads in (2, 3, 8):
        found = bitinfer.load(packed(), num_threads=threads).logits(TEXTS)
        assert found.tobytes() == expected.tobytes()


INTERRUPTED = """
import itertools, sys, bitinfer
model = bitinfer.load(sys.argv[1], num_threads=2)
model.predict("a b c")
print("ready", flush=True)
try:
    model.predict(itertools.repeat("a b c d e f g"))  # never ends by itself
except KeyboardInterrupt:
    assert model.predict("a b c").score > 0  # still usable
    print("interrupted", flush=True)
"""


def run_script(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
@pytest.mark.usefixtures("children_take_ctrl_c")
def test_ctrl_c_stops_a_long_predict(packed: Packed) -> None:
    with run_script(INTERRUPTED, str(packed())) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()  # or a test that fails would wait for it
    assert output == "interrupted\n"
    assert process.returncode == 0


COUNT_THREADS = """
import os, sys, bitinfer
model = bitinfer.load(sys.argv[1], num_threads=int(sys.argv[2]))
model.predict(["a b c", "d e"] * 40)
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads under /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_threads_than_asked_for(
    packed: Packed, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # NumPy's own
    with run_script(COUNT_THREADS, str(packed()), str(threads)) as process:
        output, _ = process.communicate(timeout=60)
    assert int(output) <= threads
