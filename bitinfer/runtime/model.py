"""`load`, and the model it returns: text or arrays in, labels, scores and vectors out."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitinfer.checks import check_bool, check_choice, check_engine, check_int, shows_progress
from bitinfer.codes import POINTS, Bits, PointCodes
from bitinfer.config import MIN_LENGTH
from bitinfer.errors import FormatError, InputTypeError, UnsupportedError, shorten
from bitinfer.heads import Head, find_head
from bitinfer.results import EncoderOutput, Prediction
from bitinfer.runtime.engine import make_engine
from bitinfer.runtime.format import Tensors
from bitinfer.runtime.inputs import (
    How,
    PaddedBatch,
    Second,
    Seconds,
    Text,
    Texts,
    read_padded,
    read_texts,
)
from bitinfer.runtime.origin import Origin, find_builtin, find_model, read_model
from bitinfer.runtime.sizes import by_part
from bitinfer.runtime.text import TextTokenizer, TokenBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

Pooling = Literal["cls", "mean", "pooler"]
Floats = NDArray[np.float64]


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    num_threads: int | None = None,
    isa: str | None = None,
) -> BitModel:
    """Load a model from the disk.  Nothing is ever downloaded.

    Args:
        path: A packed file, a folder that holds one as ``packed.safetensors`` (as `distill` makes
            it), a checkpoint folder or file, which is converted in memory (needs PyTorch), or the
            name of a built-in model.  The content decides, not the ending, and an existing path
            wins over a name.
        device: ``"cpu"``.
        num_threads: Threads of one call; default ``BITINFER_NUM_THREADS``, else the CPUs this
            process may use.
        isa: Instruction set, one of :func:`bitinfer.available_isas`; default ``BITINFER_ISA``, else
            the best one.  The answers do not depend on it.

    Raises:
        FormatError: The packed file is damaged or of an unknown version.
        ConversionError: The checkpoint cannot be converted exactly.
        UnsupportedError: The device or instruction set is not there, or PyTorch is missing.
        InputError, InputTypeError: There is no such path or name, or an option is not allowed.
        OSError: The file cannot be read.

    >>> model = load("sst2")
    >>> model.predict("a warm and funny film").label
    'positive'
    """
    if str(device) != "cpu":
        raise UnsupportedError(f"device: found {str(device)!r}, expected 'cpu'")
    options = check_engine(num_threads, isa)
    return BitModel(find_model(path), **options)


class BitModel:
    """A binarized BERT, ready to run.  Made by :func:`load`.

    A model never changes and may be used from many threads at once.  It pickles by its file: the
    other process reads the same path.  Results do not depend on the batch, its order, the number of
    threads or the instruction set, to the last bit.
    """

    def __init__(
        self,
        origin: Origin,
        num_threads: int | None = None,
        isa: str | None = None,
        content: tuple[dict[str, Any], Tensors] | None = None,
    ) -> None:
        """Not for users.  ``content`` is what `read_model` returned, if it was called before."""
        if not isinstance(origin, Origin):
            raise InputTypeError(
                f"BitModel: found {type(origin).__name__}; models are made by bitinfer.load"
            )
        metadata, tensors = content or read_model(origin)
        self._metadata = metadata
        self._origin = origin
        self._options = (num_threads, isa)
        self._head = find_head(metadata["config"]["head"], metadata["config"]["labels"])
        self._sizes = by_part((name, tensor.nbytes) for name, tensor in tensors.items())
        self._sizes["vocabulary"] = len(metadata["vocab"].encode())
        lowercase = metadata["tokenizer"]["lowercase"]
        self._tokenizer = TextTokenizer(metadata["vocab"], lowercase=lowercase, name=str(origin))
        try:
            self._core = make_engine(metadata, tensors, isa=isa, num_threads=num_threads)
        except FormatError as error:
            raise FormatError(f"{origin}: {shorten(str(error))}") from None

    # ---- what the model is

    @property
    def config(self) -> dict[str, int | str]:
        """Sizes and kinds: hidden, layers, heads, intermediate, vocab, positions, ..."""
        return dict(self._metadata["config"])

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits; none for regression and span models."""
        return list(self._metadata["labels"])

    @property
    def max_length(self) -> int:
        """Most tokens of a sequence unless a call says otherwise, special tokens included."""
        return int(self._metadata["tokenizer"]["max_length"])

    def info(self) -> dict[str, Any]:
        """Everything known about the model as plain data, ready for JSON.

        ``bits`` are those of weights, embeddings and activations.  ``bytes`` is the size of each
        part of the packed file and their ``total``, without metadata other than the vocabulary.
        ``sha256`` is the checksum of the packed file, ``None`` for a checkpoint that was converted
        in memory; ``source`` has that of the weights.  ``weight_bytes`` is the memory of the loaded
        weights, ``workspace_bytes`` that of the largest call so far, kept for the next one; up to
        eight calls at a time keep one each.  It does not grow with the batch: with one bit and at
        least 384 hidden units it stays below ``num_threads * (positions + 128) * (10 * hidden +
        intermediate / 4)``.
        """
        codes = self._metadata["codes"]
        described = copy.deepcopy({k: v for k, v in self._metadata.items() if k != "vocab"})
        return {
            "model": str(self._origin),
            **described,
            "bits": str(Bits(1, 1, tuple(PointCodes.parse(codes[point]).bits for point in POINTS))),
            "sha256": described.get("sha256"),
            "bytes": {**self._sizes, "total": sum(self._sizes.values())},
            "isa": self._core.isa,
            "num_threads": self._core.num_threads,
            "weight_bytes": self._core.weight_bytes,
            "workspace_bytes": self._core.workspace_bytes,
        }

    def __repr__(self) -> str:
        core = self._core
        return f"BitModel({str(self._origin)!r}, isa={core.isa!r}, num_threads={core.num_threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._origin, self._identity(), *self._options)

    def _identity(self) -> str:
        """Differs between models: the metadata hold checksums of all that is not in them."""
        return hashlib.sha256(json.dumps(self._metadata, sort_keys=True).encode()).hexdigest()

    # ---- from text

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is an Iterable[str], and is one text
        self, texts: Text, text_pairs: Second = ..., *, top_k: Literal[1] = ..., **how: Unpack[How]
    ) -> Prediction: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is an Iterable[str], and is one text
        self, texts: Text, text_pairs: Second = ..., *, top_k: int | None, **how: Unpack[How]
    ) -> list[Prediction]: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # 1 is an int, and is one result
        self,
        texts: Texts,
        text_pairs: Seconds = ...,
        *,
        top_k: Literal[1] = ...,
        **how: Unpack[How],
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self, texts: Texts, text_pairs: Seconds = ..., *, top_k: int | None, **how: Unpack[How]
    ) -> list[list[Prediction]]: ...

    def predict(
        self,
        texts: Text | Texts,
        text_pairs: Second | Seconds = None,
        *,
        top_k: int | None = 1,
        **how: Unpack[How],
    ) -> Any:
        """Classify texts.

        Args:
            texts: One text gives one result; a list or any other iterable gives a list.  A text is
                a string, or a pair as a tuple ``(text, second)`` or a mapping
                ``{"text": ..., "text_pair": ...}``.
            text_pairs: The second texts, if ``texts`` holds strings.
            top_k: 1 gives the best `Prediction` of each text; another number, or ``None`` for all
                classes, a list, best first.
            batch_size: Texts that are run together; it changes the speed and nothing else.
            max_length: Most tokens of a sequence; default :attr:`max_length`, at most
                ``config["positions"]``.
            truncation: Cut longer sequences; otherwise they are an error.
            show_progress_bar: ``None`` shows one if the logger ``bitinfer`` is at level INFO.

        Raises:
            InputError, InputTypeError: An option or text is not allowed; names it.
            UnsupportedError: The model has a span head.

        >>> label, score, _ = model.predict("a warm and funny film")
        >>> model.predict(["good", "bad"], top_k=None)[1][0].label
        'negative'
        """
        head, classes = self._text_head("predict"), self._metadata["config"]["labels"]
        count = classes if top_k is None else check_int("top_k", top_k, 1, classes)
        single, logits = self._logits(texts, text_pairs, **how)
        results: list[Any] = head.decode(logits, self._metadata["labels"], count)
        results = [row[0] for row in results] if top_k == 1 else results
        return results[0] if single else results

    def predict_proba(
        self, texts: Text | Texts, text_pairs: Second | Seconds = None, **how: Unpack[How]
    ) -> Floats:
        """Probabilities of all classes: float64 [n, labels], or [labels] for one text.

        As :meth:`predict`; a regression model has no probabilities (`UnsupportedError`).

        >>> model.predict_proba(["good", "bad"]).argmax(axis=1)
        array([1, 0])
        """
        head = self._text_head("predict_proba")
        if not head.has_names:
            raise UnsupportedError(f"predict_proba: a {head.kind} model has none; use logits")
        single, logits = self._logits(texts, text_pairs, **how)
        probabilities = head.probabilities(logits)
        return probabilities[0] if single else probabilities

    def logits(
        self, texts: Text | Texts, text_pairs: Second | Seconds = None, **how: Unpack[How]
    ) -> Floats:
        """What the head computes: float64 [n, labels], or [labels] for one text.

        As :meth:`predict`; a regression model gives its values, [n], or a scalar for one text.
        """
        head = self._text_head("logits")
        single, logits = self._logits(texts, text_pairs, **how)
        values = head.values(logits)
        return values[0] if single else values

    def encode(
        self,
        texts: Text | Texts,
        text_pairs: Second | Seconds = None,
        *,
        pooling: Pooling = "cls",
        normalize_embeddings: bool = False,
        **how: Unpack[How],
    ) -> NDArray[np.float32]:
        """One vector for each text: float32 [n, hidden], or [hidden] for one text.

        As :meth:`predict`, but for

        Args:
            pooling: ``"cls"``, the last hidden state of the first token; ``"mean"``, its mean over
                all tokens; ``"pooler"``, tanh of the pooler.
            normalize_embeddings: Divide each vector by its Euclidean length.

        >>> model.encode(["a film", "a book"], pooling="mean").shape
        (2, 384)
        """
        check_choice("pooling", pooling, get_args(Pooling))
        normalize = check_bool("normalize_embeddings", normalize_embeddings)
        single, batches = self._batches(texts, text_pairs, **how)
        vectors = [np.zeros((0, self._metadata["config"]["hidden"]), dtype=np.float32)]
        for batch in batches:
            output = self._run(batch, hidden=pooling != "pooler")
            pooled = _pool(output, batch.offsets, pooling)
            vectors.append(_float32(_normalize(pooled) if normalize else pooled))
        result = np.concatenate(vectors)
        return result[0] if single else result

    def _logits(
        self, texts: Any, text_pairs: Any = None, **how: Unpack[How]
    ) -> tuple[bool, Floats]:
        """Whether there is one text, and the logits of all, [n, labels]."""
        single, batches = self._batches(texts, text_pairs, **how)
        empty = np.zeros((0, self._metadata["config"]["labels"]))
        logits = [self._run(batch, hidden=False)["logits"] for batch in batches]
        return single, np.concatenate([empty, *logits])

    def _batches(
        self,
        texts: Any,
        text_pairs: Any = None,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        truncation: bool = True,
        show_progress_bar: bool | None = None,
    ) -> tuple[bool, Iterator[TokenBatch]]:
        """Whether there is one text, and the batches of tokens, made as they are asked for."""
        size = check_int("batch_size", batch_size, 1, sys.maxsize)
        length = self.max_length
        if max_length is not None:
            positions = self._metadata["config"]["positions"]
            length = check_int("max_length", max_length, MIN_LENGTH, positions)
        truncate = check_bool("truncation", truncation)
        shown = shows_progress(show_progress_bar)
        given = read_texts(texts, text_pairs)

        def encode() -> Iterator[TokenBatch]:
            pairs, first = given.pairs, 0
            if shown:
                from tqdm import tqdm  # type: ignore[import-untyped]

                pairs = iter(tqdm(pairs, total=given.total, unit="text"))
            while batch := list(islice(pairs, size)):
                yield self._tokenizer.encode(
                    batch, max_length=length, truncation=truncate, first=first
                )
                first += len(batch)

        return given.single, encode()

    def _run(
        self,
        batch: TokenBatch,
        *,
        hidden: bool,
        stages: bool = False,
        padded: PaddedBatch | None = None,
    ) -> dict[str, Any]:
        lengths = np.diff(batch.offsets).astype(np.int32) if padded is None else padded.lengths
        pooled = batch.offsets[:-1] if padded is None else padded.pooled
        return self._core.forward(*batch, lengths, pooled, hidden, stages)

    def _text_head(self, method: str) -> Head:
        """The head, which must give one row of logits for each text."""
        if self._head.reads != "pooled":
            kind = self._head.kind
            raise UnsupportedError(f"{method}: this model has a {kind} head; use forward")
        return self._head

    # ---- from arrays

    def forward(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
    ) -> EncoderOutput:
        """Run padded arrays of token ids, as from any BERT tokenizer.

        Args:
            input_ids: Integers [B, S]: NumPy, or anything with ``__array__`` or ``__dlpack__`` in
                the memory of the CPU.
            attention_mask: [B, S] of 0 and 1, with holes and padding on either side; default 1.
            token_type_ids: [B, S]; default 0.

        The position of a token is its column.  Masked columns cost nothing and are zero in the
        result; only column 0 is computed in any case, because the pooler reads it.

        Raises:
            InputTypeError: An argument is not an array of integers.
            InputError: A shape or value is not allowed, or a row of the mask is all zero.
        """
        given = read_padded(input_ids, attention_mask, token_type_ids, self._metadata["config"])
        output = self._run(given.tokens, hidden=True, padded=given)
        of_tokens = self._head.reads == "tokens"
        logits = output["logits"]
        return EncoderOutput(
            last_hidden_state=_padded(output["hidden"], given),
            pooler_output=_float32(output["pooled"]),
            logits=_padded(logits, given) if of_tokens else _float32(logits),
        )


