"""The packed model file: a safetensors container, one JSON object of metadata, one checksum.

The container is plain safetensors, so any tool can list it.  Everything that is not a tensor is the
JSON text under the single metadata key ``bitinfer``; one key, because the order of several is not
defined and equal models must give equal bytes.  ``sha256`` in that JSON is the SHA-256 of the
whole file with its own 64 digits replaced by zeros: every byte is covered, none can change unseen.

A file is hostile until it has been checked.  The header is read and checked first, then the length
of the file, and only then the rest.  Offsets, types and shapes are checked by the safetensors
library, and which tensors a model has by ``bitinfer._core.Model``, the code that relies on them.

Files of format 1 are read as what they would be in format 2; nothing else knows of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bitinfer.checks import unique_keys
from bitinfer.codes import POINTS, UNSIGNED, PointCodes, allowed_codes
from bitinfer.config import MIN_LENGTH, SIZES
from bitinfer.errors import FormatError, UnsupportedError, quote, shorten
from bitinfer.files import check_target, write_file
from bitinfer.heads import find_head, heads

FORMAT_VERSION = "2"

Tensors: TypeAlias = "dict[str, NDArray[Any]]"

_KEY = "bitinfer"
# As the container names them.
_DTYPES = {"U64": np.uint64, "F64": np.float64, "F32": np.float32, "I32": np.int32, "I16": np.int16}
_LENGTH_BYTES = 8
# A header holds about 100 bytes a tensor and the vocabulary: 0.3 MB for BERT-base.
_MAX_HEADER = 16 << 20
# BERT-base has 16 MB of tensors.  A sparse file may claim terabytes.
_MAX_DATA = 4 << 30
_MAX_SIZE = 2**31 - 1
# The metadata is three levels deep.
_MAX_LEVELS = 16
_BLANK = "0" * 64


def write_packed(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write a packed model file: all of it or nothing, the same bytes for the same model.

    The metadata are the object described in ``docs/format.md``; ``format_version`` and ``sha256``
    are added here.
    """
    from safetensors.numpy import save

    target = check_target(path, overwrite=overwrite)
    sealed = {**metadata, "format_version": FORMAT_VERSION, "sha256": _BLANK}
    check_metadata(sealed, str(target))
    for tensor, array in tensors.items():
        if array.dtype.type not in _DTYPES.values() or array.ndim > 2:
            found = f"{target}: tensor {quote(tensor)}: found {array.dtype.name} {array.shape}"
            raise FormatError(f"{found}, expected {', '.join(_DTYPES)} and at most two axes")
    try:
        text = json.dumps(sealed, sort_keys=True, ensure_ascii=False, allow_nan=False)
        arrays = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
        data = bytearray(save(arrays, {_KEY: text}))
    except (SafetensorError, TypeError, ValueError) as error:
        raise FormatError(f"{target}: cannot be stored: {error}") from error
    start = _find_digest(data, _BLANK, str(target))
    data[start : start + len(_BLANK)] = hashlib.sha256(data).hexdigest().encode()
    write_file(target, data, overwrite=overwrite)


def read_packed(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tensors]:
    """Read and check a packed model file: its metadata, and its tensors, which are read-only.

    Of a file of format 1 they are what they would be in format 2, but for ``format_version``.
    """
    name = os.fsdecode(path)
    with open(path, "rb") as file:
        header = _read_header(file, name)
        container = _parse_object(header[_LENGTH_BYTES:], f"{name}: header")
        metadata = _parse_metadata(container, name)
        _check_container(path, name)
        data = file.read()
    _check_digest(header, data, metadata["sha256"], name)
    tensors = _tensors(container, data, name)
    if metadata["format_version"] == "1":
        return _upgrade(metadata, tensors, name)
    return metadata, tensors


def looks_packed(path: str | os.PathLike[str]) -> bool:
    """Whether there is a packed file, if maybe a damaged one: judged by its metadata key."""
    if not os.path.isfile(path):  # to open a pipe may take forever
        return False
    name = os.fsdecode(path)
    try:
        with open(path, "rb") as file:
            container = _parse_object(_read_header(file, name)[_LENGTH_BYTES:], name)
    except (OSError, FormatError):
        return False
    strings = container.get("__metadata__")
    return isinstance(strings, dict) and _KEY in strings


def narrowest(sums: NDArray[Any], reach: int) -> NDArray[Any]:
    """Sums within ``-reach - 1 .. reach`` in the type of a file: int16, or int32 if large."""
    return sums.astype(np.int16 if reach < 2**15 else np.int32)


# ---- the container


