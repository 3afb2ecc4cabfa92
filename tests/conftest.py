"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair.
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")

_DEFAULT = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The optional data folder: ``BITINFER_SHARED``, or ``../shared`` next to the repository."""
    folder = Path(os.environ.get("BITINFER_SHARED", _DEFAULT))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no data folder {folder}: set BITINFER_SHARED to run this test")
    return folder


@pytest.fixture
def children_take_ctrl_c() -> Iterator[None]:
    """Processes that the test starts stop at SIGINT, even if a shell has this one ignore it.

    Shells do so for what they run in the background.  Children inherit what is ignored, but no
    handler: theirs is the default.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the packed file of a seeded checkpoint, once: ``packed(labels=3, head="span")``."""
    return functools.cache(functools.partial(_pack, tmp_path_factory.mktemp("packed")))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task that can be learned, as `toy.Toy`."""
    pytest.importorskip("torch", reason="needs the extra train")
    pytest.importorskip("transformers", reason="needs the extra train")
    import toy

    return toy.make(tmp_path_factory.mktemp("toy"))


def _pack(folder: Path, **changes: Any) -> Path:
    pytest.importorskip("torch", reason="checkpoints are read with PyTorch")
    import seeded

    from bitinfer.conversion.convert import convert

    name = "-".join(f"{key}={value}" for key, value in sorted(changes.items())) or "tiny"
    source = seeded.write(folder / name, seeded.Spec(**changes))
    convert(source, folder / f"{name}.safetensors", verify=False)
    return folder / f"{name}.safetensors"
