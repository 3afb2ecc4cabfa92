"""The types that users see, and the stub of the native module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parent.parent


# pybind11 classes have a metaclass of their own, which concerns nobody.
ALLOWED = "bitinfer._core.Model\nbitinfer._core.Panels\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def run(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_user_code(folder: Path) -> None:
    sample = ROOT / "tests" / "typing_sample.py"
    run(folder, "mypy", "--strict", "--follow-imports=silent", str(sample))


def test_stub_of_the_native_module(folder: Path) -> None:
    (folder / "allowed.txt").write_text(ALLOWED)
    run(folder, "mypy.stubtest", "bitinfer._core", "--allowlist", "allowed.txt")
