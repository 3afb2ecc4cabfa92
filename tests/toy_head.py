"""A head outside of the package, in one file: any number of tags for each text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitinfer.heads import Head, register
from bitinfer.results import Prediction


class Tags(Head):
    """Each output tells of one tag whether the text has it, whatever the others are."""

    name = "tags"
    kind = "tags"
    key = "tagger"
    reads = "pooled"
    has_names = True

    def decode(
        self, logits: NDArray[np.float64], names: Sequence[str], count: int
    ) -> list[list[Prediction]]:
        order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
        return [
            [Prediction(names[index], row[index], index) for index in best]
            for row, best in zip(self.probabilities(logits).tolist(), order.tolist(), strict=True)
        ]

    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-logits))


register(Tags())
