"""Loading: what runs beside what, which error comes first, and that nothing is left behind."""

from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import environment

import bitinfer
import bitinfer.runtime.loading
from bitinfer.errors import FormatError, InputError
from bitinfer.runtime.background import Background
from bitinfer.runtime.format import PackedFile, open_packed, read_packed, write_packed
from bitinfer.runtime.origin import find_model

Packed = Callable[..., Path]


@pytest.mark.parametrize("threaded", [True, False])
def test_background_gives_result_or_error(threaded: bool) -> None:
    before = threading.active_count()
    with Background(lambda: 6 * 7, threaded=threaded) as answer:
        assert answer.result() == 42
    with pytest.raises(ZeroDivisionError), Background(lambda: 1 / 0, threaded=threaded) as answer:
        answer.result()
    with Background(lambda: 1 / 0, threaded=threaded):
        pass  # nobody asked
    assert threading.active_count() == before


def test_background_is_over_when_the_block_is_left() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(60)
        done.set()

    def interrupted() -> None:
        with Background(work, threaded=True):
            go.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done.is_set()


def test_background_is_over_after_more_interrupts() -> None:
    """As by Ctrl-C, pressed again while the first one waits for the thread."""
    left = [3]
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(60)
        time.sleep(0.05)
        done.set()

    def interrupt(number: int, frame: object) -> None:
        if left[0] == 0:
            go.set()
            return
        left[0] -= 1
        raise KeyboardInterrupt

    def interrupted() -> None:
        with Background(work, threaded=True):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            go.wait(60)

    before = threading.active_count()
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert done.is_set()
        assert threading.active_count() == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_background_without_its_block_runs_the_call_here() -> None:
    caller = []
    answer = Background(lambda: caller.append(threading.current_thread()), threaded=True)
    answer.result()
    assert caller == [threading.current_thread()]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [ImportError, KeyboardInterrupt])
def test_the_file_is_closed_if_the_import_of_the_model_fails(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, threads: int, error: type[BaseException]
) -> None:
    opened = []

    def record(path: str) -> PackedFile:
        opened.append(open_packed(path))
        return opened[0]

    class Fail:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "bitinfer.runtime.model":
                raise error

    monkeypatch.setattr(bitinfer.runtime.loading, "open_packed", record)
    monkeypatch.delitem(sys.modules, "bitinfer.runtime.model", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Fail(), *sys.meta_path])
    with pytest.raises(error):
        bitinfer.runtime.loading.load_origin(find_model(packed()), threads)
    assert opened[0]._file.closed


def test_background_does_without_a_thread_that_cannot_start(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    expected = bitinfer.load(packed(), num_threads=2).logits("a b")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Background(lambda: 6 * 7, threaded=True) as answer:
        assert answer.result() == 42
    assert bitinfer.load(packed(), num_threads=2).logits("a b").tobytes() == expected.tobytes()


def threads_of_load(path: str, threads: int) -> list[str]:
    """What started in Python while a fresh process loaded a model."""
    code = f"""
import threading
names = []
start = threading.Thread.start
threading.Thread.start = lambda self: (names.append(self.name), start(self))[1]
import bitinfer
model = bitinfer.load({path!r}, num_threads={threads})
assert threading.active_count() == 1
print(*names)
"""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment(), check=True, capture_output=True, text=True
    ).stdout.split()


def test_one_thread_starts_no_other(packed: Packed) -> None:
    assert threads_of_load(str(packed()), 1) == []
    assert threads_of_load(str(packed()), 2) == ["bitinfer-load"] * 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_file_is_called_so_whatever_else_is_wrong(
    packed: Packed, tmp_path: Path, threads: int
) -> None:
    before = threading.active_count()
    metadata, tensors = read_packed(packed())
    metadata["vocab"] = "[PAD]\n[UNK]"
    del tensors["pooler.bits"]
    path = tmp_path / "m"
    write_packed(path, tensors, metadata)
    with pytest.raises(FormatError, match=r"m: the vocabulary lacks \[CLS\], \[SEP\]"):
        bitinfer.load(path, num_threads=threads)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="m: damaged: SHA-256"):
        bitinfer.load(path, num_threads=threads)
    path.write_bytes(data[:-8])
    with pytest.raises(FormatError, match=r"m: .* bytes, expected"):
        bitinfer.load(path, num_threads=threads)
    assert threading.active_count() == before


def test_a_wrong_variable_is_the_error_of_the_engine(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITINFER_NUM_THREADS", "many")
    with pytest.raises(InputError, match="BITINFER_NUM_THREADS"):
        bitinfer.load(packed())
    with pytest.raises(InputError, match="no such file"):
        bitinfer.load("absent")


def test_options_may_be_numbers_of_numpy(packed: Packed) -> None:
    assert bitinfer.load(packed(), num_threads=np.int64(1)).info()["num_threads"] == 1  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected an integer"):
        bitinfer.load(packed(), num_threads=np.True_)  # type: ignore[arg-type]


def test_names_of_paths(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "m").write_bytes(packed().read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in ("m", "./m", ".//m", "sub/../m", "../" + tmp_path.name + "/m", str(tmp_path / "m")):
        assert bitinfer.load(name).info()["model"] == str(Path(name).absolute())
    assert bitinfer.load(Path("m")).info()["model"] == str(tmp_path / "m")
    assert bitinfer.load(b"m").info()["model"] == str(tmp_path / "m")  # type: ignore[arg-type]


def test_a_folder_with_a_packed_file(tmp_path: Path) -> None:
    """As `bitinfer distill` makes it; the checkpoint beside it is not looked at."""
    shutil.copy(find_model("sst2").path, tmp_path / "packed.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"no checkpoint")
    (tmp_path / "config.json").write_text("{}")
    model = bitinfer.load(tmp_path)
    assert model.predict("a fine film") == bitinfer.load("sst2").predict("a fine film")
    again = pickle.loads(pickle.dumps(model))
    assert again.info()["sha256"] == model.info()["sha256"]


def test_a_folder_without_one(tmp_path: Path) -> None:
    for content in (b"", b"no", (2).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little")):
        (tmp_path / "packed.safetensors").write_bytes(content)
        assert find_model(tmp_path).path == str(tmp_path)
