"""Reads BERT folders as Hugging Face writes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bitinfer.codes import FLOAT, Bits
from bitinfer.config import Config
from bitinfer.errors import ConversionError, InputError, quote, shorten
from bitinfer.families.bert import check_setting, read_sizes, real_names
from bitinfer.families.checkpoint import read_settings, read_vocab
from bitinfer.runtime.text import TextTokenizer
from bitinfer.train.student import Student

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

# What the configuration of a BERT can say that our network does not do.
_EXPECTED = {
    "weight_bits": FLOAT,
    "input_bits": FLOAT,
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_HEAD = ("classifier.weight", "classifier.bias")
_POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
# Settings of a tokenizer, and what they are called in ``tokenizer.json``.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


@dataclass(frozen=True)
class Folder:
    """A local folder of a BERT model."""

    path: Path
    settings: dict[str, Any]  # its config.json
    config: Config
    names: tuple[str, ...] | None  # of the classes, if it tells any but numbers
    vocab: str  # its tokens, one a line
    lowercase: bool

    @cached_property
    def sha256(self) -> str:
        """Of all that decides what is learned from it: weights, configuration, tokens."""
        model, found = _probe(self)
        parts = [self.settings, self.vocab, self.lowercase]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        # What is missing, or does not fit, is drawn at random.
        drawn = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
        for key, value in model.state_dict().items():
            if key not in drawn:
                digest.update(key.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    def tokenizer(self) -> TextTokenizer:
        """The engine's own tokenizer with this vocabulary, so that training sees its tokens."""
        return TextTokenizer(self.vocab, lowercase=self.lowercase, name=str(self.path))

    def write_tokenizer(self, folder: Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_config.json``."""
        settings = {
            "do_lower_case": self.lowercase,
            "model_max_length": self.config.positions,
            "tokenizer_class": "BertTokenizer",
        }
        (folder / "vocab.txt").write_text(f"{self.vocab}\n", encoding="utf-8", newline="\n")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Read everything but the weights; a ConversionError names what we cannot follow."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected one with the files of a BERT model")
    try:
        settings = read_settings(folder)
        for key, expected in _EXPECTED.items():
            found = settings.get(key, expected)
            check_setting(key, found, found == expected, repr(expected))
        told = settings.get("id2label")
        names, labels = real_names(told), len(told or ()) or settings.get("num_labels", 2)
        if names is not None and len({*names}) != len(names):
            raise ConversionError(f"config id2label: found a name twice in {quote(list(names))}")
        config = Config(**read_sizes(settings), labels=labels, head="classification")
        vocab, tokenizer = _read_tokenizer(folder)
        if len(vocab) > config.vocab:
            raise ConversionError(
                f"vocab: found {len(vocab)} tokens, expected at most vocab_size {config.vocab}"
            )
        # The reader of what we write believes config.json first.
        if settings.get("do_lower_case") is not None:
            tokenizer["do_lower_case"] = settings["do_lower_case"]
        text = "\n".join(vocab)
        return Folder(folder, settings, config, names, text, _lowercase(tokenizer))
    except (ConversionError, InputError) as error:
        raise ConversionError(f"{folder}: {error}") from None


def has_head(folder: Folder) -> bool:
    """Whether the folder holds a classifier, and not an encoder alone."""
    _, found = _probe(folder)
    return {*_HEAD}.isdisjoint(found["missing_keys"])


def read_bert(
    folder: Folder, *, outputs: int, head: bool, dropout: float | None = None
) -> BertForSequenceClassification:
    """The float32 model, as transformers builds it, with so many rows of the classifier.

    Unless the head must be there, one is drawn at random if none of that size is, as is the pooler.
    """
    options: dict[str, Any] = {"num_labels": outputs}
    if dropout is not None:
        options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model, report = _load(folder, **options)
    may_miss = () if head else (*_HEAD, *_POOLER)
    missing = sorted(key for key in report["missing_keys"] if key not in may_miss)
    if missing:
        hint = "; `bitinfer finetune` makes a head" if set(missing) & set(_HEAD) else ""
        raise ConversionError(
            f"{folder.path}: found no weights {', '.join(missing[:3])} "
            f"({len(missing)} missing), expected those of a BERT classifier{hint}"
        )
    for key, found, expected in sorted(report["mismatched_keys"]):
        if head or key not in _HEAD:
            raise ConversionError(
                f"{folder.path}: {key}: found shape {list(found)}, expected {list(expected)}"
            )
    return model


def _probe(folder: Folder) -> tuple[BertForSequenceClassification, dict[str, Any]]:
    """What is there; what is not is drawn, without a trace in the state of random numbers."""
    with torch.random.fork_rng():
        return _load(folder)


def _load(folder: Folder, **options: Any) -> tuple[BertForSequenceClassification, dict[str, Any]]:
    """The float32 model, and what transformers says of the weights it found."""
    from transformers import BertForSequenceClassification

    try:
        with _quiet():
            model, found = BertForSequenceClassification.from_pretrained(
                folder.path,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # it names them
                dtype=torch.float32,
                weights_only=True,
                **options,
            )
    except Exception as error:  # a damaged file can make transformers raise anything
        said = f"{type(error).__name__}: {shorten(str(error))}"
        raise ConversionError(
            f"{folder.path}: found no weights that can be read ({said}), expected those of a BERT"
        ) from None
    return model, found


def as_student(model: BertForSequenceClassification, *, dtype: torch.dtype) -> Student:
    """The same network as ours with 32 bits; ``dtype`` is that of the factors of its products."""
    settings, bits = model.config, Bits.parse("32-32-32")
    sizes = read_sizes(settings.to_dict())
    config = Config(**sizes, labels=settings.num_labels, head="classification")
    student = Student(config, bits, dtype=dtype, epsilon=settings.layer_norm_eps)
    # What ours has and BERT has not are shifts, which are 0, and steps.
    student.load_state_dict(model.state_dict(), strict=False)
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


def _read_tokenizer(folder: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The tokens, and the settings of the tokenizer by the names in ``tokenizer_config.json``."""
    settings: dict[str, Any] = {}
    # transformers 5 writes the second and no more the first.
    if not (folder / "vocab.txt").exists() and (folder / "tokenizer.json").exists():
        whole = read_settings(folder / "tokenizer.json")
        model, normalizer = whole.get("model"), whole.get("normalizer")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise ConversionError("tokenizer.json: found no vocabulary, expected one of WordPiece")
        if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
            raise ConversionError(
                f"tokenizer.json normalizer: found {quote(normalizer)}, expected a BertNormalizer"
            )
        vocab = read_vocab(model["vocab"])
        settings = {name: normalizer.get(key) for name, key in _NORMALIZER.items()}
    else:
        vocab = read_vocab(folder)
    if (folder / "tokenizer_config.json").exists():
        settings |= read_settings(folder / "tokenizer_config.json")
    return vocab, settings


def _lowercase(settings: dict[str, Any]) -> bool:
    """Whether the tokenizer lower-cases, if it does what ours does."""
    lowercase = settings.get("do_lower_case")
    lowercase = True if lowercase is None else lowercase
    if not isinstance(lowercase, bool):
        raise ConversionError(f"do_lower_case: found {quote(lowercase)}, expected true or false")
    for key, expected in (("strip_accents", lowercase), ("tokenize_chinese_chars", True)):
        if settings.get(key) not in (None, expected):
            raise ConversionError(
                f"tokenizer {key}: found {quote(settings[key])}, expected {expected} or nothing "
                f"where do_lower_case is {lowercase}"
            )
    return lowercase
