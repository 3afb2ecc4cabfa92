"""Whether the packed engine computes what a description means, code by code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bitinfer.conversion.packing import to_metadata
from bitinfer.description import Description
from bitinfer.runtime.engine import make_engine
from bitinfer.runtime.format import Tensors

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

    def asdict(self) -> dict[str, Any]:
        """The part that no rounding error changes."""
        changing = {"first_difference", "logits_difference"}
        counts = {name: n for name, n in asdict(self).items() if name not in changing}
        return counts | {"logits_within": LOGITS_TOLERANCE}

    def __str__(self) -> str:
        return (
            f"{self.codes_differing} of {self.codes:,} codes differ from the float64 reference, "
            f"logits within {self.logits_difference:.1e} "
            f"({self.sequences} sequences, {self.tokens} tokens)"
        )


def measure_parity(
    description: Description, tensors: Tensors, batches: Iterable[Sample] | None = None
) -> Parity:
    """Runs the packed engine and the float64 reference on the same sequences.

    They are batched and padded, on the right, for the reference, single and unpadded for the
    engine.  Default are a few random ones, the same for every model of the same sizes.
    """
    from bitinfer.reference import Reference

    reference = Reference(description)
    engine = make_engine(to_metadata(description), tensors)
    sequences = tokens = codes = differing = 0
    first, largest = None, 0.0
    for ids, segments, mask in [_sample(description)] if batches is None else batches:
        expected = reference(ids, segments, mask, trace=True)
        for row, length in enumerate(mask.sum(1).tolist()):
            position = np.arange(length, dtype=np.int32)
            token, segment = (each[row, :length].astype(np.int32) for each in (ids, segments))
            found = engine.trace(token, position, segment, length, 0)
            for name, padded in expected.codes.items():
                wanted = unpadded(name, padded[row].numpy(), length)
                wrong = int((found[name] != wanted).sum())
                codes, differing = codes + wanted.size, differing + wrong
                first = first or (name if wrong else None)
            logits = unpadded("logits", expected.logits[row].numpy(), length)
            largest = max(largest, float(np.abs(found["logits"] - logits).max()))
            sequences, tokens = sequences + 1, tokens + length
    return Parity(sequences, tokens, codes, differing, first, largest)


def _sample(description: Description) -> Sample:
    """Random ids, segments and mask [B, S]."""
    config = description.config
    lengths = np.minimum(_SAMPLE_LENGTHS, config.positions)[:, None]
    columns = np.arange(lengths.max())
    mask = (columns < lengths).astype(np.int64)
    ids = np.random.RandomState(_SAMPLE_SEED).randint(0, config.vocab, mask.shape) * mask
    segments = (columns >= lengths // 2) * mask * (config.token_types > 1)
    return ids, segments.astype(np.int64), mask


def unpadded(name: str, value: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """A value of a sequence without its padding.

    It is [S, n], or for each attention head [heads, S, n]; one value a sequence stays as it is.
    """
    if name.endswith("attention.probs"):
        return value[:, :length, :length]
    if value.ndim == 3:
        return value[:, :length]
    return value[:length] if value.ndim == 2 else value
