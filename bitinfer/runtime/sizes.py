"""Bytes of a packed model, part by part."""

from __future__ import annotations

from collections.abc import Iterable

_PARTS = {
    "embeddings.position": "position and token type embeddings",
    "embeddings.token_type": "position and token type embeddings",
    "embeddings.word.bits": "word embedding bits",
    "bits": "weight bits",
    "nonzero": "exact zeros",
    "zero_rows": "exact zeros",
    "scale": "scales",
    "bias": "biases",
    "shift": "shifts",
    "step": "steps",
    "code_step": "steps",
    "rises": "boundaries",
    "falls": "boundaries",
}


def by_part(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Adds up sizes of tensors, given by name, to sizes of parts; the largest first."""
    parts: dict[str, int] = {}
    for name, size in sizes:
        if name.startswith("head."):
            part = "head"
        elif ".norm." in name:
            part = "layer norms"
        else:
            part = _PARTS.get(name) or _PARTS.get(name.rpartition(".")[2], "other")
        parts[part] = parts.get(part, 0) + size
    return dict(sorted(parts.items(), key=lambda item: -item[1]))
