"""Reads BERT folders as Hugging Face writes them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bitinfer.errors import ConversionError, InputError, quote, shorten
from bitinfer.text import TextTokenizer
from bitinfer.train.options import Bits
from bitinfer.train.student import Shape, Student

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

__all__ = ["Folder", "as_student", "open_folder", "read_model"]

# What the configuration of a BERT can say that our network does not do.
_EXPECTED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
}
_HEAD = ("classifier.weight", "classifier.bias")
_ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True)
class Folder:
    """A local folder of a BERT model.

    Attributes:
        path: where it is.
        config: its ``config.json``.
        vocab: its tokens, one a line.
        lowercase: whether its tokenizer lower-cases.
    """

    path: Path
    config: dict[str, Any]
    vocab: str
    lowercase: bool

    @property
    def positions(self) -> int:
        """Most tokens of a sequence."""
        return int(self.config["max_position_embeddings"])

    def tokenizer(self) -> TextTokenizer:
        """The engine's own tokenizer with this vocabulary, so that training sees its tokens."""
        return TextTokenizer(self.vocab, lowercase=self.lowercase, name=str(self.path))

    def write_tokenizer(self, folder: Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_config.json``."""
        settings = {
            "do_lower_case": self.lowercase,
            "model_max_length": self.positions,
            "tokenizer_class": "BertTokenizer",
        }
        (folder / "vocab.txt").write_text(f"{self.vocab}\n", encoding="utf-8", newline="\n")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Read everything but the weights.

    Raises:
        InputError: it is not a folder.
        ConversionError: a file is missing or damaged, or says that the model is not a BERT.
        OSError: a file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected one with the files of a BERT model")
    config = _read_json(folder / "config.json")
    for key, expected in _EXPECTED.items():
        found = config.get(key, expected)
        if found != expected:
            raise ConversionError(
                f"{folder}: config {key}: found {quote(found)}, expected {expected!r}"
            )
    for key in _SIZES.values():
        if type(config.get(key)) is not int or config[key] < 1:
            raise ConversionError(
                f"{folder}: config {key}: found {quote(config.get(key))}, "
                "expected a positive integer"
            )
    if config.get("hidden_act") not in _ACTIVATIONS:
        raise ConversionError(
            f"{folder}: config hidden_act: found {quote(config.get('hidden_act'))}, "
            f"expected one of {_ACTIVATIONS}"
        )
    vocab = _read_text(folder / "vocab.txt").rstrip("\n")
    if vocab.count("\n") >= config["vocab_size"]:
        raise ConversionError(
            f"{folder}: vocab.txt: found {vocab.count(chr(10)) + 1} tokens, "
            f"expected at most vocab_size {config['vocab_size']}"
        )
    return Folder(folder, config, vocab, _lowercase(folder))


def read_model(
    folder: Folder, *, outputs: int, head: bool, dropout: float | None = None
) -> BertForSequenceClassification:
    """The float32 model, as transformers builds it.

    Args:
        outputs: rows of the classifier.
        head: whether it must be in the folder; otherwise it is drawn at random, as is the pooler if
            the folder has none.
        dropout: probability for training; default that of the configuration.

    Raises:
        ConversionError: weights are missing, or of another shape than the configuration says.
    """
    from transformers import BertForSequenceClassification

    options: dict[str, Any] = {"num_labels": outputs}
    if dropout is not None:
        options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    try:
        with _quiet():
            model, report = BertForSequenceClassification.from_pretrained(
                folder.path,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=not head,
                dtype=torch.float32,
                **options,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConversionError(f"{folder.path}: {shorten(str(error))}") from None
    may_miss = () if head else (*_HEAD, "bert.pooler.dense.weight", "bert.pooler.dense.bias")
    missing = sorted(key for key in report["missing_keys"] if key not in may_miss)
    if missing:
        hint = "; `bitinfer finetune` makes a head" if set(missing) & set(_HEAD) else ""
        raise ConversionError(
            f"{folder.path}: found no weights {', '.join(missing[:3])} "
            f"({len(missing)} missing), expected those of a BERT classifier{hint}"
        )
    wrong = sorted(str(each[0]) for each in report["mismatched_keys"])
    wrong = [key for key in wrong if key not in _HEAD]
    if wrong:
        raise ConversionError(
            f"{folder.path}: {wrong[0]}: found another shape than the configuration says"
        )
    return model


def as_student(model: BertForSequenceClassification, *, dtype: torch.dtype) -> Student:
    """The same network as ours with 32 bits; ``dtype`` is that of the factors of its products."""
    config = model.config
    shape = Shape(
        **{name: getattr(config, key) for name, key in _SIZES.items()},
        outputs=config.num_labels,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
    )
    student = Student(shape, Bits(32, 32, 32), dtype=dtype)
    # What ours has and BERT has not are shifts, which are 0, and steps.
    own = student.state_dict()
    student.load_state_dict(
        own | {key: value for key, value in model.state_dict().items() if key in own}
    )
    return student


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and tables of transformers: what is missing, we say ourselves."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _lowercase(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return True
    return bool(_read_json(path).get("do_lower_case", True))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: found no JSON ({error}), expected an object") from None
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: found {quote(content)}, expected an object")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConversionError(f"{path}: found no such file, expected one") from None
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path}: not UTF-8: {error}") from None
