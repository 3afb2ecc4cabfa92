"""The packed model file: a safetensors container, one JSON object of metadata, one checksum.

The container is plain safetensors, so any tool can list it.  Everything that is not a tensor is the
JSON text under the single metadata key ``bitinfer``; one key, because the order of several is not
defined and equal models must give equal bytes.  ``sha256`` in that JSON is the SHA-256 of the
whole file with its own 64 digits replaced by zeros: every byte is covered, none can change unseen.

A file is hostile until it has been checked.  The header is read and checked first, then the length
of the file, and only then the rest.  The names, shapes and types of the tensors are checked by
``bitinfer._core.Model``, the code that relies on them.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeAlias

from bitinfer.errors import FormatError, quote
from bitinfer.files import check_target, write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FORMAT_VERSION",
    "PackedFile",
    "check_metadata",
    "check_target",
    "looks_packed",
    "open_packed",
    "read_packed",
    "write_packed",
]

FORMAT_VERSION = "1"
ARCHITECTURES = ("bert",)
RECIPES = ("bit-1-1-1",)
ACTIVATIONS = ("relu", "gelu")
HEADS = ("classification", "span")
SIZES = ("hidden", "layers", "heads", "intermediate", "vocab", "positions", "token_types", "labels")

Tensors: TypeAlias = "dict[str, NDArray[Any]]"
Entries: TypeAlias = list[tuple[str, Any]]

_KEY = "bitinfer"
# As the container names them -> as NumPy does, and bytes of a value.
_DTYPES = {"U64": ("uint64", 8), "F64": ("float64", 8), "F32": ("float32", 4), "I32": ("int32", 4)}
_MAX_AXES = 2
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

    Args:
        path: The file to make.  It appears under this name only when it is complete.
        tensors: name -> array of uint64, int32, float32 or float64, with at most two axes.
        metadata: The object described in ``docs/format.md`` without ``format_version`` and
            ``sha256``, which are added here.
        overwrite: Replace an existing file; otherwise it is left alone.

    Raises:
        FormatError: The metadata or a tensor does not fit the format.
        InputError, FileExistsError, FileNotFoundError, IsADirectoryError: As `check_target`.
        OSError: The file cannot be written.
    """
    import hashlib

    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save

    target = check_target(path, overwrite=overwrite)
    sealed = {**metadata, "format_version": FORMAT_VERSION, "sha256": _BLANK}
    check_metadata(sealed, str(target))
    _check_arrays(tensors, str(target))
    try:
        text = json.dumps(sealed, sort_keys=True, ensure_ascii=False, allow_nan=False)
        arrays = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
        data = bytearray(save(arrays, {_KEY: text}))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{target}: cannot be stored: {error}") from error
    start = _find_digest(data, _BLANK, str(target))
    data[start : start + len(_BLANK)] = hashlib.sha256(data).hexdigest().encode()
    write_file(target, data, overwrite=overwrite)


def read_packed(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tensors]:
    """Read and check a packed model file.

    Returns:
        ``(metadata, tensors)``: the metadata object, complete and of the documented types, and the
        arrays by name, which cannot be written to.

    Raises:
        FormatError: The file is not a packed model, is damaged, or is of an unknown version.
        OSError: The file cannot be read.
    """
    with open_packed(path) as file:
        return file.metadata, file.tensors(file.read())


def looks_packed(path: str | os.PathLike[str]) -> bool:
    """Whether there is a packed file, if maybe a damaged one: judged by its metadata key.

    Never raises for a path that cannot be read.

    Example:
        >>> looks_packed("pytorch_model.bin")
        False
    """
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


