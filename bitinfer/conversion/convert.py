"""Checkpoint in, packed file out, with a report of everything that was met on the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitinfer.checks import check_text
from bitinfer.conversion.packing import to_metadata, to_tensors
from bitinfer.conversion.parity import Parity, measure_parity
from bitinfer.description import Description, Notes, matrix_shapes
from bitinfer.errors import ConversionError, InputError
from bitinfer.families import read_checkpoint
from bitinfer.files import check_target
from bitinfer.runtime.format import Tensors, write_packed
from bitinfer.runtime.origin import looks_like_checkpoint
from bitinfer.runtime.sizes import by_part

if TYPE_CHECKING:
    from bitinfer.codes import Bits
    from bitinfer.families.checkpoint import ConfigSource, PathLike, VocabSource


@dataclass(frozen=True, kw_only=True)
class ConversionReport(Notes):
    """What a conversion did, beside what the reader noted.

    Attributes:
        source, destination: the weights file and the packed file.
        sizes: bytes in the checkpoint and in the packed file, for each part; what only one of them
            holds counts 0 in the other.
        zeros: number of weights equal to the mean of their matrix, for each matrix that has some.
        parity: comparison with the reference, or None where that was not asked for.
    """

    source: str
    destination: str
    sizes: dict[str, tuple[int, int]]
    zeros: dict[str, int]
    parity: Parity | None

    def _met(self) -> list[tuple[str, str, list[str] | dict[str, Any]]]:
        """What was met: its name in the file's report, a heading, and names or numbers by name."""
        return [
            ("dropped", "dropped, without effect in the published model", [*self.dropped]),
            ("exact_zeros", "weights equal to the mean, kept as exact zeros", self.zeros),
            ("untrained_steps", "steps of exactly 1.0, probably never trained", [*self.untrained]),
            ("floored_steps", "steps not above 1e-5, used as 1e-5", dict(self.floored)),
        ]

    def asdict(self) -> dict[str, Any]:
        """The part that depends on the checkpoint alone: no path, no time, no rounding error."""
        return {
            **{key: found for key, _, found in self._met()},
            "remarks": list(self.remarks),
            "checkpoint_bytes": sum(before for before, _ in self.sizes.values()),
            "parity": self.parity and self.parity.asdict(),
        }

    def __str__(self) -> str:
        totals = tuple(map(sum, zip(*self.sizes.values(), strict=True)))
        rows = [*self.sizes.items(), ("total", totals)]
        width = max(len(name) for name, _ in rows)
        lines = [
            f"{self.source} -> {self.destination}",
            f"  {'bytes':<{width}}  {'checkpoint':>12}  {'packed':>12}",
            *(f"  {name:<{width}}  {a:>12,}  {b:>12,}" for name, (a, b) in rows),
            *(f"  note: {remark}" for remark in self.remarks),
        ]
        for _, heading, found in self._met():
            if isinstance(found, dict):
                found = [f"{key} {value:g}" for key, value in found.items()]
            rest = f", ... ({len(found)} in all)" if len(found) > 3 else ""
            if found:
                lines.append(f"  {heading}: {', '.join(found[:3])}{rest}")
        return "\n".join([*lines, f"  parity: {self.parity or 'not measured'}"])


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
        if option is not None:
            check_text(name, option)
    description = read_checkpoint(
        src, config=config, vocab=vocab, labels=labels, task=task, bits=bits
    )
    tensors = to_tensors(description)
    metadata = to_metadata(description, max_length=max_length, licence=licence)
    parity = measure_parity(description, tensors) if verify else None
    if parity is not None and not parity.exact:
        raise ConversionError(
            f"{description.source_file}: found {parity}, the first at {parity.first_difference}; "
            "expected equal codes"
        )
    report = _report(description, tensors, os.fspath(dst), parity)
    write_packed(dst, tensors, {**metadata, "report": report.asdict()}, overwrite=overwrite)
    return report


def pack_checkpoint(path: PathLike, **options: Any) -> tuple[dict[str, Any], Tensors]:
    """Converts a checkpoint in memory: metadata and tensors as `read_packed` would return them.

    The options are those of `read_checkpoint`.
    """
    description = read_checkpoint(path, **options)
    tensors = to_tensors(description)
    report = _report(description, tensors, "", None)
    return to_metadata(description, report=report.asdict()), tensors


def _report(
    description: Description, tensors: Tensors, destination: str, parity: Parity | None
) -> ConversionReport:
    zeros = {}
    for name in matrix_shapes(description.config):
        zeros[name] = int((description.arrays[f"{name}.codes"] == 0).sum())
    return ConversionReport(
        **vars(description.notes),
        source=description.source_file,
        destination=destination,
        sizes=_sizes(description, tensors),
        zeros={name: count for name, count in zeros.items() if count},
        parity=parity,
    )


def _sizes(description: Description, tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Bytes before and after.  A checkpoint holds a float32 for every code, and no scale."""
    packed = by_part((name, array.nbytes) for name, array in tensors.items())
    before = by_part(
        (name.replace(".codes", ".bits"), 4 * array.size)
        for name, array in description.arrays.items()
        if not name.endswith(".scale")
    )
    vocabulary = len("\n".join(description.vocab).encode())
    sizes = {part: (before.get(part, 0), size) for part, size in packed.items()}
    return sizes | {"vocabulary": (vocabulary, vocabulary)}
