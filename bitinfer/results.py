"""What a model returns: plain immutable values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer for one text.  Immutable, and unpacks like a tuple.

    >>> label, score, index = Prediction("positive", 0.98, 1)

    Attributes:
        label: Name of the class; ``None`` for a regression model.
        score: Probability of the class in [0, 1]; for a regression model the predicted value.
        index: Row of the classifier, an index into ``model.labels``; ``None`` for regression.
    """

    label: str | None
    score: float
    index: int | None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.label, self.score, self.index))

    def asdict(self) -> dict[str, Any]:
        """``{"label": ..., "score": ..., "index": ...}``, ready for JSON."""
        return {"label": self.label, "score": self.score, "index": self.index}


class EncoderOutput(NamedTuple):
    """What :meth:`bitinfer.BitModel.forward` returns: float32 arrays for B sequences of S columns.

    Attributes:
        last_hidden_state: [B, S, H]; rows whose mask is 0 are zero.
        pooler_output: [B, H]: tanh of the pooler at column 0.
        logits: [B, labels], [B, 1] for regression, [B, S, 2] (start, end) for a span model, where
            rows whose mask is 0 are zero.
    """

    last_hidden_state: NDArray[np.float32]
    pooler_output: NDArray[np.float32]
    logits: NDArray[np.float32]
