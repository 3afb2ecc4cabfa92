"""One number for each text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitinfer.heads.metrics import PEARSON
from bitinfer.heads.registry import Floats, Head, bad_label, register
from bitinfer.results import Prediction

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 3.4028234663852886e38  # of a float32


class Regress(Head):
    """A classification head of one output, by the custom of BERT checkpoints."""

    name = "classification"
    kind = "regression"
    key = "classifier"
    reads = "pooled"
    outputs = range(1, 2)
    meaning = "a number"
    metric = PEARSON

    def decode(self, logits: Floats, names: Sequence[str], count: int) -> list[list[Prediction]]:
        return [[Prediction(None, value, None)] for value in logits[:, 0].tolist()]

    def values(self, logits: Floats) -> Floats:
        column: Floats = logits[:, 0]
        return column

    def targets(
        self, labels: Sequence[str], names: Sequence[str], source: str | None = None
    ) -> list[float]:
        """The labels as numbers that a float32 can hold."""
        numbers = []
        for row, label in enumerate(labels):
            try:
                number = float(label)
            except ValueError:
                number = math.nan
            if not abs(number) <= _LARGEST:  # nan neither
                expected = f"at most {_LARGEST:.3g}" if math.isfinite(number) else "a number"
                raise bad_label(label, row, source, expected)
            numbers.append(number)
        return numbers

    def answers(self, logits: Any) -> Any:
        return logits[:, 0]

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        from torch.nn import functional

        known = ~targets.isnan()
        wanted = targets[known].to(logits.dtype)
        total = functional.mse_loss(logits[known, 0], wanted, reduction="sum")
        return total / known.sum().clamp_min(1)

    def teacher_loss(self, logits: Tensor, teacher: Tensor) -> Tensor:
        from torch.nn import functional

        return functional.mse_loss(logits, teacher)


register(Regress())