def _reopen(origin: Origin, identity: str, num_threads: int | None, isa: str | None) -> BitModel:
    """Undo `BitModel.__reduce__`."""
    if origin.builtin is not None:
        origin = find_builtin(origin.builtin)
    model = BitModel(origin, num_threads, isa)
    if model._identity() != identity:
        raise FormatError(f"{origin}: not the model that was pickled: the file has changed since")
    return model


def _padded(values: Floats, given: PaddedBatch) -> NDArray[np.float32]:
    """Values of tokens [T, n] as float32 [B, S, n], zero where the mask is."""
    result = np.zeros((*given.mask.shape, values.shape[1]), dtype=np.float32)
    result[given.mask] = _float32(values[given.attended])
    return result


def _float32(values: Floats) -> NDArray[np.float32]:
    """Rounded; what is too large becomes infinite, as it does in float32 arithmetic."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


# np.sum adds in an order that depends on the machine; np.add.accumulate has only one.


def _pool(output: Mapping[str, Floats], offsets: NDArray[np.int64], pooling: str) -> Floats:
    if pooling == "pooler":
        return output["pooled"]
    hidden = output["hidden"]
    if pooling == "cls":
        return hidden[offsets[:-1]]
    texts = (hidden[a:b] for a, b in pairwise(offsets))
    return np.stack([np.add.accumulate(text, axis=0)[-1] / len(text) for text in texts])


def _normalize(vectors: Floats) -> Floats:
    """Rows of length 1; a zero row stays zero."""
    lengths = np.sqrt(np.add.accumulate(np.square(vectors), axis=1)[:, -1:])
    normalized: Floats = vectors / np.where(lengths == 0, 1, lengths)
    return normalized