def _read_header(file: BinaryIO, name: str) -> bytes:
    """The length and the JSON header, after checking the length against the file and the cap."""
    start = file.read(_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    limit = min(os.fstat(file.fileno()).st_size - _LENGTH_BYTES, _MAX_HEADER)
    if not 2 <= length <= limit:
        raise FormatError(
            f"{name}: not a packed model file: header length {length}, expected 2..{limit}"
        )
    return start + file.read(length)


def _parse_metadata(container: dict[str, Any], name: str) -> dict[str, Any]:
    strings = container.get("__metadata__", {})
    if not isinstance(strings, dict) or list(strings) != [_KEY]:
        raise FormatError(
            f"{name}: a safetensors file, but not a packed model: "
            f"expected the one metadata key {_KEY!r}"
        )
    metadata = _parse_object(strings[_KEY], f"{name}: metadata {_KEY!r}")
    check_metadata(metadata, name)
    return metadata


def _check_container(path: str | os.PathLike[str], name: str) -> None:
    """Whether the table of tensors fits itself and the length of the file, which may be read."""
    size = os.path.getsize(path)
    if size > _MAX_DATA:
        raise FormatError(f"{name}: {size} bytes, expected at most {_MAX_DATA}")
    try:
        with safe_open(path, "np"):
            pass
    except SafetensorError as error:
        found = f"found a table of tensors that does not fit {size} bytes, expected one that does"
        raise FormatError(f"{name}: {found}: {shorten(str(error))}") from error


def _tensors(container: dict[str, Any], data: bytes, name: str) -> Tensors:
    """The tensors in the bytes after the header: copies would take as much memory again."""
    tensors = {}
    for tensor, entry in container.items():
        if tensor == "__metadata__":
            continue
        kind = _DTYPES.get(entry["dtype"])
        if kind is None:
            found = f"{name}: tensor {quote(tensor)}: found {quote(entry['dtype'])}"
            raise FormatError(f"{found}, expected {', '.join(_DTYPES)}")
        # An empty tensor may claim any sizes; NumPy has a bound on each, and on their number.
        if len(entry["shape"]) > 2 or any(size > _MAX_SIZE for size in entry["shape"]):
            found = f"{name}: tensor {quote(tensor)}: found shape {quote(entry['shape'])}"
            raise FormatError(f"{found}, expected at most two sizes, each at most {_MAX_SIZE}")
        start, end = entry["data_offsets"]
        flat = np.frombuffer(data, kind, (end - start) // kind().itemsize, start)
        tensors[tensor] = (flat if flat.flags.aligned else flat.copy()).reshape(entry["shape"])
        tensors[tensor].flags.writeable = False
    return tensors


def _parse_object(text: Any, where: str) -> dict[str, Any]:
    """Strict JSON: one object, no repeated keys."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=unique_keys)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


# ---- checksum


def _find_digest(data: bytes | bytearray, digest: str, name: str) -> int:
    """Where the digits of the file's own checksum stand.

    It is JSON inside JSON, so quotes are escaped; keys are sorted, so ``source`` comes next.
    """
    before = b'\\"sha256\\": \\"'
    field = before + digest.encode() + b'\\", \\"source\\"'
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if data.count(field, 0, end) != 1:
        raise FormatError(
            f"{name}: metadata 'sha256' must occur once, written as this package does"
        )
    return data.index(field) + len(before)


def _check_digest(header: bytes, data: bytes, digest: str, name: str) -> None:
    start = _find_digest(header, digest, name)
    hasher = hashlib.sha256(header[:start])
    hasher.update(_BLANK.encode())
    hasher.update(header[start + len(_BLANK) :])
    hasher.update(data)
    if hasher.hexdigest() != digest:
        raise FormatError(f"{name}: damaged: SHA-256 is {hasher.hexdigest()}, expected {digest}")


# ---- format 1


def _upgrade(
    metadata: dict[str, Any], tensors: Tensors, name: str
) -> tuple[dict[str, Any], Tensors]:
    """What a file of format 1 would be in format 2."""
    config = metadata["config"]
    upgraded = {
        **{key: value for key, value in metadata.items() if key != "recipe"},
        "family": "bit",
        "codes": {point: PointCodes(1, point not in UNSIGNED).name for point in POINTS},
    }
    result = dict(tensors)
    for key in [key for key in tensors if key.endswith(".threshold")]:
        threshold, low = result.pop(key), result.pop(f"{key}_low", None)
        lows = threshold if low is None else low
        if threshold.dtype != np.int32 or lows.dtype != np.int32 or lows.shape != threshold.shape:
            found = f"{name}: tensor {quote(key)}: found {threshold.dtype} and {lows.dtype}"
            raise FormatError(f"{found}, expected int32 [N], and its low the same")
        point = key.removesuffix(".threshold")
        reach = config["positions" if point.endswith("attention.output.in") else "hidden"]
        rises = np.clip(threshold.astype(np.int64), -reach - 1, reach)[None]
        if low is not None and point.endswith(".output.in") and "attention" not in point:
            falls = np.clip(low.astype(np.int64), -reach, reach)
            result[f"{point}.falls"] = narrowest(np.minimum(falls, rises + 1), reach)
        elif low is not None:
            zero = np.clip(low.astype(np.int64) - 1, -reach - 1, reach)
            rises = np.stack([np.minimum(zero, rises[0]), rises[0]])
        result[f"{point}.rises"] = narrowest(rises, reach)
    return upgraded, result


# ---- metadata


class _Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def _one_of(*allowed: str) -> _Rule:
    # Not every value can be looked up in a set.
    return _Rule(" or ".join(map(repr, allowed)), lambda value: value in [*allowed])


def _integer(low: int, high: int) -> _Rule:
    return _Rule(f"an integer {low}..{high}", lambda n: type(n) is int and low <= n <= high)


_TEXT = _Rule("text", lambda value: isinstance(value, str))
_TEXT_OR_NULL = _Rule("text or null", lambda value: value is None or isinstance(value, str))
_TEXTS = _Rule(
    "a list of strings",
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
)
_OBJECT = _Rule("an object", lambda value: isinstance(value, dict))
_DIGEST = _Rule(
    "64 lower-case hexadecimal digits",
    lambda text: isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None,
)


def _rules(version: object) -> dict[str, dict[str, _Rule]]:
    """The fields of the metadata, and under their names those of the objects in it."""
    fields = {
        "format_version": _one_of("2", "1"),
        "architecture": _one_of("bert"),
        "writer": _TEXT,
        "config": _OBJECT,
        "labels": _TEXTS,
        "task": _TEXT_OR_NULL,
        "vocab": _TEXT,
        "tokenizer": _OBJECT,
        "source": _OBJECT,
        "licence": _TEXT_OR_NULL,
        "report": _OBJECT,
        "sha256": _DIGEST,
    }
    config = dict.fromkeys(SIZES, _integer(1, _MAX_SIZE)) | {
        "activation": _one_of("relu", "gelu"),
        "head": _one_of(*dict.fromkeys(head.name for head in heads())),
    }
    boolean = _Rule("true or false", lambda value: isinstance(value, bool))
    tokenizer = {"lowercase": boolean, "max_length": _integer(MIN_LENGTH, _MAX_SIZE)}
    rules = {"config": config, "tokenizer": tokenizer, "source": {"file": _TEXT, "sha256": _DIGEST}}
    if version == "1":
        return {"": {**fields, "recipe": _one_of("bit-1-1-1")}, **rules}
    codes = {point: _one_of(*allowed_codes(point)) for point in POINTS}
    return {"": {**fields, "family": _TEXT, "codes": _OBJECT}, **rules, "codes": codes}


def check_metadata(metadata: Mapping[str, Any], name: str) -> None:
    """Check every field of the metadata object: presence, type, and agreement with the others."""

    def check(field: str, holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise FormatError(f"{name}: metadata {field!r}: found {found}, expected {expected}")

    for group, rules in _rules(metadata.get("format_version")).items():
        path, values = (f"{group}.", metadata[group]) if group else ("", metadata)
        for key, rule in rules.items():
            check(path + key, key in values, "nothing at all", "this field")
            # Not repr: the value may be long, and nested more deeply than repr can follow.
            check(path + key, rule.holds(values[key]), quote(values[key]), rule.expected)
        for key in values:
            check(path + key[:80], key in rules, "an unknown field", f"only {', '.join(rules)}")
    for key, value in metadata.items():
        _check_plain(value, f"{name}: metadata {quote(key)}", _MAX_LEVELS)

    config, length = metadata["config"], metadata["tokenizer"]["max_length"]
    heads, hidden = config["heads"], config["hidden"]
    check("config.heads", hidden % heads == 0, str(heads), f"a divisor of hidden {hidden}")
    allowed = _integer(MIN_LENGTH, config["positions"])
    check("tokenizer.max_length", allowed.holds(length), quote(length), allowed.expected)
    try:
        head = find_head(config["head"], config["labels"])
    except UnsupportedError as error:
        raise FormatError(f"{name}: metadata 'config.labels': {error}") from None
    labels, words = metadata["labels"], metadata["vocab"].split("\n")
    classes, most = config["labels"] if head.has_names else 0, config["vocab"]
    check("labels", len(labels) == classes, f"{len(labels)} names", f"{classes} for this head")
    check("labels", len(set(labels)) == len(labels), quote(labels), "names that differ")
    # The word table may have spare rows at its end.
    expected = f"at most {most}, as config.vocab says"
    check("vocab", len(words) <= most, f"{len(words)} lines", expected)
    differ = len(set(words)) == len(words) and "" not in words
    check("vocab", differ, "repeated or empty lines", "lines that differ")


def _check_plain(value: Any, where: str, levels: int) -> None:
    """Refuse what JSON can spell and nobody can use: lone surrogates, infinity, deep nesting."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FormatError(f"{where}: found a lone surrogate, expected Unicode") from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise FormatError(f"{where}: found {value}, expected finite numbers")
    elif isinstance(value, (Mapping, list, tuple)):
        if levels == 0:
            raise FormatError(f"{where}: found deeper nesting than {_MAX_LEVELS} levels")
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        for each in inner:
            _check_plain(each, where, levels - 1)
