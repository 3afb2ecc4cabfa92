"""Bytes of a packed model, part by part."""

from __future__ import annotations

from collections.abc import Iterable

_PARTS = {
    "bits": "weight bits",
    "nonzero": "exact zeros",
    "zero_rows": "exact zeros",
    "scale": "scales",
    "bias": "biases",
    "shift": "shifts",
    "step": "steps",
    "code_step": "steps",
    "rises": "thresholds",
    "falls": "thresholds",
}


def by_part(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Adds up sizes of tensors, given by name, to sizes of parts; the largest first.

    >>> by_part([("layer.0.query.bits", 96), ("head.bias", 8), ("pooler.bits", 96)])
    {'weight bits': 192, 'head': 8}
    """
    parts: dict[str, int] = {}
    for name, size in sizes:
        part = part_of(name)
        parts[part] = parts.get(part, 0) + size
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def part_of(name: str) -> str:
    """The part that a tensor of the packed file belongs to."""
    if name.startswith("head."):
        return "head"
    if ".norm." in name:
        return "layer norms"
    if name in ("embeddings.position", "embeddings.token_type"):
        return "position and token type embeddings"
    if name == "embeddings.word.bits":
        return "word embedding bits"
    return _PARTS.get(name.rpartition(".")[2], "other")
