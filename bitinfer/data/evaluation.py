"""How well a model does on labelled texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitinfer.data.tables import LabelledTexts, class_indices, label_numbers
from bitinfer.errors import InputError
from bitinfer.runtime.model import BitModel
from bitinfer.runtime.results import Prediction

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """A metric over some texts: ``accuracy`` in 0..1, or ``pearson`` correlation for regression."""

    metric: str
    value: float
    count: int

    def __str__(self) -> str:
        if self.metric != "accuracy":
            return f"{self.metric} {self.value:.4f} ({self.count} texts)"
        correct = round(self.value * self.count)
        return f"accuracy {self.value:.2%} ({correct} of {self.count} texts)"


def evaluate(model: BitModel, data: LabelledTexts, *, batch_size: int = 32) -> Evaluation:
    """Accuracy of a classifier, or the correlation of a regression model with the labels.

    A label is the name of a class, or else its index.

    Raises:
        InputError: A label is neither, or not a number for a regression model, or there is none.
        UnsupportedError: The model has a span head.
    """
    model._need_classes("evaluate")
    if not data.labels:
        raise InputError("data: found no rows")
    # Labels first: predicting may take long.
    if not model.labels:
        truth = label_numbers(data.labels)
        values = [p.score for p in model.predict(data.texts, batch_size=batch_size)]
        return Evaluation("pearson", _pearson(values, truth), len(truth))
    wanted = class_indices(data.labels, model.labels)
    predictions: list[Prediction] = model.predict(data.texts, batch_size=batch_size)
    correct = sum(p.index == index for p, index in zip(predictions, wanted, strict=True))
    return Evaluation("accuracy", correct / len(wanted), len(wanted))


def _pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    x, y = [value - mean_a for value in a], [value - mean_b for value in b]
    spread = math.sqrt(math.fsum(v * v for v in x) * math.fsum(v * v for v in y))
    covariance = math.fsum(v * w for v, w in zip(x, y, strict=True))
    return covariance / spread if spread else math.nan
