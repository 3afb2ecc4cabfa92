"""What a head is, and the list of those there are.

PyTorch is imported by the functions that train a head, and by nothing else here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitinfer.errors import InputError, UnsupportedError
from bitinfer.heads.metrics import Metric
from bitinfer.results import Prediction

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MANY", "Head", "Reads", "find_head", "heads", "place_of", "register"]

Reads: TypeAlias = Literal["none", "pooled", "tokens"]

#: Most outputs of a head that sets no bound itself.
MANY = 1 << 24


class Head:
    """The last matrix of a model: what it reads, and what its outputs mean.

    The engine knows what a head reads and multiplies; everything else about it is here.  A head
    that reads the pooled output gives one row of logits for each text, which `decode` and the
    methods beside it turn into answers; the others are run by ``BitModel.forward``.  The training
    side is used by `bitinfer.train`; a head without it cannot be trained.

    Attributes:
        name: its name in a packed file (``config["head"]``), with others that differ in `outputs`.
        kind: its name in messages.
        key: prefix of its parameters in a checkpoint, ``KEY.weight`` and ``KEY.bias``.
        reads: ``"pooled"``, the pooled output of each text; ``"tokens"``, the last hidden state of
            each token; ``"none"``, nothing: the model is an encoder.
        outputs: numbers of outputs it may have.
        meaning: of the outputs, where their number is fixed: ``"start, end"``.
        has_names: whether each output is a class that has a name.
        metric: how good answers are, more is better; None if the head cannot be trained.
        no_target: stands for the target of a text without a label.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    key: ClassVar[str]
    reads: ClassVar[Reads]
    outputs: ClassVar[range] = range(1, MANY)
    meaning: ClassVar[str] = ""
    has_names: ClassVar[bool] = False
    metric: ClassVar[Metric | None] = None
    no_target: ClassVar[float] = float("nan")

    # ---- answers

    def decode(
        self, logits: NDArray[np.float64], names: Sequence[str], count: int
    ) -> list[list[Prediction]]:
        """The best ``count`` answers for each row of logits [n, outputs], best first."""
        raise UnsupportedError(f"predict: this model has a {self.kind} head; use forward")

    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class, [n, outputs]."""
        raise UnsupportedError(f"probabilities: a {self.kind} model has none; use logits")

    def values(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """What ``BitModel.logits`` returns for logits [n, outputs], n in front."""
        return logits

    # ---- training and evaluation

    def targets(
        self, labels: Sequence[str], names: Sequence[str], source: str | None = None
    ) -> list[int] | list[float]:
        """Labels as numbers: what the losses and the metric compare with.

        Args:
            labels: as written in a table.
            names: of the classes, in order.
            source: where the labels come from, for messages.

        Raises:
            InputError: a label means nothing to this head; names source and row (from 0).
        """
        raise UnsupportedError(f"labels: a model with a {self.kind} head cannot be trained")

    def answers(self, logits: Any) -> Any:
        """What is compared with the targets: [n], of logits [n, outputs], NumPy's or PyTorch's."""
        raise UnsupportedError(f"labels: a model with a {self.kind} head cannot be trained")

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the rows that have a target; 0 if none has."""
        raise UnsupportedError(f"training: a {self.kind} head has no loss")

    def teacher_loss(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Mean distance from the logits of a teacher; both [n, outputs]."""
        raise UnsupportedError(f"training: a {self.kind} head has no loss")


_HEADS: list[Head] = []


def register(head: Head) -> None:
    """Add a head to those that files may name.

    Raises:
        InputError: one of that name may have as many outputs.
    """
    for other in _HEADS:
        first = max(head.outputs.start, other.outputs.start)
        if other.name == head.name and first < min(head.outputs.stop, other.outputs.stop):
            raise InputError(f"head {head.name!r}: found one of {first} outputs, expected none")
    _HEADS.append(head)


def heads() -> tuple[Head, ...]:
    """All heads, in the order of their registration."""
    return tuple(_HEADS)


def find_head(name: str, outputs: int) -> Head:
    """The head of that name with so many outputs.

    Raises:
        UnsupportedError: there is none; says which there are.
    """
    named = [head for head in _HEADS if head.name == name]
    for head in named:
        if outputs in head.outputs:
            return head
    if named:
        raise UnsupportedError(f"{outputs} outputs: expected {_allowed(named)} for a {name} head")
    known = " or ".join(dict.fromkeys(repr(head.name) for head in _HEADS))
    raise UnsupportedError(f"head: found {name!r}, expected {known}")


def _allowed(named: Sequence[Head]) -> str:
    return " or ".join(
        str(head.outputs.start) + (f" ({head.meaning})" if head.meaning else "")
        if len(head.outputs) == 1
        else f"{head.outputs.start}..{head.outputs.stop - 1}"
        for head in named
    )


def place_of(row: int, source: str | None) -> str:
    """Where a row is, for messages."""
    return f"row {row}" if source is None else f"{source}, row {row}"
