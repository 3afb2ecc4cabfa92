"""Text to token ids: WordPiece, pairs, truncation, and no padding.

A batch of sequences is four flat arrays (:class:`TokenBatch`), the form in which the native code
takes them.  What the tokens of a word are, the `tokenizers` library says, once; after that they are
remembered, which is several times as fast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitinfer.checks import check_text
from bitinfer.config import SPECIAL_TOKENS
from bitinfer.errors import FormatError, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints: TypeAlias = NDArray[np.int32]
TextPair: TypeAlias = tuple[str, str | None]

# Longer words become [UNK], as in the published tokenizers.
_MAX_WORD = 100
# A token seldom spans more characters; only the speed of very long texts depends on this.
_CHARACTERS_PER_TOKEN = 16
# Words end before each of these, and no special token goes on with one: white space, all ASCII
# punctuation but the closing bracket, common Chinese characters.
_SPACE = r" \t\r\n\u00a0\u2000-\u200a\u2028\u2029\u3000"
_WORD_END = rf"[{_SPACE}!-/:-@\[\\^-`{{-~\u4e00-\u9fff]"
# Of words that are too long, and of white space, it does not matter how much there is.  Letters of
# large alphabets, every one of which remains a letter when accents are stripped: Latin, Greek,
# Cyrillic, Hebrew, Arabic, Thai, Kana, Hangul.
_LETTERS = (
    r"A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03ce\u0400-\u0481"
    r"\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\uac00-\ud7a3"
)
_LONG_RUN = rf"[{_LETTERS}]{{{_MAX_WORD + 1},}}|[{_SPACE}]{{{_MAX_WORD + 1},}}"

# Text falls apart at blanks and on both sides of punctuation, whatever is around them, so the
# tokens of a text are those of these pieces.  A piece need not be one word: "a\u00a0b" is not, and
# the tokenizer knows.
_BLANK = r" \t\r\n"
_PUNCTUATION = r"!-/:-@\[-`{-~"
_PIECES = re.compile(rf"[^{_BLANK}{_PUNCTUATION}]+|[{_PUNCTUATION}]")
# Pieces whose tokens are remembered: 3 MB of English words, 8 MB of the longest of any
# script: a syllable of Hangul may be three tokens.
_MOST_KNOWN = 1 << 14
_LONGEST_KNOWN = 24
_ID_BYTES = 4


class TokenBatch(NamedTuple):
    """B token sequences, one after the other, without padding."""

    ids: Ints  # [T]
    positions: Ints  # [T] row of the position table
    segments: Ints  # [T] 0 for the first text, 1 for the second
    offsets: NDArray[np.int64]  # [B + 1] sequence b is ``ids[offsets[b] : offsets[b + 1]]``


class TextTokenizer:
    """The tokenizer of a vocabulary: one token a line, the line number is the token id.

    Text is cleaned (control characters and NUL are dropped), if asked for lower-cased and stripped
    of accents, and split into WordPiece tokens; an unknown word is ``[UNK]``.  A special token that
    is spelled out in a text, such as ``[SEP]``, is that token: the tokenizers BERT models are
    trained with do the same.
    """

    def __init__(self, vocab: str, *, lowercase: bool = True, name: str = "model") -> None:
        tokens = vocab.split("\n")
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise FormatError(f"{name}: the vocabulary lacks {', '.join(missing)}")
        self._sep_id = ids["[SEP]"]
        self._cls, self._sep = _pack([ids["[CLS]"]]), _pack([self._sep_id])
        self._tokenizer = _build_tokenizer(ids, lowercase)
        self._known: dict[str, bytes] = {}
        self._learning = Lock()

    def encode(
        self, pairs: Sequence[TextPair], *, max_length: int, truncation: bool = True, first: int = 0
    ) -> TokenBatch:
        """Encode each pair as ``[CLS] text [SEP]`` or ``[CLS] text [SEP] second [SEP]``.

        A second text that is ``None`` or holds no token adds no ``[SEP]``.  Sequences of more than
        ``max_length`` tokens are cut, pairs by :func:`truncate_pair`.  Errors name the index of a
        text, which is ``first`` for the first pair.
        """
        parts: list[bytes] = []
        sizes: list[tuple[int, int]] = []
        cls, sep = self._cls, self._sep
        for index, (text, second) in enumerate(pairs, start=first):
            a = self._tokenize(text, "text", index, max_length, truncation)
            b = b""
            if second is not None:
                b = self._tokenize(second, "second text", index, max_length, truncation)
            if len(a) + len(b) > (max_length - 3) * _ID_BYTES:
                a, b = _fit(a, b, max_length, truncation, index)
            parts += (cls, a, sep, b, sep) if b else (cls, a, sep)
            sizes.append((len(a) // _ID_BYTES + 2, len(b) // _ID_BYTES + 1 if b else 0))
        return _lay_out(b"".join(parts), sizes)

    def _tokenize(self, text: str, what: str, index: int, needed: int, truncation: bool) -> bytes:
        """The tokens of a text, or, where more will be cut off, at least the first ``needed``.

        No token crosses the end of a word, so the tokens of a prefix that stops there are the first
        tokens of the whole.  A prefix is enough as soon as it holds as many as can be kept.
        """
        if not isinstance(text, str) or not text.isascii():
            check_text(f"{what} {index}", text)
        size = needed * _CHARACTERS_PER_TOKEN
        if len(text) <= size:
            return self._ids_of(text)
        # Compiled here, for the first long text: that takes longer than to label a short one.
        text = re.sub(_LONG_RUN, lambda run: run[0][: _MAX_WORD + 1], text)
        while truncation and size < len(text):
            end = re.compile(_WORD_END).search(text, size)
            if end is None:
                break
            ids = self._ids_of(text[: end.start()])
            if _count(ids) >= needed:
                return ids
            size = 4 * end.start()
        return self._ids_of(text)

    def _ids_of(self, text: str) -> bytes:
        """The ids of all tokens of a text, int32 one after the other."""
        if "[" in text:  # maybe a special token, which is more than one piece
            return _pack(self._encode(text))
        pieces = _PIECES.findall(text)
        try:
            return b"".join(map(self._known.__getitem__, pieces))
        except KeyError:
            return self._learn(pieces)

    def _learn(self, pieces: list[str]) -> bytes:
        """As `_ids_of`, for pieces of which some are not known yet."""
        known = self._known  # another thread may put a new one in its place
        found = {piece: known[piece] for piece in pieces if piece in known}
        new = self._look_up([piece for piece in dict.fromkeys(pieces) if piece not in found])
        self._remember(new)
        found |= new
        return b"".join(map(found.__getitem__, pieces))

    def _look_up(self, pieces: list[str]) -> dict[str, bytes]:
        """The ids of each piece, as the tokenizer says."""
        # A special token after each keeps them apart: no piece holds one.
        ids = self._encode("[SEP]".join([*pieces, ""]))
        packed, separator = _pack(ids), self._sep_id
        found, start = {}, 0
        for piece in pieces:
            end = ids.index(separator, start)
            found[piece] = packed[start * _ID_BYTES : end * _ID_BYTES]
            start = end + 1
        return found

    def _remember(self, found: dict[str, bytes]) -> None:
        short = {piece: ids for piece, ids in found.items() if len(piece) <= _LONGEST_KNOWN}
        # Nobody waits: what is not remembered now is looked up again, and in a child forked while
        # another thread is at it nobody would ever unlock.
        if len(short) > _MOST_KNOWN or not self._learning.acquire(blocking=False):
            return
        try:
            if len(self._known) + len(short) > _MOST_KNOWN:
                self._known = {}  # other threads may still read the old one
            self._known.update(short)
        finally:
            self._learning.release()

    def _encode(self, text: str) -> list[int]:
        # One text a call: encoding a batch would start a second pool of threads, outside the
        # control of num_threads and unsafe across fork.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def truncate_pair(first: int, second: int, budget: int) -> tuple[int, int]:
    """How many tokens of two texts remain within a budget, by the rule of the published code.

    One token at a time is taken from the first text while it is the longer one, else from the
    second.  (The ``longest_first`` of Hugging Face differs where the budget is odd.)

    >>> truncate_pair(90, 90, 125)
    (63, 62)
    """
    excess = max(first + second - budget, 0)
    levelling = min(excess, abs(first - second))
    if first > second:
        first -= levelling
    else:
        second -= levelling
    # From equal lengths on the rule takes turns, and the second text begins.
    rest = excess - levelling
    return first - rest // 2, second - (rest + 1) // 2


# Ids are kept as the bytes of an array, int32 one after the other: joining them takes no Python
# code for each token.


def _fit(a: bytes, b: bytes, max_length: int, truncation: bool, index: int) -> tuple[bytes, bytes]:
    special = 3 if b else 2
    length = _count(a) + _count(b) + special
    if length > max_length and not truncation:
        raise InputError(
            f"text {index}: {length} tokens, at most {max_length} fit and truncation is off"
        )
    keep_a, keep_b = truncate_pair(_count(a), _count(b), max_length - special)
    return a[: keep_a * _ID_BYTES], b[: keep_b * _ID_BYTES]


def _lay_out(ids: bytes, sizes: list[tuple[int, int]]) -> TokenBatch:
    """The batch of all ids and, for each sequence, its tokens before the second text and of it."""
    lengths = [first + second for first, second in sizes]
    ends = list(accumulate(lengths))
    columns = np.arange(max(lengths, default=0), dtype=np.int32)
    positions = np.concatenate([columns[:0], *[columns[:length] for length in lengths]])
    segments = np.zeros(len(positions), dtype=np.int32)
    for (_, second), end in zip(sizes, ends, strict=True):
        if second:
            segments[end - second : end] = 1
    offsets = np.array([0, *ends], dtype=np.int64)
    return TokenBatch(np.frombuffer(ids, dtype=np.int32), positions, segments, offsets)


def _pack(ids: list[int]) -> bytes:
    return np.array(ids, dtype=np.int32).tobytes()


def _count(ids: bytes) -> int:
    return len(ids) // _ID_BYTES


def _build_tokenizer(ids: dict[str, int], lowercase: bool) -> Tokenizer:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens([t for t in (*SPECIAL_TOKENS, "[MASK]") if t in ids])
    return tokenizer
