"""Finds and opens the files of a PyTorch checkpoint: weights, configuration, vocabulary.

Weights are unpickled with ``weights_only=True`` and in no other way, by a PyTorch that keeps what
this promises: no code of a checkpoint runs.  Nor can a small file ask for much memory.
PyTorch is imported only when weights are read.  What is missing, damaged or something else raises a
ConversionError that names it, and a PyTorch that is missing or too old an UnsupportedError.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bitinfer.config import SPECIAL_TOKENS
from bitinfer.errors import ConversionError, UnsupportedError, quote, shorten
from bitinfer.files import file_sha256

if TYPE_CHECKING:
    import torch

    from bitinfer.codes import Bits

PathLike: TypeAlias = "str | os.PathLike[str]"
ConfigSource: TypeAlias = "PathLike | Mapping[str, Any]"
VocabSource: TypeAlias = "PathLike | Sequence[str]"

_STATE_KEYS = ("state_dict", "model", "model_state_dict")
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_BESIDE = {"config": "config.json", "vocab": "vocab.txt"}
_WEIGHT_SUFFIXES = (".bin", ".pt", ".pth")
# weights_only=True was not safe before: CVE-2025-32434 (up to 2.5), CVE-2026-24747 (up to 2.9).
_OLDEST_TORCH = (2, 10)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as found, nothing of it interpreted, and what its user says beside it."""

    state: dict[str, torch.Tensor]  # without the ``module.`` prefix of a data-parallel run
    settings: dict[str, Any]  # of config.json
    vocab: tuple[str, ...]  # the token of every id
    lowercase: bool  # whether the tokenizer lower-cases
    file: str  # of the weights
    sha256: str
    # What the user says, or None.
    labels: Sequence[str] | None = None  # names of the classes in the order of the head's rows
    task: str | None = None  # one of `bitinfer.families.bert`
    bits: Bits | None = None  # where the settings do not tell them

    def values(self, key: str) -> npt.NDArray[np.float32]:
        """A tensor as float32 of its shape, if every value is finite and stays the same.

        float16 and bfloat16 always fit; float64 does where each value is a float32.
        """
        import torch

        tensor = self.state[key]
        known = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        if not known or tensor.layout != torch.strided or tensor.device.type != "cpu":
            found = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
            raise ConversionError(f"{key}: found {found}, expected a dense torch.float32 on cpu")
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ConversionError(f"{key}: found fewer stored values than its shape has")
        narrow = tensor.detach().to(torch.float32)
        value: npt.NDArray[np.float32] = narrow.contiguous().numpy()
        if len(infinite := np.argwhere(~np.isfinite(value))):
            at = infinite[0].tolist()
            found = f"{tensor[tuple(at)].item()} at {at}"
            raise ConversionError(f"{key}: found {found}, expected finite float32 values")
        if tensor.dtype == torch.float64 and not torch.equal(narrow.double(), tensor):
            raise ConversionError(
                f"{key}: found float64 values that are not float32 values, expected torch.float32; "
                "convert the checkpoint to float32 yourself if that is what you mean"
            )
        return value


def open_checkpoint(
    path: PathLike,
    *,
    config: ConfigSource | None = None,
    vocab: VocabSource | None = None,
    **said: Any,
) -> Checkpoint:
    """Opens a checkpoint folder or a single weights file.

    Configuration and vocabulary are, in this order: what the caller passes, what the weights file
    holds beside its tensors (``config``, ``vocab``), ``config.json`` and ``vocab.txt`` next to it.
    ``said`` are the last fields of a `Checkpoint`.
    """
    weights = _weights_file(Path(path))
    state, extras = _split(weights, unpickle(weights))
    settings = read_settings(_source("config", config, extras, weights))
    return Checkpoint(
        state=_plain_keys(state),
        settings=settings,
        vocab=read_vocab(_source("vocab", vocab, extras, weights)),
        lowercase=_lowercase(settings, weights.parent / "tokenizer_config.json"),
        file=weights.name,
        sha256=file_sha256(weights),
        **said,
    )


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    published = path / "pytorch_model.bin"
    found = sorted(each for each in path.iterdir() if each.suffix in _WEIGHT_SUFFIXES)
    if published in found or len(found) == 1:
        return published if published in found else found[0]
    raise ConversionError(
        f"weights file in {str(path)!r}: found {[each.name for each in found] or 'none'}, "
        f"expected pytorch_model.bin or one {' or '.join(_WEIGHT_SUFFIXES)} file"
    )


def unpickle(weights: Path) -> object:
    """What `torch.save` wrote: tensors and plain data, and no code is run."""
    try:
        import torch
    except ImportError as error:
        what = f"{weights.name}: reading a checkpoint needs PyTorch"
        raise UnsupportedError(f"{what}: install bitinfer[torch]") from error
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < _OLDEST_TORCH:
        raise UnsupportedError(
            f"{weights.name}: found PyTorch {torch.__version__}, whose reader a file can subvert; "
            f"expected {'.'.join(map(str, _OLDEST_TORCH))} or newer: install bitinfer[torch]"
        )
    _check_unpacked_size(weights)
    try:
        content: object = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise ConversionError(
            f"{weights.name}: not a PyTorch file of plain tensors and settings: {error}"
        ) from error
    return content


