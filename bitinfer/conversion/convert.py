"""Checkpoint in, packed file out, with a report of everything that was met on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bitinfer.conversion.export import export_float
from bitinfer.conversion.packing import to_metadata, to_tensors
from bitinfer.description import Description
from bitinfer.errors import ConversionError, InputError, InputTypeError
from bitinfer.families import read_checkpoint
from bitinfer.runtime.engine import make_engine
from bitinfer.runtime.format import Tensors, check_target, write_packed
from bitinfer.runtime.origin import looks_like_checkpoint
from bitinfer.runtime.sizes import by_part, part_of

if TYPE_CHECKING:
    from bitinfer.codes import Bits
    from bitinfer.families.checkpoint import ConfigSource, PathLike, VocabSource
    from bitinfer.reference import ReferenceOutput

__all__ = [
    "ConversionReport",
    "Parity",
    "convert",
    "export_float",
    "measure_parity",
    "pack_checkpoint",
    "unpadded",
]

Sample: TypeAlias = "tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]"

LOGITS_TOLERANCE = 1e-9  # far above float64 rounding, far below what one flipped bit changes
_SAMPLE_LENGTHS = (48, 31, 17, 8, 2)
_SAMPLE_SEED = 1


@dataclass(frozen=True)
class Parity:
    """How the packed engine compares with the float64 reference on some token sequences.

    Attributes:
        sequences, tokens: size of the sample.
        codes: codes compared, at every binarization point of every layer.
        codes_differing: how many differ.
        first_difference: the first point where codes differ, or None.
        logits_difference: largest absolute difference of a logit.
    """

    sequences: int
    tokens: int
    codes: int
    codes_differing: int
    first_difference: str | None
    logits_difference: float

    @property
    def exact(self) -> bool:
        """Whether all codes are equal and the logits differ by rounding alone."""
        return self.codes_differing == 0 and self.logits_difference <= LOGITS_TOLERANCE


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        source, destination: the weights file and the packed file.
        sizes: bytes in the checkpoint and in the packed file, for each part; what only one of them
            holds counts 0 in the other.
        dropped: parameters without effect in the published model, left out.
        zeros: number of weights equal to the mean of their matrix, for each matrix that has some.
        untrained: learned steps of exactly 1.0, which training probably never used.
        floored: learned steps that were not above 1e-5 and count as 1e-5.
        remarks: anything else.
        parity: comparison with the reference, or None where that was not asked for.
    """

    source: str
    destination: str
    sizes: dict[str, tuple[int, int]]
    dropped: tuple[str, ...]
    zeros: dict[str, int]
    untrained: tuple[str, ...]
    floored: tuple[tuple[str, float], ...]
    remarks: tuple[str, ...]
    parity: Parity | None

    def asdict(self) -> dict[str, Any]:
        """The part that depends on the checkpoint alone: no path, no time, no rounding error."""
        parity = self.parity
        return {
            "dropped": list(self.dropped),
            "exact_zeros": dict(self.zeros),
            "untrained_steps": list(self.untrained),
            "floored_steps": dict(self.floored),
            "remarks": list(self.remarks),
            "checkpoint_bytes": sum(before for before, _ in self.sizes.values()),
            "parity": parity
            and {
                "sequences": parity.sequences,
                "tokens": parity.tokens,
                "codes": parity.codes,
                "codes_differing": parity.codes_differing,
                "logits_within": LOGITS_TOLERANCE,
            },
        }

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.source} -> {self.destination}", *self._table(), *self._findings()]
        )

    def _table(self) -> list[str]:
        rows = [*self.sizes.items(), ("total", _total(self.sizes))]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {'bytes':<{width}}  {'checkpoint':>12}  {'packed':>12}"]
        return lines + [f"  {name:<{width}}  {a:>12,}  {b:>12,}" for name, (a, b) in rows]

    def _findings(self) -> list[str]:
        lines = [f"  note: {remark}" for remark in self.remarks]
        if self.dropped:
            lines.append(f"  dropped, without effect in the published model: {_list(self.dropped)}")
        if self.zeros:
            zeros = [f"{name} {count}" for name, count in self.zeros.items()]
            lines.append(f"  weights equal to the mean, kept as exact zeros: {_list(zeros)}")
        if self.untrained:
            lines.append(f"  steps of exactly 1.0, probably never trained: {_list(self.untrained)}")
        if self.floored:
            steps = [f"{name} {value:.3g}" for name, value in self.floored]
            lines.append(f"  steps not above 1e-5, used as 1e-5: {_list(steps)}")
        if self.parity is None:
            return [*lines, "  parity: not measured"]
        return [
            *lines,
            f"  parity with the float64 reference: {self.parity.sequences} sequences, "
            f"{self.parity.tokens} tokens, {self.parity.codes_differing} of {self.parity.codes:,} "
            f"codes differ, logits within {self.parity.logits_difference:.1e}",
        ]


