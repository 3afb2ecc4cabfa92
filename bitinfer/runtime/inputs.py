"""Texts and arrays as callers pass them in, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from bitinfer.errors import InputError, InputTypeError
from bitinfer.runtime.text import TextPair, TokenBatch

Second: TypeAlias = str | None
Text: TypeAlias = str | tuple[str, Second] | Mapping[str, Second]
Texts: TypeAlias = Iterable[Text]
Seconds: TypeAlias = Iterable[Second] | None

_END: Any = object()


class How(TypedDict, total=False):
    """How the texts of a call are run; ``BitModel.predict`` says what each means."""

    batch_size: int
    max_length: int | None
    truncation: bool
    show_progress_bar: bool | None


class TextPairs(NamedTuple):
    """Texts in one form; themselves they are not yet checked."""

    pairs: Iterator[TextPair]
    single: bool  # whether the caller passed one text rather than several
    total: int | None  # if known beforehand


def read_texts(texts: Any, text_pairs: Any = None) -> TextPairs:
    """Sort out the ways to pass texts, which ``BitModel.predict`` lists.

    Iterables are read as the result is, never ahead.
    """
    if isinstance(texts, (str, tuple, Mapping)):
        seconds = None if text_pairs is None else [text_pairs]
        return TextPairs(_pairs([texts], seconds), single=True, total=1)
    _check_iterable("texts", texts)
    if text_pairs is not None:
        _check_iterable("text_pairs", text_pairs)
    total, others = (
        len(each) if hasattr(each, "__len__") else None for each in (texts, text_pairs)
    )
    if None not in (total, others) and total != others:
        raise InputError(f"text_pairs: found {others}, expected {total}, one for each text")
    return TextPairs(_pairs(texts, text_pairs), single=False, total=total)


def _check_iterable(name: str, value: Any) -> None:
    """Whether it holds many: a string and bytes can be iterated over as well, but are one."""
    try:
        iter(value)
        many = not isinstance(value, (str, bytes, bytearray, memoryview, Mapping))
    except TypeError:
        many = False
    if not many:
        found = type(value).__name__
        raise InputTypeError(f"{name}: found {found}, expected a string or an iterable of strings")


def _pairs(texts: Iterable[Any], seconds: Iterable[Any] | None) -> Iterator[TextPair]:
    if seconds is None:
        yield from (_pair(item, index) for index, item in enumerate(texts))
        return
    for index, (text, second) in enumerate(zip_longest(texts, seconds, fillvalue=_END)):
        if text is _END or second is _END:
            raise InputError(
                f"text_pairs: one of both lists ends at index {index}, the other goes on"
            )
        if isinstance(text, (tuple, list, Mapping)):
            raise InputError(
                f"text {index}: found a pair, and text_pairs as well; pass one of them"
            )
        yield text, second


def _pair(item: Any, index: int) -> TextPair:
    if isinstance(item, Mapping):
        if "text" not in item or set(item) - {"text", "text_pair"}:
            raise InputError(
                f"text {index}: found keys {sorted(map(str, item))}, expected text and text_pair"
            )
        return item["text"], item.get("text_pair")
    if isinstance(item, (tuple, list)):
        if len(item) != 2:
            raise InputError(
                f"text {index}: found {len(item)} texts in a {type(item).__name__}, "
                "expected a pair (pass several texts as a list of strings)"
            )
        return item[0], item[1]
    return item, None


class PaddedBatch(NamedTuple):
    """A padded batch [B, S] as the ragged sequences of its tokens.

    The tokens of row b are its attended columns in order, then column 0 if that is masked: the
    pooler reads column 0 in any case, so there it asks without being asked.
    """

    tokens: TokenBatch  # T tokens; the position of each is its column
    lengths: NDArray[np.int32]  # [B] attended tokens
    pooled: NDArray[np.int64]  # [B] token of column 0
    mask: NDArray[np.bool_]  # [B, S] whether a column is attended
    attended: NDArray[np.bool_]  # [T] the same for the tokens


def read_padded(
    input_ids: Any, attention_mask: Any, token_type_ids: Any, config: Mapping[str, Any]
) -> PaddedBatch:
    """Check a padded batch, as of ``BitModel.forward``, and lay out its tokens one by one."""
    ids = _integers("input_ids", input_ids, config["vocab"])
    if ids.shape[1] > config["positions"]:
        raise InputError(
            f"input_ids: found {ids.shape[1]} columns, expected at most {config['positions']}"
        )
    mask, types = np.ones(ids.shape, np.bool_), np.zeros_like(ids)
    if attention_mask is not None:
        mask = _integers("attention_mask", attention_mask, 2, like=ids, kinds="iub") != 0
    if token_type_ids is not None:
        types = _integers("token_type_ids", token_type_ids, config["token_types"], like=ids)
    if len(empty := np.flatnonzero(~mask.any(axis=1))):
        raise InputError(f"attention_mask: row {empty[0]} is all zero, expected at least one 1")
    # One more column at the end: column 0 once more, where it only asks.
    asking = np.concatenate([mask, ~mask[:, :1]], axis=1)
    rows, columns = np.nonzero(asking)
    attended = columns < ids.shape[1]
    columns = np.where(attended, columns, 0)
    offsets = np.concatenate([[0], np.cumsum(asking.sum(axis=1))]).astype(np.int64)
    lengths = mask.sum(axis=1)
    parts = (ids[rows, columns], columns, types[rows, columns])
    tokens, positions, segments = (each.astype(np.int32) for each in parts)
    return PaddedBatch(
        TokenBatch(tokens, positions, segments, offsets),
        lengths=lengths.astype(np.int32),
        pooled=offsets[:-1] + np.where(mask[:, 0], 0, lengths),
        mask=mask,
        attended=attended,
    )


def read_array(name: str, value: Any) -> NDArray[Any]:
    """Whatever holds numbers in the memory of the CPU: ``__array__``, ``__dlpack__``, or lists."""
    only_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
    try:
        return np.from_dlpack(value) if only_dlpack else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        found = type(value).__name__
        raise InputTypeError(f"{name}: found {found}, expected an array: {error}") from error


def _integers(
    name: str, value: Any, end: int, *, like: NDArray[Any] | None = None, kinds: str = "iu"
) -> NDArray[Any]:
    """An array [B, S], of the shape of another if there is one, of integers ``0 .. end - 1``."""
    array = read_array(name, value)
    if array.dtype.kind not in kinds:
        raise InputTypeError(f"{name}: found dtype {array.dtype}, expected integers")
    if like is not None and array.shape != like.shape:
        raise InputError(f"{name}: found shape {array.shape}, expected {like.shape} of input_ids")
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name}: found shape {array.shape}, expected [batch >= 1, length >= 1]")
    if len(wrong := np.argwhere((array < 0) | (array >= end))):
        row, column = wrong[0].tolist()
        found = f"{name}[{row}, {column}]: found {int(array[row, column])}"
        raise InputError(f"{found}, expected 0..{end - 1}")
    return array
