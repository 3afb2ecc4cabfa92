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

from bitinfer.codes import Bits
from bitinfer.errors import ConversionError, InputError, quote, shorten
from bitinfer.families.checkpoint import read_config, read_vocab
from bitinfer.runtime.text import TextTokenizer
from bitinfer.train.student import Shape, Student

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

__all__ = ["SIZES", "Folder", "as_student", "has_head", "open_folder", "read_bert"]

# What the configuration of a BERT can say that our network does not do.
_EXPECTED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
#: What the configuration calls the sizes of a network.
SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
}
_HEAD = ("classifier.weight", "classifier.bias")
_POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
# Settings of a tokenizer, and what they are called in ``tokenizer.json``.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
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
    def outputs(self) -> int:
        """Rows of the classifier, as transformers has it from the configuration."""
        names = self.config.get("id2label")
        return len(names) if isinstance(names, dict) else self.config.get("num_labels", 2)

    @property
    def positions(self) -> int:
        """Most tokens of a sequence."""
        return int(self.config["max_position_embeddings"])

    @cached_property
    def sha256(self) -> str:
        """Of all that decides what is learned from it: weights, configuration, tokens.

        Raises:
            ConversionError: the weights cannot be read.
        """
        model, found = _probe(self)
        parts = [self.config, self.vocab, self.lowercase]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for key, value in model.state_dict().items():
            if key not in found["missing_keys"]:  # those are drawn at random
                digest.update(key.encode() + value.numpy().tobytes())
        return digest.hexdigest()

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
        ConversionError: a file is missing or damaged, or says that the model is not a BERT, or that
            its tokens are not those that our tokenizer makes.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected one with the files of a BERT model")
    try:
        config = read_config(folder)
        _check_config(config)
        vocab, settings = _read_tokenizer(folder)
        # The reader of what we write believes config.json first.
        if config.get("do_lower_case") is not None:
            settings["do_lower_case"] = config["do_lower_case"]
        lowercase = _lowercase(settings)
    except ConversionError as error:
        raise ConversionError(f"{folder}: {error}") from None
    if len(vocab) > config["vocab_size"]:
        raise ConversionError(
            f"{folder}: vocab: found {len(vocab)} tokens, "
            f"expected at most vocab_size {config['vocab_size']}"
        )
    return Folder(folder, config, "\n".join(vocab), lowercase)


def has_head(folder: Folder) -> bool:
    """Whether the folder holds a classifier, and not an encoder alone.

    Raises:
        ConversionError: its weights cannot be read.
    """
    _, found = _probe(folder)
    return not {*_HEAD} & {*found["missing_keys"]}


def read_bert(
    folder: Folder, *, outputs: int, head: bool, dropout: float | None = None
) -> BertForSequenceClassification:
    """The float32 model, as transformers builds it.

    Args:
        outputs: rows of the classifier.
        head: whether it must be in the folder; otherwise one is drawn at random if the folder has
            none of that size, as is the pooler if the folder has none.
        dropout: probability for training; default that of the configuration.

    Raises:
        ConversionError: weights are damaged, missing, or of another shape than expected.
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
        if key in _HEAD and head:
            raise ConversionError(
                f"{folder.path}: found a head of {found[0]} outputs, expected {outputs} "
                "(one for each label, or one for a regression)"
            )
        if key not in _HEAD:
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
    config = model.config
    shape = Shape(
        **{name: getattr(config, key) for name, key in SIZES.items()},
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


def _check_config(config: dict[str, Any]) -> None:
    for key, expected in _EXPECTED.items():
        found = config.get(key, expected)
        if found != expected:
            raise ConversionError(f"config {key}: found {quote(found)}, expected {expected!r}")
    for key in SIZES.values():
        if type(config.get(key)) is not int or config[key] < 1:
            raise ConversionError(
                f"config {key}: found {quote(config.get(key))}, expected a positive integer"
            )
    for key in ("weight_bits", "input_bits"):
        if config.get(key, 32) != 32:
            raise ConversionError(
                f"config {key}: found {quote(config[key])}, expected a float model to begin with"
            )
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    if hidden % heads:
        raise ConversionError(
            f"config num_attention_heads: found {heads}, expected a divisor of hidden_size {hidden}"
        )
    if config.get("hidden_act") not in _ACTIVATIONS:
        raise ConversionError(
            f"config hidden_act: found {quote(config.get('hidden_act'))}, "
            f"expected one of {_ACTIVATIONS}"
        )


def _read_tokenizer(folder: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The tokens, and the settings of the tokenizer by the names in ``tokenizer_config.json``."""
    settings: dict[str, Any] = {}
    # transformers 5 writes the second and no more the first.
    if not (folder / "vocab.txt").exists() and (folder / "tokenizer.json").exists():
        whole = read_config(folder / "tokenizer.json")
        model, normalizer = (whole.get(key) for key in ("model", "normalizer"))
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
        settings |= read_config(folder / "tokenizer_config.json")
    return vocab, settings


def _lowercase(settings: dict[str, Any]) -> bool:
    """Whether the tokenizer lower-cases, if it does what ours does."""
    value: object = settings.get("do_lower_case")
    lowercase = True if value is None else value
    if not isinstance(lowercase, bool):
        raise ConversionError(f"do_lower_case: found {quote(value)}, expected true or false")
    for key, expected in (("strip_accents", lowercase), ("tokenize_chinese_chars", True)):
        if settings.get(key) not in (None, expected):
            raise ConversionError(
                f"tokenizer {key}: found {quote(settings[key])}, expected {expected} or nothing "
                f"where do_lower_case is {lowercase}"
            )
    return lowercase
