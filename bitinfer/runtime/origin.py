"""Where a model comes from: a packed file, a checkpoint, or a name that comes with the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from bitinfer.errors import InputError, InputTypeError
from bitinfer.runtime.format import Tensors, looks_packed, read_packed

_BUILTIN = Path(__file__).parents[1] / "builtin"
_SUFFIX = ".safetensors"
# What `bitinfer.train.distill` names the packed file beside the checkpoint it is made from.
PACKED = f"packed{_SUFFIX}"
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6


def builtin_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(file.stem for file in _BUILTIN.glob(f"*{_SUFFIX}"))


class Origin(NamedTuple):
    """Where a model comes from: a path, or the name of a built-in model."""

    path: str
    builtin: str | None = None

    def __str__(self) -> str:
        return self.builtin or self.path


def find_model(path: str | os.PathLike[str]) -> Origin:
    """What `load` means by its argument; of a folder with a packed file, that file."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise InputTypeError(f"path: found {type(path).__name__}, expected a path") from None
    if not os.path.exists(name):
        return find_builtin(name)
    found = str(Path(name).absolute())
    if os.path.isdir(name):
        packed = os.path.join(found, PACKED)
        return Origin(packed if looks_packed(packed) else found)
    if os.path.isfile(name):
        return Origin(found)
    raise InputError(f"{name!r}: found a pipe or device, expected a file or folder")


def read_model(origin: Origin) -> tuple[dict[str, Any], Tensors]:
    """Metadata and tensors of a packed file, or of a checkpoint, which is converted in memory."""
    if os.path.isdir(origin.path) or looks_like_checkpoint(origin.path):
        from bitinfer.conversion.convert import pack_checkpoint

        return pack_checkpoint(origin.path)
    return read_packed(origin.path)


def looks_like_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path holds a PyTorch checkpoint, judged by its first bytes or ``config.json``."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "config.json"))
    try:
        with open(path, "rb") as file:
            head = file.read(len(_LEGACY_MAGIC))
    except OSError:
        return False
    return head.startswith(_ZIP_MAGIC) or head == _LEGACY_MAGIC


def find_builtin(name: str) -> Origin:
    """The built-in model of that name; an InputError lists those there are."""
    names = builtin_names()
    if name not in names:
        raise InputError(
            f"{name!r}: no such file or folder, nor a built-in model ({', '.join(names) or 'none'})"
        )
    return Origin(str(_BUILTIN / (name + _SUFFIX)), name)
