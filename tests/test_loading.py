"""Loading: what `load` takes, which error comes first, and that no thread is started."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import environment

import bitinfer
from bitinfer.errors import FormatError, InputError
from bitinfer.runtime.format import read_packed, write_packed
from bitinfer.runtime.origin import find_model

Packed = Callable[..., Path]


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


def test_loading_starts_no_thread(packed: Packed) -> None:
    for threads in (1, 2):
        assert threads_of_load(str(packed()), threads) == []


def test_loading_imports_no_more_than_it_uses(packed: Packed) -> None:
    """Each takes a hundredth of the start or more."""
    code = f"""
import sys
import numpy, tokenizers
before = {{*sys.modules}}
import bitinfer
bitinfer.load({str(packed())!r}).predict("a b")
print(*{{*sys.modules}} - before)
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, env=environment(), check=True, capture_output=True, text=True
    ).stdout.split()
    others = {"shutil", "tempfile", "tqdm", "torch", "transformers", "logging", "argparse", "csv"}
    assert not (others | {"statistics"}) & {*found}


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
