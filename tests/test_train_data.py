"""Labelled texts as batches: targets, tokens, order, padding."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitinfer
from bitinfer.data.tables import LabelledTexts
from bitinfer.errors import InputError
from bitinfer.heads import Head, find_head
from bitinfer.runtime.text import TextTokenizer
from bitinfer.train.data import (
    class_names,
    collate,
    evaluation_batches,
    padding_share,
    tokenize,
    training_batches,
    with_noise,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
CLASSES, NUMBERS = find_head("classification", 2), find_head("classification", 1)
NAMES = ("no", "yes")


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer("\n".join(WORDS))


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="targets and batches are tensors of PyTorch")


def labelled(*labels: str) -> LabelledTexts:
    return LabelledTexts([("a", None)] * len(labels), list(labels))


# ---- classes


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["1", "-1", "0"], ("-1", "0", "1")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["1.5", "x"], ("1.5", "x")),
        (["1", "nan"], ("1", "nan")),
        (["1", "²"], ("1", "²")),
    ],
)
def test_classes_found(found: list[str], names: tuple[str, ...]) -> None:
    assert class_names(found) == names


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["a", "a"], r"found \['a'\], expected two .*or a regression"),
        ([], r"found \[\], expected two"),
        (["1", "2.5"], "numbers such as '2.5', .*ask for a regression"),
        (["1", "1.0"], "found numbers such as '1.0'"),
    ],
)
def test_no_classes(found: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_names(found)


# ---- tokens and targets


def test_targets(tokenizer: TextTokenizer, torch: Any) -> None:
    data = tokenize(labelled("yes", "0", "no", "1"), CLASSES, NAMES, tokenizer, 8, name="dev")
    assert data.targets.dtype == torch.int64
    assert data.targets.tolist() == [1, 0, 0, 1]
    assert data.head is CLASSES
    assert len(data) == 4
    assert data.lengths.tolist() == [3] * 4
    assert data.lengths.dtype == np.int64
    data = tokenize(labelled("0.1", "-3"), NUMBERS, (), tokenizer, 8, name="dev")
    assert data.targets.dtype == torch.float32
    assert data.targets.tolist() == [np.float32(0.1), -3]


@pytest.mark.parametrize(
    ("texts", "head", "message"),
    [
        (labelled("no", "x"), CLASSES, r"^dev, row 1: found label 'x', expected one of \['no', "),
        (labelled("1", "x"), NUMBERS, "^dev, row 1: found label 'x', expected a number"),
        (labelled("1", "-1e39"), NUMBERS, "^dev, row 1: found label '-1e39', expected at most"),
    ],
)
def test_bad_examples(
    tokenizer: TextTokenizer, torch: Any, texts: LabelledTexts, head: Head, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tokenize(texts, head, NAMES, tokenizer, 8, name="dev")


def test_tokens_are_those_of_predict(packed: Callable[..., Path], torch: Any) -> None:
    model = bitinfer.load(packed())
    texts = [
        *(("a b c", None), ("", None), ("A, b.", "c"), ("a", ""), ("é [SEP] 中", "b\0c")),
        *(("a b " * 40, None), ("a b c " * 9, "d e f g " * 9)),
    ]
    length = model.max_length
    data = tokenize(
        LabelledTexts(texts, ["no"] * len(texts)),
        CLASSES,
        NAMES,
        model._tokenizer,
        length,
        name="dev",
    )
    _, batches = model._batches(texts, batch_size=2)
    predicted = list(batches)
    for part in ("ids", "segments", "positions"):
        whole = np.concatenate([getattr(batch, part) for batch in predicted])
        np.testing.assert_array_equal(getattr(data.tokens, part), whole)
    assert data.lengths.tolist() == [n for b in predicted for n in np.diff(b.offsets)]
    assert data.lengths.max() == length


# ---- one batch


texts = st.text("abcdefgh ", max_size=20)
some_pairs = st.lists(st.tuples(texts, st.none() | texts), min_size=1, max_size=12)


@given(pairs=some_pairs, choice=st.data())
def test_a_batch_holds_its_examples(
    tokenizer: TextTokenizer, torch: Any, pairs: list[tuple[str, str | None]], choice: Any
) -> None:
    data = tokenize(
        LabelledTexts(pairs, [str(index) for index in range(len(pairs))]),
        NUMBERS,
        (),
        tokenizer,
        12,
        name="any",
    )
    index = st.integers(0, len(pairs) - 1)
    indices = np.array(choice.draw(st.lists(index, min_size=1, max_size=9)), dtype=np.int32)
    batch = collate(data, indices)
    shape = (len(indices), data.lengths[indices].max())  # of the longest of the batch only
    dtypes = {"ids": torch.int64, "segments": torch.int64, "mask": torch.bool}
    for name, dtype in dtypes.items():
        assert getattr(batch, name).dtype == dtype
        assert getattr(batch, name).shape == shape
        assert getattr(batch, name).is_contiguous()
    assert batch.indices.dtype == np.int64
    assert batch.indices.tolist() == indices.tolist() == batch.targets.tolist()
    for row, one in enumerate(indices):
        alone = tokenizer.encode([pairs[one]], max_length=12)
        length = len(alone.ids)
        assert batch.mask[row].tolist() == [True] * length + [False] * (shape[1] - length)
        assert batch.ids[row, :length].tolist() == alone.ids.tolist()
        assert batch.segments[row, :length].tolist() == alone.segments.tolist()
        assert not batch.ids[row, length:].any()
        assert not batch.segments[row, length:].any()


def test_a_batch_is_its_own(tokenizer: TextTokenizer, torch: Any) -> None:
    data = tokenize(labelled("no", "yes"), CLASSES, NAMES, tokenizer, 8, name="dev")
    indices = np.array([1, 0])
    indices.flags.writeable = False
    batch = collate(data, indices)
    batch.ids.zero_()
    batch.targets.zero_()
    assert data.tokens.ids.tolist() == [2, 4, 3, 2, 4, 3]
    assert data.targets.tolist() == [0, 1]


# ---- the order of batches


lengths = st.lists(st.integers(2, 128), max_size=300).map(lambda n: np.array(n, dtype=np.int64))
sizes = st.integers(1, 40)


@given(lengths=lengths, size=sizes, seed=st.integers(0, 2**40), epoch=st.integers(0, 99))
def test_an_epoch(lengths: Any, size: int, seed: int, epoch: int) -> None:
    batches = training_batches(lengths, size, seed=seed, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)
    assert all(batch.dtype == np.int64 for batch in batches)
    np.random.default_rng(0).random()
    again = training_batches(lengths.copy(), size, seed=seed, epoch=epoch)
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


@given(
    lengths=lengths,
    size=sizes,
    tokens=st.integers(1, 600),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 99),
)
def test_an_epoch_of_so_many_tokens(
    lengths: Any, size: int, tokens: int, seed: int, epoch: int
) -> None:
    batches = training_batches(lengths, size, seed=seed, epoch=epoch, batch_tokens=tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(batch.dtype == np.int64 for batch in batches)
    assert all(0 < len(batch) <= size for batch in batches)
    columns = [len(batch) * max(lengths[batch]) for batch in batches]
    assert all(n <= tokens or len(batch) == 1 for n, batch in zip(columns, batches, strict=True))
    # None could have been longer: the next one by length fits into no batch.
    by_length = sorted(
        batches, key=lambda batch: (min(lengths[batch]), max(lengths[batch]), -len(batch))
    )
    for batch, following in itertools.pairwise(by_length):
        one_more = len(batch) + 1
        assert one_more > size or one_more * min(lengths[following]) > tokens
    # A run that is resumed finds its place by the number of the step alone.
    other = training_batches(lengths, size, seed=seed, epoch=epoch + 1, batch_tokens=tokens)
    assert len(other) == len(batches)
    again = training_batches(lengths.copy(), size, seed=seed, epoch=epoch, batch_tokens=tokens)
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


@pytest.mark.parametrize("batch_tokens", [None, 100])
def test_epochs_differ(batch_tokens: int | None) -> None:
    lengths = np.resize(np.arange(2, 50), 500)
    orders, groups = set(), set()
    for seed in range(3):
        for epoch in range(3):
            batches = training_batches(
                lengths, 8, seed=seed, epoch=epoch, batch_tokens=batch_tokens
            )
            orders.add(tuple(np.concatenate(batches)))
            groups.add(frozenset(tuple(sorted(batch)) for batch in batches))
    assert len(orders) == len(groups) == 9


def test_training_order_is_random() -> None:
    """The mean length of early and late batches is the same, and so is that of a rest."""
    lengths = np.arange(2, 1003)
    firsts, rests = [], []
    for epoch in range(200):
        batches = training_batches(lengths, 10, seed=1, epoch=epoch)
        firsts.append(lengths[batches[0]].mean())
        rests.append(lengths[batches[-1]].mean())
    # Mean and spread of one: 502, 289; of 200 means: 289 / sqrt(200) = 20.
    assert abs(np.mean(firsts) - 502) < 100
    assert abs(np.mean(rests) - 502) < 100
    assert len(batches[-1]) == 1


def test_little_padding() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 12, 20_000) + 2
    order = np.random.default_rng(1).permutation(len(lengths))
    unsorted = [order[i : i + 32] for i in range(0, len(order), 32)]
    assert padding_share(lengths, unsorted) > 0.5
    assert padding_share(lengths, training_batches(lengths, 32, seed=0, epoch=0)) < 0.1
    of_tokens = training_batches(lengths, 256, seed=0, epoch=0, batch_tokens=480)
    assert padding_share(lengths, of_tokens) < 0.01
    assert padding_share(lengths, evaluation_batches(lengths, 32)) < 0.02


@given(lengths=lengths, size=sizes)
def test_evaluation(lengths: Any, size: int) -> None:
    batches = evaluation_batches(lengths, size)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert (np.diff(lengths[np.array(order, dtype=int)]) <= 0).all()
    assert all(len(batch) == size for batch in batches[:-1])
    columns = sum(len(batch) * max(lengths[batch]) for batch in batches)
    expected = 1 - lengths.sum() / columns if columns else 0
    assert padding_share(lengths, batches) == pytest.approx(expected)


# ---- cost


def test_many_examples_take_little_time(tokenizer: TextTokenizer, torch: Any) -> None:
    """All of it without Python code for each token; the bounds are ten times what was needed."""
    count = 60_000
    texts = [(" ".join("abcdefgh"[: 1 + index % 8] * 4), None) for index in range(count)]
    start = time.process_time()
    data = tokenize(
        LabelledTexts(texts, ["no"] * count), CLASSES, NAMES, tokenizer, 64, name="many"
    )
    assert time.process_time() - start < 10
    start = time.process_time()
    batches = training_batches(data.lengths, 32, seed=0, epoch=0)
    assert time.process_time() - start < 1
    start = time.process_time()
    for batch in batches:
        collate(data, batch)
    assert time.process_time() - start < 5


def test_import_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        "from bitinfer.train.data import class_names, training_batches\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- texts without labels


@pytest.mark.parametrize("head", [CLASSES, NUMBERS], ids=["classes", "numbers"])
def test_texts_without_labels(head: Head, tokenizer: TextTokenizer, torch: Any) -> None:
    """Stand behind those that have one."""
    texts = LabelledTexts([("a b", None), ("c", "d"), ("e", None)], ["1", "0"])
    data = tokenize(texts, head, NAMES, tokenizer, 8, name="train")
    expected = torch.tensor([1, 0, head.no_target], dtype=data.targets.dtype)
    assert torch.equal(data.targets.nan_to_num(7), expected.nan_to_num(7))
    assert data.lengths.tolist() == [4, 5, 3]


# ---- tokens that are replaced


@pytest.mark.parametrize("share", [0.1, 0.25, 0.49])
def test_replaced_tokens(share: float, tokenizer: TextTokenizer, torch: Any) -> None:
    """As many as asked for, by words of the texts, and nothing else changes."""
    words = list("abcdefgh")
    texts = [(" ".join(words[i % 4 : i % 4 + 1 + i % 5]), words[i % 3]) for i in range(4000)]
    data = tokenize(LabelledTexts(texts, []), CLASSES, NAMES, tokenizer, 16, name="x")
    batch = collate(data, np.arange(len(texts)))
    noisy = with_noise(batch, data, share, np.random.default_rng(0))
    specials = [WORDS.index(word) for word in ("[CLS]", "[SEP]", "[PAD]")]
    special = torch.isin(batch.ids, torch.tensor(specials))
    assert torch.equal(noisy.ids[special], batch.ids[special])
    assert not {*noisy.ids[~special].tolist()} & {*specials}
    for name in ("segments", "mask", "targets", "indices"):
        assert getattr(noisy, name) is getattr(batch, name)
    before, after = batch.ids[~special].numpy(), noisy.ids[~special].numpy()
    frequencies = np.bincount(before) / len(before)
    assert np.abs(np.bincount(after) / len(after) - frequencies).max() < 0.02
    # Some of the drawn words are those that were there.
    expected = share * (1 - (frequencies**2).sum())
    assert (before != after).mean() == pytest.approx(expected, rel=0.1)


def test_the_part_replaced_differs_from_text_to_text(tokenizer: TextTokenizer, torch: Any) -> None:
    """Uniform from nothing to twice the mean."""
    random = np.random.default_rng(0)
    texts = [(" ".join(random.choice(list("abcdefgh"), 1000)), None) for _ in range(100)]
    data = tokenize(LabelledTexts(texts, []), CLASSES, NAMES, tokenizer, 1002, name="x")
    batch = collate(data, np.arange(len(texts)))
    noisy = with_noise(batch, data, 0.25, random)
    parts = (noisy.ids != batch.ids).double().mean(1).numpy() * 8 / 7  # some draw what was there
    assert (
        np.abs(np.quantile(parts, [0, 0.25, 0.5, 0.75, 1]) - [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8]).max()
        < 0.08
    )


def test_token_noise_is_a_function_of_the_generator(tokenizer: TextTokenizer, torch: Any) -> None:
    data = tokenize(
        LabelledTexts([("a b c d e f g h", None)] * 9, []), CLASSES, NAMES, tokenizer, 16, name="x"
    )
    batch = collate(data, np.arange(9))

    def noisy(seed: int, share: float = 0.4) -> Any:
        return with_noise(batch, data, share, np.random.default_rng(seed)).ids

    assert torch.equal(noisy(1), noisy(1))
    assert not torch.equal(noisy(1), noisy(2))
    assert torch.equal(noisy(1, 0.0), batch.ids)


def test_token_noise_without_words(tokenizer: TextTokenizer, torch: Any) -> None:
    data = tokenize(LabelledTexts([("", None)] * 2, []), CLASSES, NAMES, tokenizer, 8, name="x")
    batch = collate(data, np.arange(2))
    assert with_noise(batch, data, 0.4, np.random.default_rng(0)) is batch