@dataclass(frozen=True)
class PackedFile:
    """A packed file of which all but the tensors is read and checked; open until its block ends.

    Attributes:
        metadata: The metadata object, complete and of the documented types; not to be trusted
            before `read` has returned: only then is the checksum known to be right.
    """

    metadata: dict[str, Any] = field(repr=False)
    _name: str
    _header: bytes = field(repr=False)
    _entries: Entries = field(repr=False)
    _file: BinaryIO

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> bytes:
        """The bytes of the tensors, checked; once, from any thread.

        Raises:
            FormatError: The file is damaged.
            OSError: It cannot be read.
        """
        length = _data_length(self._entries)
        data = _read_data(self._file, len(self._header), length, self._name)
        _check_digest(self._header, data, self.metadata["sha256"], self._name)
        return data

    def tensors(self, data: bytes) -> Tensors:
        """The tensors in what `read` returned: copies would take as much memory again."""
        import numpy as np

        tensors = {}
        for tensor, entry in self._entries:
            kind, size = _DTYPES[entry["dtype"]]
            start, end = entry["data_offsets"]
            flat = np.frombuffer(data, kind, (end - start) // size, start)
            tensors[tensor] = (flat if flat.flags.aligned else flat.copy()).reshape(entry["shape"])
        return tensors


def open_packed(path: str | os.PathLike[str]) -> PackedFile:
    """Read and check a packed file up to its tensors.  Does without NumPy, whose import takes long.

    Raises:
        As `read_packed`.
    """
    name = os.fsdecode(path)
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        header = _read_header(file, name)
        container = _parse_object(header[_LENGTH_BYTES:], f"{name}: header")
        metadata = _parse_metadata(container, name)
        entries = _read_entries(container, name)
        stack.pop_all()
    return PackedFile(metadata, name, header, entries, file)


# ---- reading


def _header_length(start: bytes | bytearray) -> int:
    return int.from_bytes(start[:_LENGTH_BYTES], "little")


def _read_header(file: BinaryIO, name: str) -> bytes:
    """The length and the JSON header, after checking the length against the file and the cap."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(_LENGTH_BYTES)
    if size < _LENGTH_BYTES + 2 or len(start) < _LENGTH_BYTES:
        raise FormatError(f"{name}: {size} bytes is too short for a packed model file")
    length = _header_length(start)
    limit = min(size - _LENGTH_BYTES, _MAX_HEADER)
    if not 2 <= length <= limit:
        raise FormatError(
            f"{name}: not a packed model file: header length {length}, expected 2..{limit}"
        )
    header = start + file.read(length)
    if len(header) != _LENGTH_BYTES + length:
        raise FormatError(f"{name}: truncated in its header")
    return header


def _parse_metadata(container: dict[str, Any], name: str) -> dict[str, Any]:
    """The checked metadata object inside the container's header."""
    strings = container.get("__metadata__", {})
    if not isinstance(strings, dict) or list(strings) != [_KEY]:
        raise FormatError(
            f"{name}: a safetensors file, but not a packed model: "
            f"expected the one metadata key {_KEY!r}"
        )
    metadata = _parse_object(strings[_KEY], f"{name}: metadata {_KEY!r}")
    check_metadata(metadata, name)
    return metadata


def _read_entries(container: dict[str, Any], name: str) -> Entries:
    """What the header says of each tensor, in the order of their bytes; all of it is checked."""
    entries = [(tensor, entry) for tensor, entry in container.items() if tensor != "__metadata__"]
    for tensor, entry in entries:
        where = f"{name}: tensor {quote(tensor)}"
        _check_plain(tensor, where, 0)  # the native code takes names as UTF-8
        _check_entry(entry, where)
    entries.sort(key=lambda item: item[1]["data_offsets"])
    end = 0
    for tensor, entry in entries:
        start, next_end = entry["data_offsets"]
        if start != end:
            raise FormatError(f"{name}: tensor {quote(tensor)}: begins at {start}, expected {end}")
        end = next_end
    return entries


def _data_length(entries: Entries) -> int:
    return entries[-1][1]["data_offsets"][1] if entries else 0


def _check_entry(entry: Any, where: str) -> None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise FormatError(f"{where}: dtype {quote(dtype)}, expected one of {', '.join(_DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(
            f"{where}: shape and data_offsets must be lists of at most two sizes 0..{_MAX_DATA}"
        )
    if offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype][1]:
        raise FormatError(f"{where}: data_offsets {offsets} do not fit {dtype} {shape}")


