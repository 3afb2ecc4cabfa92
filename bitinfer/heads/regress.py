"""One number for each text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitinfer.errors import InputError, quote
from bitinfer.heads.metrics import PEARSON
from bitinfer.heads.registry import Head, place_of, register
from bitinfer.results import Prediction

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Regress", "label_numbers"]

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

    def decode(
        self, logits: NDArray[np.float64], names: Sequence[str], count: int
    ) -> list[list[Prediction]]:
        return [[Prediction(None, value, None)] for value in logits[:, 0].tolist()]

    def values(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        column: NDArray[np.float64] = logits[:, 0]
        return column

    def targets(
        self, labels: Sequence[str], names: Sequence[str], source: str | None = None
    ) -> list[float]:
        numbers = label_numbers(labels, source=source)
        for row, number in enumerate(numbers):
            if abs(number) > _LARGEST:
                found = f"{place_of(row, source)}: found label {quote(labels[row])}"
                raise InputError(f"{found}, expected at most {_LARGEST:.3g}")
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


def label_numbers(labels: Sequence[str], *, source: str | None = None) -> list[float]:
    """Labels that are numbers.

    Raises:
        InputError: A label is not a finite number; names the source and the row (the first is 0).

    >>> label_numbers(["1", "2.5e-1"])
    [1.0, 0.25]
    """
    numbers = list(map(_number, labels))
    for row, number in enumerate(numbers):
        if not math.isfinite(number):
            found = f"{place_of(row, source)}: found label {quote(labels[row])}"
            raise InputError(f"{found}, expected a number")
    return numbers


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return math.nan


register(Regress())