def convert(
    src: PathLike,
    dst: PathLike,
    *,
    config: ConfigSource | None = None,
    vocab: VocabSource | None = None,
    labels: Sequence[str] | None = None,
    task: str | None = None,
    bits: str | Bits | None = None,
    max_length: int | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    verify: bool = True,
) -> ConversionReport:
    """Converts a checkpoint to a packed file.

    The same checkpoint and options give the same bytes on every machine.

    Args:
        src: checkpoint folder, or ``.bin`` / ``.pt`` weights file.
        dst: packed file to make; appears only when it is complete.
        config: settings or ``config.json``, where the checkpoint has none.
        vocab: tokens or ``vocab.txt``, where the checkpoint has none.
        labels: names of the classes, in the order of the classifier's rows.
        task: name of the GLUE task, or ``"squad"``: gives labels and the training length.
        bits: bits of weights, embeddings and activations, such as ``"1-1-2"``, where the
            configuration does not tell them.
        max_length: tokens a text is cut to; default that of the task, else all positions.
        licence: licence of the checkpoint, recorded in the file.
        overwrite: replace ``dst`` if it exists.
        verify: run the packed engine beside the float64 reference, and write nothing unless every
            code is equal.

    Raises:
        ConversionError: the checkpoint is not understood completely, or parity failed.
        FileExistsError: ``dst`` exists and ``overwrite`` is false.
        InputError: an option has a value that is not allowed, or ``dst`` is a checkpoint, which
            is never replaced.
        InputTypeError: an option is of the wrong type.
        OSError: ``dst`` cannot be written.
        UnsupportedError: PyTorch is not installed.

    Example:
        >>> print(convert("bit-sst2", "sst2.safetensors", labels=["negative", "positive"]))
    """
    if looks_like_checkpoint(check_target(dst, overwrite=overwrite)):
        raise InputError(f"{os.fspath(dst)}: found a checkpoint, which is not replaced")
    for name, option in (("task", task), ("licence", licence)):
        if not isinstance(option, (str, NoneType)):
            raise InputTypeError(f"{name}: found {type(option).__name__}, expected str")
    description = read_checkpoint(
        src, config=config, vocab=vocab, labels=labels, task=task, bits=bits
    )
    tensors = to_tensors(description)
    metadata = to_metadata(description, max_length=max_length, licence=licence)
    parity = measure_parity(description, tensors) if verify else None
    if parity is not None and not parity.exact:
        raise ConversionError(
            f"{description.source_file}: the packed model differs from the reference in "
            f"{parity.codes_differing} of {parity.codes} codes (first: {parity.first_difference}) "
            f"and by {parity.logits_difference:.1e} in the logits, expected equal codes"
        )
    report = _report(description, tensors, os.fspath(dst), parity)
    write_packed(dst, tensors, {**metadata, "report": report.asdict()}, overwrite=overwrite)
    return report


def pack_checkpoint(path: PathLike, **options: Any) -> tuple[dict[str, Any], Tensors]:
    """Converts a checkpoint in memory: metadata and tensors as `read_packed` would return them.

    Args:
        options: ``config``, ``vocab``, ``labels``, ``task`` and ``bits`` as for `convert`.

    Raises:
        ConversionError: the checkpoint is not understood completely.
        UnsupportedError: PyTorch is not installed.
    """
    description = read_checkpoint(path, **options)
    tensors = to_tensors(description)
    report = _report(description, tensors, "", None)
    return to_metadata(description, report=report.asdict()), tensors


