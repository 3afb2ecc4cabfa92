"""How well a model does on labelled texts."""

from __future__ import annotations

from dataclasses import dataclass

from bitinfer.data.tables import LabelledTexts
from bitinfer.errors import InputError, UnsupportedError
from bitinfer.runtime.model import BitModel


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

    A label is the name of a class, or else its index.  No rows, or a label that is neither, are an
    InputError, a head without a metric an UnsupportedError.
    """
    head = model._text_head("evaluate")
    if head.metric is None:
        raise UnsupportedError(f"evaluate: a {head.kind} head has no metric")
    if not data.labels:
        raise InputError("data: found no rows")
    # Labels first: predicting may take long.
    targets = head.targets(data.labels, model.labels)
    _, logits = model._logits(data.texts, batch_size=batch_size)
    answers = head.answers(logits).tolist()
    return Evaluation(head.metric.name, head.metric.score(answers, targets), len(targets))