def _are_sizes(values: Any) -> bool:
    """Few and small enough that products are cheap: JSON integers have thousands of digits."""
    return (
        isinstance(values, list)
        and len(values) <= _MAX_AXES
        and all(type(value) is int and 0 <= value <= _MAX_DATA for value in values)
    )


def _read_data(file: BinaryIO, start: int, length: int, name: str) -> bytes:
    size = os.fstat(file.fileno()).st_size
    if size != start + length:
        raise FormatError(f"{name}: {size} bytes, expected {start + length} by its header")
    data = file.read(length)
    if len(data) != length:
        raise FormatError(f"{name}: truncated in its tensors")
    return data


def _parse_object(text: Any, where: str) -> dict[str, Any]:
    """Strict JSON: one object, no repeated keys, no NaN."""
    if not isinstance(text, (str, bytes)):
        raise FormatError(f"{where}: expected text, found {type(text).__name__}")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"repeated key {quote(repeated)}")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# ---- checksum


def _find_digest(data: bytes | bytearray, digest: str, name: str) -> int:
    """Where the digits of the file's own checksum stand.

    It is JSON inside JSON, so quotes are escaped; keys are sorted, so ``source`` comes next.
    """
    before = b'\\"sha256\\": \\"'
    field = before + digest.encode() + b'\\", \\"source\\"'
    end = _LENGTH_BYTES + _header_length(data)
    if data.count(field, 0, end) != 1:
        raise FormatError(
            f"{name}: metadata 'sha256' must occur once, written as this package does"
        )
    return data.index(field) + len(before)


def _check_digest(header: bytes, data: bytes, digest: str, name: str) -> None:
    import hashlib  # here it is imported beside NumPy, where `read` has a thread

    start = _find_digest(header, digest, name)
    hasher = hashlib.sha256(header[:start])
    hasher.update(_BLANK.encode())
    hasher.update(header[start + len(_BLANK) :])
    hasher.update(data)
    if hasher.hexdigest() != digest:
        raise FormatError(f"{name}: damaged: SHA-256 is {hasher.hexdigest()}, expected {digest}")


# ---- metadata


def check_metadata(metadata: Mapping[str, Any], name: str) -> None:
    """Check every field of the metadata object: presence, type, and agreement with the others.

    Raises:
        FormatError: Names the field, what was found and what was expected.
    """
    check = _Fields(metadata, name)
    check.choice("format_version", (FORMAT_VERSION,))
    check.choice("architecture", ARCHITECTURES)
    check.choice("recipe", RECIPES)
    check.only(
        *("format_version", "architecture", "recipe", "writer", "config", "labels", "task"),
        *("vocab", "tokenizer", "source", "licence", "report", "sha256"),
    )
    for key, value in metadata.items():
        _check_plain(value, f"{name}: metadata {quote(key)}", _MAX_LEVELS)
    check.text("writer")
    check.optional_text("task")
    check.optional_text("licence")
    check.digits("sha256")
    check.object("report")
    _check_source(check.object("source"))
    config = check.object("config")
    _check_config(config)
    _check_tokenizer(check.object("tokenizer"), config.values["positions"])
    _check_labels(check, config.values)
    _check_vocab(check, config.values["vocab"])


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


def _check_config(config: _Fields) -> None:
    config.only(*SIZES, "activation", "head")
    for size in SIZES:
        config.integer(size, 1, _MAX_SIZE)
    config.choice("activation", ACTIVATIONS)
    config.choice("head", HEADS)
    hidden, heads = config.values["hidden"], config.values["heads"]
    if hidden % heads:
        config.wrong("heads", f"a divisor of hidden {hidden}")
    if config.values["head"] == "span" and config.values["labels"] != 2:
        config.wrong("labels", "2 (start, end) for a span head")