def measure_parity(
    description: Description, tensors: Tensors, batches: Iterable[Sample] | None = None
) -> Parity:
    """Runs the packed engine and the float64 reference on the same sequences.

    They are batched and padded for the reference, single and unpadded for the engine.

    Args:
        batches: ids, segments and mask, int64 [B, S] each, padded on the right; default a few
            random sequences, the same for every model of the same sizes.
    """
    from bitinfer.reference import Reference

    reference = Reference(description)
    engine = make_engine(to_metadata(description), tensors)
    found = Parity(0, 0, 0, 0, None, 0.0)
    for ids, segments, mask in [_sample(description)] if batches is None else batches:
        expected = reference(ids, segments, mask, trace=True)
        for row, length in enumerate(mask.sum(1).tolist()):
            trace = engine.trace(
                ids[row, :length].astype(np.int32),
                np.arange(length, dtype=np.int32),
                segments[row, :length].astype(np.int32),
                length,
                0,
            )
            found = _add_sequence(found, trace, _sequence(expected, row, length), length)
    return found


def _add_sequence(
    parity: Parity, found: dict[str, Any], expected: dict[str, npt.NDArray[Any]], length: int
) -> Parity:
    codes, differing, first = parity.codes, parity.codes_differing, parity.first_difference
    for name, wanted in expected.items():
        if name == "logits":
            logits = max(parity.logits_difference, float(np.abs(found[name] - wanted).max()))
            continue
        wrong = int((found[name] != wanted).sum())
        codes, differing = codes + wanted.size, differing + wrong
        first = first or (name if wrong else None)
    return Parity(parity.sequences + 1, parity.tokens + length, codes, differing, first, logits)


def _sample(description: Description) -> Sample:
    """Random ids, segments and mask [B, S]."""
    config = description.config
    lengths = np.minimum(_SAMPLE_LENGTHS, config.positions)[:, None]
    columns = np.arange(lengths.max())
    mask = (columns < lengths).astype(np.int64)
    ids = np.random.RandomState(_SAMPLE_SEED).randint(0, config.vocab, mask.shape) * mask
    segments = (columns >= lengths // 2) * mask * (config.token_types > 1)
    return ids, segments.astype(np.int64), mask


def _sequence(output: ReferenceOutput, row: int, length: int) -> dict[str, npt.NDArray[Any]]:
    """Codes and logits of one sequence of a reference batch, without its padding."""
    values = {**output.codes, "logits": output.logits}
    return {name: unpadded(name, each[row].numpy(), length) for name, each in values.items()}


def unpadded(name: str, value: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """A value of a sequence without its padding.

    It is [S, n], or for each attention head [heads, S, n]; one value a sequence stays as it is.
    """
    if name.endswith("attention.probs"):
        return value[:, :length, :length]
    if value.ndim == 3:
        return value[:, :length]
    return value[:length] if value.ndim == 2 else value


def _report(
    description: Description, tensors: Tensors, destination: str, parity: Parity | None
) -> ConversionReport:
    notes = description.notes
    return ConversionReport(
        source=description.source_file,
        destination=destination,
        sizes=_sizes(description, tensors),
        dropped=notes.dropped,
        zeros={name: matrix.zeros for name, matrix in description.matrices.items() if matrix.zeros},
        untrained=notes.untrained,
        floored=notes.floored,
        remarks=notes.remarks,
        parity=parity,
    )


def _sizes(description: Description, tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Bytes before and after.  The checkpoint holds a float32 for every code, bias, shift, step."""
    packed = by_part((name, array.nbytes) for name, array in tensors.items())
    made = {"scales", "thresholds", "exact zeros"}
    before = by_part(
        (name, array.nbytes)
        for name, array in tensors.items()
        if not name.endswith(".bits") and part_of(name) not in made
    )
    for name, matrix in description.matrices.items():
        part = part_of(f"{name}.bits")
        before[part] = before.get(part, 0) + 4 * matrix.codes.size
    vocabulary = len("\n".join(description.vocab).encode())
    return {part: (before.get(part, 0), size) for part, size in packed.items()} | {
        "vocabulary": (vocabulary, vocabulary)
    }


def _total(sizes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(before for before, _ in sizes.values()), sum(after for _, after in sizes.values())


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ... ({len(names)} in all)"
