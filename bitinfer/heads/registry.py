"""What a head is, and the list of those there are.

PyTorch is imported by the functions that train a head, and by nothing else here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitinfer.errors import InputError, UnsupportedError, quote
from bitinfer.heads.metrics import Metric
from bitinfer.results import Prediction

if TYPE_CHECKING:
    from torch import Tensor

Floats: TypeAlias = NDArray[np.float64]
Reads: TypeAlias = Literal["none", "pooled", "tokens"]

#: Most outputs of a head, as the engine has it.
MOST = 1 << 20


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
    outputs: ClassVar[range] = range(1, MOST + 1)
    meaning: ClassVar[str] = ""
    has_names: ClassVar[bool] = False
    metric: ClassVar[Metric | None] = None
    no_target: ClassVar[float] = float("nan")

    def decode(self, logits: Floats, names: Sequence[str], count: int) -> list[list[Prediction]]:
        """The best ``count`` answers for each row of logits [n, outputs], best first."""
        raise self._lacks("answers for a text")

    def probabilities(self, logits: Floats) -> Floats:
        """Probability of each class, [n, outputs]."""
        raise self._lacks("probabilities")

    def values(self, logits: Floats) -> Floats:
        """What ``BitModel.logits`` returns for logits [n, outputs], n in front."""
        return logits

    def targets(
        self, labels: Sequence[str], names: Sequence[str], source: str | None = None
    ) -> list[int] | list[float]:
        """Labels, and names of the classes in order, as the numbers that are to be met.

        A label that means nothing to this head is an InputError with its source and row (from 0).
        """
        raise self._lacks("targets")

    def answers(self, logits: Any) -> Any:
        """What is compared with the targets: [n], of logits [n, outputs], NumPy's or PyTorch's."""
        raise self._lacks("targets")

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the rows that have a target; 0 if none has."""
        raise self._lacks("loss")

    def teacher_loss(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Mean distance from the logits of a teacher; both [n, outputs]."""
        raise self._lacks("loss")

    def _lacks(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{what}: a {self.kind} head has none")


_HEADS: list[Head] = []


def register(head: Head) -> None:
    """Add a head; one of its name that may have as many outputs is an InputError."""
    for other in _HEADS:
        first = max(head.outputs.start, other.outputs.start)
        if other.name == head.name and first < min(head.outputs.stop, other.outputs.stop):
            raise InputError(f"head {head.name!r}: found one of {first} outputs, expected none")
    _HEADS.append(head)


def heads() -> tuple[Head, ...]:
    """All heads, in the order of their registration."""
    return tuple(_HEADS)


def find_head(name: str, outputs: int) -> Head:
    """The head of that name with so many outputs; an UnsupportedError says which there are."""
    named = [head for head in _HEADS if head.name == name]
    for head in named:
        if outputs in head.outputs:
            return head
    if named:
        allowed = " or ".join(map(_outputs, named))
        raise UnsupportedError(f"{outputs} outputs: expected {allowed} for a {name} head")
    known = " or ".join(dict.fromkeys(repr(head.name) for head in _HEADS))
    raise UnsupportedError(f"head: found {name!r}, expected {known}")


def _outputs(head: Head) -> str:
    if len(head.outputs) > 1:
        return f"{head.outputs.start}..{head.outputs.stop - 1}"
    return f"{head.outputs.start}" + (f" ({head.meaning})" if head.meaning else "")


def bad_label(label: str, row: int, source: str | None, expected: str) -> InputError:
    """What `targets` raises."""
    place = f"row {row}" if source is None else f"{source}, row {row}"
    return InputError(f"{place}: found label {quote(label)}, expected {expected}")
