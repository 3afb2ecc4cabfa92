"""One of several classes for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bitinfer import _core
from bitinfer.errors import shorten
from bitinfer.heads.metrics import ACCURACY
from bitinfer.heads.registry import MOST, Floats, Head, bad_label, register
from bitinfer.results import Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Classify(Head):
    """Logits of two or more classes; a head of one output is a regression."""

    name = "classification"
    kind = "classification"
    key = "classifier"
    reads = "pooled"
    outputs = range(2, MOST + 1)
    has_names = True
    metric = ACCURACY
    no_target = -100  # what PyTorch's cross_entropy ignores

    def decode(self, logits: Floats, names: Sequence[str], count: int) -> list[list[Prediction]]:
        # By logits, which still differ where probabilities round to the same number.
        order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
        return [
            [Prediction(names[index], row[index], index) for index in best]
            for row, best in zip(self.probabilities(logits).tolist(), order.tolist(), strict=True)
        ]

    def probabilities(self, logits: Floats) -> Floats:
        return _core.softmax(logits)

    def targets(
        self, labels: Sequence[str], names: Sequence[str], source: str | None = None
    ) -> list[int]:
        """The class of each label, which is a name or else an index.

        Where a name is itself a number, an index could be meant for a name: only names count then.
        """
        known = {name: index for index, name in enumerate(names)}
        expected = f"one of {shorten(str(list(names)))}"
        if not any(map(str.isdecimal, names)):
            known |= {str(index): index for index in range(len(names))}
            expected += " or an index"
        for row, label in enumerate(labels):
            if label not in known:
                raise bad_label(label, row, source, expected)
        return [known[label] for label in labels]

    def answers(self, logits: Any) -> Any:
        return logits.argmax(1)

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        from torch.nn import functional

        known = targets != self.no_target
        total = functional.cross_entropy(logits[known], targets[known], reduction="sum")
        return total / known.sum().clamp_min(1)

    def teacher_loss(self, logits: Tensor, teacher: Tensor) -> Tensor:
        from torch.nn import functional

        return functional.cross_entropy(logits, teacher.softmax(dim=1))


register(Classify())
