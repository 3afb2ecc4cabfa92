"""What the engines that run the float BERT have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artefacts import checked_ids, random_ids, reference
from ..contestants import Check, Contestant

# The largest difference from float64 that is let pass.  It shows that the network is the same one;
# what eight bits do to the answers of trained weights is another question.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.25, "avx2": 0.25}


def difference(found: Any, wanted: NDArray[Any]) -> float:
    """Of an answer, which need not be NumPy's, relative to what is wanted."""
    apart = np.asarray(found, np.float64) - wanted
    return float(np.linalg.norm(apart) / np.linalg.norm(wanted))


class FloatBert(Contestant):
    """An engine that takes ids [batch, length] and gives logits [batch, 2]."""

    _model: str

    def prepare(self, cell: dict[str, Any]) -> str:
        self._model = cell["model"]
        return self.take(np.stack(random_ids(cell["lengths"])))

    @abstractmethod
    def take(self, ids: NDArray[np.int64]) -> str:
        """Make ready for a batch of ``self._model``; says which variant will run."""

    def check(self) -> Check:
        self._model = "base"
        self.take(checked_ids())
        wanted = reference("base", "logits.npy")
        return Check("PyTorch in float64", difference(self.call(), wanted), TOLERANCES[self.kind])
