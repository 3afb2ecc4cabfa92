"""Labelled texts as tokens and targets, and the batches that training and evaluation take."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitinfer.data.columns import Columns
from bitinfer.data.tables import LabelledTexts, read_rows
from bitinfer.errors import InputError, quote
from bitinfer.files import file_sha256
from bitinfer.heads import Head, Metric, find_head
from bitinfer.runtime.text import TextTokenizer, TokenBatch
from bitinfer.train.options import TABLES, Options, Rows
from bitinfer.train.report import DataFile

if TYPE_CHECKING:
    import torch

Indices: TypeAlias = NDArray[np.int64]

# Batches that are cut from one sorted run: more of them need less padding and are less random.
_SORTED_TOGETHER = 64


@dataclass(frozen=True)
class Table:
    """Rows, of which no label is known if there are none, and where they come from.

    ``source`` is for messages: the path, or the name of the argument.
    """

    source: str
    file: DataFile
    rows: LabelledTexts

    @property
    def kinds(self) -> set[str]:
        """What its texts are; a table may have both."""
        return {"single texts" if second is None else "pairs" for _, second in self.rows.texts}


def read_tables(options: Options) -> dict[str, Table]:
    """The tables ``train`` and ``dev``, and ``unlabelled`` if the options name one.

    One whose texts are all pairs, where none of ``train`` is, is an error, and the other way round.
    """
    given = {name: getattr(options, name, None) for name in TABLES}
    found = {name: _table(name, rows, options) for name, rows in given.items() if rows is not None}
    expected = found["train"].kinds
    for table in found.values():
        if not table.kinds & expected:
            raise InputError(
                f"{table.source}: found {min(table.kinds)}, expected {min(expected)} as in "
                f"{found['train'].source}"
            )
    return found


def _table(name: str, given: Rows, columns: Columns) -> Table:
    in_file = isinstance(given, (str, os.PathLike))
    source = str(given) if in_file else name
    rows = read_rows(given, columns, labelled=name != "unlabelled", source=source)
    if in_file:
        file, digest = Path(source).name, file_sha256(Path(source))
    else:
        content = json.dumps([rows.texts, rows.labels]).encode()
        file, digest = "rows", hashlib.sha256(content).hexdigest()
    return Table(source, DataFile(file, len(rows.texts), digest), rows)


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that labels stand for: those found, sorted, by value if all are integers.

    Fractions are more likely numbers to predict, and an error.

    >>> class_names(["10", "9", "10"])
    ('9', '10')
    """
    names = sorted({*labels})
    if len(names) < 2:
        found = f"labels: found {quote(names)}"
        raise InputError(f"{found}, expected two or more that differ (or a regression)")
    others = [name for name in names if not re.fullmatch(r"[+-]?\d+", name)]
    if not others:
        return tuple(sorted(names, key=int))
    try:
        find_head("classification", 1).targets(names, ())
    except InputError:
        return tuple(names)
    raise InputError(
        f"labels: found numbers such as {quote(others[0])}, expected names or integers "
        "(give the labels if these are classes, or ask for a regression)"
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """n examples, tokenized, one after the other."""

    tokens: TokenBatch
    targets: torch.Tensor  # [n] int64 classes or float32 numbers, or ``head.no_target``
    head: Head

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    @property
    def lengths(self) -> Indices:
        """int64 [n] tokens of each example, special ones included."""
        return np.diff(self.tokens.offsets)

    @property
    def specials(self) -> tuple[int, int]:
        """Every sequence begins with the one and ends with the other."""
        return self.tokens.ids[0], self.tokens.ids[-1]

    @cached_property
    def words(self) -> NDArray[np.int32]:
        """All tokens but those."""
        return self.tokens.ids[~np.isin(self.tokens.ids, self.specials)]

    @property
    def metric(self) -> Metric:
        assert self.head.metric is not None, "a head that can be trained has one"
        return self.head.metric


def tokenize(
    rows: LabelledTexts,
    head: Head,
    labels: Sequence[str],
    tokenizer: TextTokenizer,
    max_length: int,
    *,
    name: str,
) -> Dataset:
    """Tokens of texts, and targets of those that have a label: they come first.

    The tokens are those that prediction makes; texts are cut to ``max_length`` of them.  Errors in
    labels give the row of ``name``.
    """
    import torch

    # Labels first: the texts may take long.
    targets = [*head.targets(rows.labels, labels, source=name)]
    targets += [head.no_target] * (len(rows.texts) - len(targets))
    tokens = tokenizer.encode(rows.texts, max_length=max_length)
    return Dataset(tokens, torch.tensor(targets), head)


@dataclass(frozen=True, eq=False)
class Batch:
    """B examples, padded with zeros to the S tokens of the longest."""

    ids: torch.Tensor  # int64 [B, S]
    segments: torch.Tensor  # int64 [B, S], 1 for the second text
    mask: torch.Tensor  # bool [B, S], true for a token
    targets: torch.Tensor  # [B]
    indices: Indices  # of the examples in the dataset

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """What a network takes, in order."""
        return self.ids, self.segments, self.mask

    def to(self, device: torch.device) -> Batch:
        tensors = {name: each for name, each in vars(self).items() if name != "indices"}
        return replace(self, **{name: each.to(device) for name, each in tensors.items()})


def collate(data: Dataset, indices: NDArray[np.integer]) -> Batch:
    """The examples of these indices [B], B >= 1, as a batch."""
    import torch

    rows: Indices = np.asarray(indices, dtype=np.int64)
    tokens = data.tokens
    starts = tokens.offsets[rows]
    lengths = tokens.offsets[rows + 1] - starts
    columns = np.arange(lengths.max())
    mask = columns < lengths[:, None]
    # Padding looks at any token that is there, and then takes none of it.
    places = (starts[:, None] + columns) * mask
    ids = torch.from_numpy(tokens.ids[places] * mask).long()
    segments = torch.from_numpy(tokens.segments[places] * mask).long()
    targets = data.targets[torch.tensor(rows)]
    return Batch(ids, segments, torch.from_numpy(mask), targets, rows)


def with_noise(batch: Batch, data: Dataset, share: float, random: np.random.Generator) -> Batch:
    """Some of the tokens of a batch on the CPU replaced by ones that are drawn from all its data.

    Of each text another part is replaced, uniform between none and twice ``share``, which is below
    0.5.  Special tokens stay; a word is drawn as often as the texts have it.  The targets stay too:
    what is learned is what a teacher answers the texts as they are now.
    """
    import torch

    if not len(data.words):
        return batch
    ids = batch.ids.numpy()
    chosen = random.random(ids.shape) < random.uniform(0, 2 * share, (len(ids), 1))
    chosen &= batch.mask.numpy() & ~np.isin(ids, data.specials)
    drawn = data.words[random.integers(0, len(data.words), ids.shape)]
    return replace(batch, ids=torch.from_numpy(np.where(chosen, drawn, ids)))


def training_batches(
    lengths: NDArray[np.integer],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    batch_tokens: int | None = None,
) -> list[Indices]:
    """The batches of one epoch: each example once, in random order, similar lengths together.

    Depends on the arguments alone, so an interrupted epoch can be taken up again; every epoch has
    as many batches.  With ``batch_tokens``, padding included, ``batch_size`` is the most examples,
    and one that is longer is a batch of its own; else the last batch holds the rest.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)).astype(np.int64)
    if batch_tokens is not None:
        batches, rest = _cut_tokens(_sorted(order, lengths), lengths, batch_size, batch_tokens), []
    else:
        whole = len(order) - len(order) % batch_size
        runs = _cut(order[:whole], batch_size * _SORTED_TOGETHER)
        batches = [each for run in runs for each in _cut(_sorted(run, lengths), batch_size)]
        rest = [order[whole:]] if whole < len(order) else []
    return [batches[index] for index in random.permutation(len(batches))] + rest


def evaluation_batches(lengths: NDArray[np.integer], batch_size: int) -> list[Indices]:
    """Each example once, the longest first, so that the most memory is needed at once."""
    return _cut(_sorted(np.arange(len(lengths)), -np.asarray(lengths)), batch_size)


def padding_share(lengths: NDArray[np.integer], batches: Sequence[NDArray[np.integer]]) -> float:
    """Which part of the columns of some batches is padding, 0..1."""
    columns = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    tokens = sum(int(lengths[batch].sum()) for batch in batches)
    return (columns - tokens) / columns if columns else 0.0


def _sorted(order: Indices, lengths: NDArray[np.integer]) -> Indices:
    return order[np.argsort(lengths[order], kind="stable")]


def _cut(order: Indices, size: int) -> list[Indices]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _cut_tokens(
    order: Indices, lengths: NDArray[np.integer], size: int, most: int
) -> list[Indices]:
    """Parts of an order from short to long, of no more examples, and tokens when padded."""
    parts, start = [], 0
    for end, length in enumerate(lengths[order].tolist()):
        examples = end + 1 - start
        if end > start and (examples > size or examples * length > most):
            parts.append(order[start:end])
            start = end
    return [*parts, order[start:]] if len(order) else []
