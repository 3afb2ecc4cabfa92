"""Text to ids: the published tokenization, pairs, truncation, and text that nobody expects."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitinfer.errors import FormatError, InputError, InputTypeError
from bitinfer.runtime.text import (
    _LONG_RUN,
    _MOST_KNOWN,
    _WORD_END,
    TextTokenizer,
    TokenBatch,
    truncate_pair,
)

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "good", "##ness"),
    *(",", ".", "!", "'", "cafe", "中", "[", "]", "sep"),
]
PAD, UNK, CLS, SEP, MASK, A, B, C, _A, _B, GOOD, NESS, COMMA = range(13)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer("\n".join(WORDS))


def one(
    tokenizer: TextTokenizer, text: str, second: str | None = None, **options: int
) -> list[int]:
    return tokenizer.encode([(text, second)], **{"max_length": 64, **options}).ids.tolist()


def test_wordpiece(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "A goodness, ab zz") == [CLS, A, GOOD, NESS, COMMA, A, _B, UNK, SEP]
    assert one(tokenizer, "CAFÉ") == [CLS, WORDS.index("cafe"), SEP]
    assert one(tokenizer, "a中b") == [CLS, A, WORDS.index("中"), B, SEP]
    assert one(tokenizer, "a" * 101) == [CLS, UNK, SEP]


def test_cased_model() -> None:
    cased = TextTokenizer("\n".join([*WORDS, "A"]), lowercase=False)
    assert one(cased, "A a") == [CLS, len(WORDS), A, SEP]


def test_special_tokens_in_text(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "a [SEP] b [MASK]") == [CLS, A, SEP, B, MASK, SEP]
    assert one(tokenizer, "[sep]") == [CLS, *map(WORDS.index, ("[", "sep", "]")), SEP]


def test_pairs_and_segments(tokenizer: TextTokenizer) -> None:
    batch = tokenizer.encode(
        [("a b", "c"), ("a", None), ("a", ""), ("", "b"), ("", "")], max_length=9
    )
    assert batch.offsets.tolist() == [0, 6, 9, 12, 16, 18]
    sequences = np.split(batch.ids, batch.offsets[1:-1])
    assert [s.tolist() for s in sequences] == [
        [CLS, A, B, SEP, C, SEP],
        [CLS, A, SEP],
        [CLS, A, SEP],  # an empty second text has no second [SEP]
        [CLS, SEP, B, SEP],
        [CLS, SEP],
    ]
    assert batch.segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]
    assert batch.positions.tolist() == [*range(6), *range(3), *range(3), *range(4), *range(2)]
    arrays = (batch.ids, batch.positions, batch.segments, batch.offsets)
    assert [array.dtype.str for array in arrays] == ["<i4", "<i4", "<i4", "<i8"]


def test_empty_batch(tokenizer: TextTokenizer) -> None:
    batch = tokenizer.encode([], max_length=9)
    assert batch.ids.shape == (0,)
    assert batch.offsets.tolist() == [0]


def test_single_truncation(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "a b c", max_length=4) == [CLS, A, B, SEP]
    assert one(tokenizer, "a b c", max_length=5) == [CLS, A, B, C, SEP]


def by_the_rule(first: int, second: int, budget: int) -> tuple[int, int]:
    """The published loop, one token at a time."""
    while first + second > budget:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def test_truncate_pair_is_the_published_rule() -> None:
    assert truncate_pair(90, 90, 125) == (63, 62)
    for first in range(12):
        for second in range(12):
            for budget in range(14):
                expected = by_the_rule(first, second, budget)
                assert truncate_pair(first, second, budget) == expected, (first, second, budget)


def test_pair_truncation(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "a a a a", "b b", max_length=7) == [CLS, A, A, SEP, B, B, SEP]
    assert one(tokenizer, "a a", "b b b", max_length=6) == [CLS, A, A, SEP, B, SEP]
    # The rule may leave nothing of the second text: then it has no [SEP] either.
    assert one(tokenizer, "a a", "b", max_length=4) == [CLS, A, SEP]


def test_truncation_off(tokenizer: TextTokenizer) -> None:
    fits = [("a b", None)]
    assert len(tokenizer.encode(fits, max_length=4, truncation=False).ids) == 4
    with pytest.raises(InputError, match=r"text 8: 5 tokens, at most 4 fit"):
        tokenizer.encode([*fits, ("a b c", None)], max_length=4, truncation=False, first=7)
    with pytest.raises(InputError, match=r"text 0: 5 tokens"):
        tokenizer.encode([("a", "b")], max_length=4, truncation=False)


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"], 1.5])
def test_text_that_is_no_string(tokenizer: TextTokenizer, text: object) -> None:
    name = type(text).__name__
    with pytest.raises(InputTypeError, match=f"text 1: found {name}, expected str"):
        tokenizer.encode([("a", None), (text, None)], max_length=9)  # type: ignore[list-item]
    if text is not None:
        with pytest.raises(InputTypeError, match=f"second text 0: found {name}, expected str"):
            tokenizer.encode([("a", text)], max_length=9)  # type: ignore[list-item]


def test_lone_surrogate(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InputError, match=r"text 1: lone surrogate U\+D83D at position 2"):
        tokenizer.encode([("a", None), ("ab\ud83d", None)], max_length=9)


def test_odd_text(tokenizer: TextTokenizer) -> None:
    assert one(tokenizer, "a\0b\x07") == [CLS, A, _B, SEP]  # NUL and controls are dropped
    assert one(tokenizer, "\u200f a \u202e") == [CLS, A, SEP]  # right-to-left marks
    assert one(tokenizer, "😀") == [CLS, UNK, SEP]
    assert one(tokenizer, "שלום") == [CLS, UNK, SEP]
    assert one(tokenizer, "\ufeffa\u2028b") == [CLS, A, B, SEP]
    assert one(tokenizer, " \t\n ") == [CLS, SEP]


def test_missing_special_tokens() -> None:
    with pytest.raises(FormatError, match=r"stsb: the vocabulary lacks \[UNK\], \[SEP\]"):
        TextTokenizer("[PAD]\n[CLS]\na", name="stsb")


def same(left: TokenBatch, right: TokenBatch) -> bool:
    pairs = [(left.ids, right.ids), (left.segments, right.segments), (left.offsets, right.offsets)]
    return all(np.array_equal(a, b) for a, b in pairs)


PIECES = [
    *"ab中 \t\n\r\0\u0301\u00a0\u2028\u3000\u200b\x0b./é😀[]{_`ıİΣßﬀ",
    "[SEP]",
    "[SEP",
    "SEP]",
    "é" * 130,
    "жЖ" * 60,
    "한" * 101,
    "がガ" * 55,
    "กا" * 60,
    "א" * 100,
    "Ά" * 99,
    "\u2003" * 102,
    "good" * 25,
    "x1" * 300,
    " " * 250,
]


@settings(max_examples=300)
@given(
    text=st.lists(st.sampled_from(PIECES), max_size=400).map("".join),
    second=st.none() | st.text(st.sampled_from("ab ."), max_size=300),
    max_length=st.integers(3, 12),
)
def test_a_prefix_gives_the_same_tokens(text: str, second: str | None, max_length: int) -> None:
    """Long texts are tokenized only as far as needed; the result is that of the whole text."""
    tokenizer = TextTokenizer("\n".join(WORDS))
    whole = tokenizer.encode([(text, second)], max_length=1_000_000)
    parts = whole.ids.tolist()
    first = int((whole.segments == 0).sum()) - 2
    a, b = parts[1 : 1 + first], parts[2 + first : -1]
    budget = max_length - (3 if b else 2)
    keep = truncate_pair(len(a), len(b), budget) if b else (min(len(a), budget), 0)
    expected = [CLS, *a[: keep[0]], SEP, *b[: keep[1]], *([SEP] if b[: keep[1]] else [])]
    found = tokenizer.encode([(text, second)], max_length=max_length)
    assert found.ids.tolist() == expected
    again = tokenizer.encode([("a", None), (text, second)], max_length=max_length)
    assert again.ids.tolist()[3:] == expected
    assert same(found, tokenizer.encode([(text, second)], max_length=max_length))


@settings(max_examples=300)
@given(texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text()))
@pytest.mark.parametrize("lowercase", [True, False])
def test_remembered_pieces_give_the_tokens_of_the_whole(lowercase: bool, texts: list[str]) -> None:
    tokenizer = TextTokenizer("\n".join([*WORDS, "##é", "é", "x", "##x"]), lowercase=lowercase)
    for text in [*texts, *texts]:  # as new, and as known
        if not any("\ud800" <= c < "\ue000" for c in text):
            assert ids(tokenizer, text) == tokenizer._encode(text)


def ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return np.frombuffer(tokenizer._ids_of(text), np.int32).tolist()


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_character_beside_every_kind(lowercase: bool) -> None:
    words = [*WORDS, *map(chr, range(0x21, 0x3000, 7)), "##\u0301", "\u0301"]
    tokenizer = TextTokenizer("\n".join(dict.fromkeys(words)), lowercase=lowercase)
    for code in [*range(0xD800), *range(0xE000, 0x20000, 3)]:
        c = chr(code)
        text = f"a{c}b{c} {c}c\u0301 {c}\u0301{c},{c}\u0338a"
        assert ids(tokenizer, text) == tokenizer._encode(text), f"U+{code:04X}"


def test_what_is_remembered_is_bounded(tokenizer: TextTokenizer) -> None:
    most = 0
    for start in range(0, 60_000, 1000):
        text = " ".join(f"w{i}" for i in range(start, start + 1000))
        assert ids(tokenizer, f"a {text}") == [A] + [UNK] * 1000
        most = max(most, len(tokenizer._known))
    assert 10_000 < most <= _MOST_KNOWN
    many = " ".join(f"v{i}" for i in range(2 * _MOST_KNOWN))
    assert ids(tokenizer, f"{many} a") == [UNK] * (2 * _MOST_KNOWN) + [A]
    assert len(tokenizer._known) <= _MOST_KNOWN
    before = len(tokenizer._known)
    assert ids(tokenizer, "é" * 90) == [UNK]
    assert len(tokenizer._known) == before


def test_many_threads_share_what_is_remembered(tokenizer: TextTokenizer) -> None:
    def work(seed: int) -> bool:
        order = np.random.RandomState(seed).permutation(30_000)
        texts = (" ".join(f"a t{i} ab" for i in part) for part in np.split(order, 300))
        return all(
            ids(tokenizer, text) == [A, UNK, A, _B] * 100 and len(tokenizer._known) <= _MOST_KNOWN
            for text in texts
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_who_cannot_remember_now_does_not_wait(tokenizer: TextTokenizer) -> None:
    """As in a child that was forked while another thread was at it."""
    with tokenizer._learning:
        assert ids(tokenizer, "busy a") == [UNK, A]
    assert "busy" not in tokenizer._known
    assert ids(tokenizer, "busy a") == [UNK, A]
    assert "busy" in tokenizer._known


def test_words_end_where_a_text_may_be_cut(tokenizer: TextTokenizer) -> None:
    ends = [c for c in map(chr, range(0x10000)) if re.match(_WORD_END, c)]
    assert len(ends) > 20_000
    for end in ends:
        whole = one(tokenizer, f"aa{end}ab")
        assert whole == [CLS, A, _A, *one(tokenizer, f"{end}ab")[1:]], end


def test_long_words_are_unknown(tokenizer: TextTokenizer) -> None:
    letters = [c for c in map(chr, range(0x10000)) if re.match(_LONG_RUN, c * 101)]
    assert len(letters) > 12_000
    for letter in letters:
        expected = [CLS, SEP] if letter.isspace() else [CLS, UNK, SEP]
        assert one(tokenizer, letter * 101) == expected, letter


@pytest.mark.parametrize(
    "piece", ["a ", "hello world. ", "a,\n", "x/", "中", "[", "a_{", "a\u2028", "\n"]
)
def test_ten_megabytes(tokenizer: TextTokenizer, piece: str) -> None:
    text = piece * (10_000_000 // len(piece))
    start = time.perf_counter()
    assert len(one(tokenizer, text, text, max_length=512)) == (2 if piece == "\n" else 512)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("piece", ["a", "aé", "한", "ก"])
def test_ten_megabytes_without_a_space(tokenizer: TextTokenizer, piece: str) -> None:
    start = time.perf_counter()
    assert one(tokenizer, piece * (10_000_000 // len(piece))) == [CLS, UNK, SEP]
    assert time.perf_counter() - start < 5


def test_tokenizing_starts_no_threads() -> None:
    """A second pool beside the model's own would ignore num_threads and break after a fork."""
    code = """
import os
from bitinfer.runtime.text import TextTokenizer
tokenizer = TextTokenizer("[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\na")
tokenizer.encode([("a a", "a")] * 100, max_length=9)
print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "1"
