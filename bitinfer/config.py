"""Sizes and kinds of a model."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Config(NamedTuple):
    """Sizes and kinds.  ``head`` is the name of one of `bitinfer.heads`, ``labels`` its rows."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    token_types: int
    labels: int
    activation: Literal["relu", "gelu"]
    head: str


# The names of the sizes.
SIZES = tuple(name for name, kind in Config.__annotations__.items() if "int" in str(kind))
