"""Sizes and kinds of a model, and what all have in common."""

from __future__ import annotations

from typing import Literal, NamedTuple

# What every vocabulary holds, and the shortest sequence: [CLS], one token, [SEP].
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MIN_LENGTH = 3


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