def _check_unpacked_size(weights: Path) -> None:
    """PyTorch stores without compression; what unpacks to more than the file could fill memory."""
    try:
        with zipfile.ZipFile(weights) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an old or a damaged file: torch.load tells which
    size = weights.stat().st_size
    if unpacked > size:
        raise ConversionError(
            f"{weights.name}: found records of {unpacked} bytes in a file of {size}, "
            "expected them to be stored as torch.save does, without compression"
        )


def _split(weights: Path, content: object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The state dict, and the dict around it if there is one."""
    if not isinstance(content, Mapping):
        raise ConversionError(
            f"{weights.name}: found a {type(content).__name__}, expected a state dict"
        )
    wrapped = [key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
    if len(wrapped) > 1:
        raise ConversionError(f"{weights.name}: found state dicts under {wrapped}, expected one")
    return (content[wrapped[0]], content) if wrapped else (content, {})


def _plain_keys(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Checks that keys lead to tensors; drops ``module.``; renames the old LayerNorm parameters."""
    import torch

    plain: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise ConversionError(
                f"{shorten(str(key))}: found {type(tensor).__name__}, "
                "expected a tensor in the state dict"
            )
        name = key.removeprefix("module.")
        for old, new in _OLD_NAMES.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if name in plain:
            raise ConversionError(
                f"{shorten(key)}: found twice, once under another spelling of the key"
            )
        plain[name] = tensor
    return plain


def _source(what: str, given: Any, extras: Mapping[str, Any], weights: Path) -> Any:
    """The first that is there.  A path stands for a file; a str, from inside, for its content."""
    if given is not None:
        return Path(given) if isinstance(given, (str, os.PathLike)) else given
    if extras.get(what) is not None:
        return extras[what]
    beside = weights.with_name(_BESIDE[what])
    if beside.is_file():
        return beside
    raise ConversionError(
        f"{what}: none given, none inside {weights.name}, and no {beside.name} next to it; "
        f"pass {what}= (command line: --{what})"
    )


def read_settings(source: Any) -> dict[str, Any]:
    """Settings from a file or folder, a JSON text, or a mapping."""
    what = "config"
    if isinstance(source, Path):
        what = _BESIDE["config"] if source.is_dir() else source.name
        source = _text("config", source)
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"{what}: not JSON: {error}") from error
    if not isinstance(source, Mapping):
        raise ConversionError(f"{what}: found a {type(source).__name__}, expected a JSON object")
    return dict(source)


def read_vocab(source: Any) -> tuple[str, ...]:
    """Tokens from a file or folder, a text of lines, a mapping of tokens to ids, or a sequence."""
    source = _text("vocab", source)
    if isinstance(source, str):
        # Only line feeds end a token: a vocabulary may hold other characters that Unicode calls
        # line ends, so str.splitlines would shift the ids.
        tokens = source.removesuffix("\n").split("\n")
    elif isinstance(source, Mapping):
        ids = list(source.values())
        if any(type(each) is not int for each in ids) or sorted(ids) != list(range(len(ids))):
            raise ConversionError("vocab: found a mapping whose ids are not 0 .. n-1")
        tokens = sorted(source, key=source.__getitem__)
    elif isinstance(source, Sequence):
        tokens = list(source)
    else:
        raise ConversionError(f"vocab: found {type(source).__name__}, expected tokens or a path")
    seen: set[str] = set()
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token or "\n" in token:
            raise ConversionError(f"vocab: found {quote(token)} as token {index}, expected a word")
        if token in seen:
            raise ConversionError(f"vocab: found {quote(token)} twice, again as token {index}")
        seen.add(token)
    if missing := [token for token in SPECIAL_TOKENS if token not in seen]:
        raise ConversionError(f"vocab: missing {', '.join(missing)}")
    return tuple(tokens)


def _text(what: str, source: Any) -> Any:
    """The text in a file, or in the one of the usual name in a folder; else what was given."""
    if not isinstance(source, Path):
        return source
    path = source / _BESIDE[what] if source.is_dir() else source
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{what}: cannot read {path.name!r}: {error}") from error


def _lowercase(settings: Mapping[str, Any], tokenizer_config: Path) -> bool:
    """Published models are lower-cased unless their files say otherwise."""
    value: object = settings.get("do_lower_case")
    if value is None and tokenizer_config.is_file():
        value = read_settings(tokenizer_config).get("do_lower_case")
    if not isinstance(value, (bool, NoneType)):
        raise ConversionError(f"do_lower_case: found {quote(value)}, expected true or false")
    return value is not False