def _check_tokenizer(tokenizer: _Fields, positions: int) -> None:
    tokenizer.only("lowercase", "max_length")
    tokenizer.boolean("lowercase")
    tokenizer.integer("max_length", 3, positions)


def _check_source(source: _Fields) -> None:
    source.only("file", "sha256")
    source.text("file")
    source.digits("sha256")


def _check_labels(check: _Fields, config: Mapping[str, Any]) -> None:
    """One name a class; a regression (one output) and a span head have no names."""
    labels = check.strings("labels")
    classes = config["labels"] if config["head"] == "classification" else 0
    expected = classes if classes > 1 else 0
    if len(labels) != expected:
        check.fail("labels", f"{len(labels)} names", f"{expected} for this head")
    if len(set(labels)) != len(labels):
        check.wrong("labels", "names that differ")


def _check_vocab(check: _Fields, size: int) -> None:
    """One token a line; the word table may have spare rows at its end."""
    words = check.text("vocab").split("\n")
    if len(words) > size:
        check.fail("vocab", f"{len(words)} lines", f"at most {size}, as config.vocab says")
    if len(set(words)) != len(words) or "" in words:
        check.fail("vocab", "repeated or empty lines", "lines that differ")


class _Fields:
    """Typed access to a JSON object, with errors that name the field by its full path."""

    def __init__(self, values: Mapping[str, Any], file: str, path: str = "") -> None:
        self.values = values
        self._file = file
        self._path = path

    def fail(self, key: str, found: str, expected: str) -> NoReturn:
        raise FormatError(
            f"{self._file}: metadata {self._path + key!r}: found {found}, expected {expected}"
        )

    def wrong(self, key: str, expected: str) -> NoReturn:
        # Not repr: the value may be long, and nested more deeply than repr can follow.
        self.fail(key, quote(self.values.get(key)), expected)

    def only(self, *keys: str) -> None:
        """Exactly these keys."""
        for key in sorted(set(self.values) - set(keys), key=str):
            self.fail(str(key)[:80], "an unknown field", f"only {', '.join(keys)}")
        for key in keys:
            if key not in self.values:
                self.fail(key, "nothing at all", "this field")

    def choice(self, key: str, allowed: tuple[str, ...]) -> None:
        value = self.values.get(key)
        if not isinstance(value, str) or value not in allowed:
            self.wrong(key, " or ".join(map(repr, allowed)))

    def text(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str):
            self.wrong(key, "text")
        return value

    def optional_text(self, key: str) -> None:
        if self.values[key] is not None:
            self.text(key)

    def digits(self, key: str) -> None:
        value = self.values[key]
        hexadecimal = "0123456789abcdef"
        if not isinstance(value, str) or len(value) != 64 or value.strip(hexadecimal):
            self.wrong(key, "64 lower-case hexadecimal digits")

    def boolean(self, key: str) -> None:
        if not isinstance(self.values[key], bool):
            self.wrong(key, "true or false")

    def integer(self, key: str, low: int, high: int) -> None:
        value = self.values[key]
        if type(value) is not int or not low <= value <= high:
            self.wrong(key, f"an integer {low}..{high}")

    def strings(self, key: str) -> list[str]:
        value = self.values[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(key, "a list of strings")
        return value

    def object(self, key: str) -> _Fields:
        value = self.values[key]
        if not isinstance(value, dict):
            self.wrong(key, "an object")
        return _Fields(value, self._file, f"{self._path}{key}.")


# ---- writing


def _check_arrays(tensors: Mapping[str, NDArray[Any]], name: str) -> None:
    """What can be written can be read again."""
    dtypes = [dtype for dtype, _ in _DTYPES.values()]
    for tensor, array in tensors.items():
        if array.dtype.name not in dtypes or array.ndim > _MAX_AXES:
            raise FormatError(
                f"{name}: tensor {quote(tensor)}: found {array.dtype.name} {array.shape}, "
                f"expected {' or '.join(dtypes)} and at most {_MAX_AXES} axes"
            )
