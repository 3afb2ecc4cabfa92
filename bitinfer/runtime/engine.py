"""The native engine of a model, which knows what the head reads and not what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitinfer import _core
from bitinfer.config import SIZES
from bitinfer.heads import find_head
from bitinfer.runtime.format import Tensors


def make_engine(
    metadata: Mapping[str, Any],
    tensors: Tensors,
    *,
    isa: str | None = None,
    num_threads: int | None = None,
) -> _core.Model:
    """The engine for the metadata (``config`` and ``codes``) and the tensors of a packed file."""
    config = metadata["config"]
    settings = {
        **{size: config[size] for size in SIZES},
        "activation": config["activation"],
        "reads": find_head(config["head"], config["labels"]).reads,
        "codes": metadata["codes"],
    }
    return _core.Model(settings, tensors, isa, num_threads)
