"""Rows of bits as words: bit k of a row is bit ``k % 64`` of word ``k // 64``; the rest is zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORD = 64


def words_for(count: int) -> int:
    """Words that hold so many bits."""
    return -(-count // _WORD)


def pack_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Bits [N, K] as words, uint64 [N, ceil(K / 64)]."""
    rows, count = bits.shape
    padded = np.zeros((rows, words_for(count) * _WORD), dtype=np.bool_)
    padded[:, :count] = bits
    words = np.packbits(padded, axis=1, bitorder="little").view("<u8")
    return words.astype(np.uint64, copy=False)


def unpack_bits(words: NDArray[np.uint64], count: int) -> NDArray[np.bool_]:
    """The first ``count`` bits of each row, bool [N, count]: the inverse of `pack_bits`."""
    octets = np.ascontiguousarray(words, "<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=count, bitorder="little").view(np.bool_)
