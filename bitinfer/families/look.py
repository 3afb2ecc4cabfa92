"""Whether a path holds a checkpoint; apart from their readers, whose imports take long."""

from __future__ import annotations

import os

__all__ = ["looks_like_checkpoint"]

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6


def looks_like_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path holds a PyTorch checkpoint, judged by its first bytes or its ``config.json``.

    Reads at most a few bytes, imports nothing, and never raises for a path that cannot be read.

    Example:
        >>> looks_like_checkpoint("model.safetensors")
        False
    """
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "config.json"))
    try:
        with open(path, "rb") as file:
            head = file.read(len(_LEGACY_MAGIC))
    except OSError:
        return False
    return head.startswith(_ZIP_MAGIC) or head == _LEGACY_MAGIC
