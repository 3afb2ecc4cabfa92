"""Options of training, checked.  Needs neither PyTorch nor NumPy: the command line uses it too."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bitinfer.checks import check_int
from bitinfer.errors import InputError, InputTypeError, UnsupportedError, quote

__all__ = [
    "ARGUMENTS",
    "BATCH_SIZE",
    "DATA",
    "DEFAULT_BITS",
    "DISTILL_EPOCHS",
    "DISTILL_RATE",
    "FINETUNE_EPOCHS",
    "FINETUNE_RATE",
    "RUN",
    "Bits",
    "Budget",
    "check_bits",
    "check_budget",
    "check_installed",
    "check_number",
    "check_shares",
    "parse_bits",
]

DEFAULT_BITS = ("1-1-4", "1-1-2", "1-1-1")
DISTILL_EPOCHS = 12.0
DISTILL_RATE = 5e-4
FINETUNE_EPOCHS = 3.0
FINETUNE_RATE = 5e-5
BATCH_SIZE = 32

#: Arguments that say how a table is read.
DATA = ("text", "pair", "label", "labels", "regression", "max_length")
#: Arguments that have no part in how the weights come about.
RUN = ("licence", "resume", "show_progress_bar")
_BUDGET = ("minutes", "steps", "epochs")
_STUDENT = (
    *("unlabelled", "token_noise", "batch_tokens", "vector_rate", "bits", "shares"),
    *("label_weight", "hidden_weight", "attention_weight", "activation"),
)
_LOOP = ("batch_size", "learning_rate", "seed", "evaluate_every", "bf16", "threads")

#: The arguments of each function, which are the options of the command of the same name.
ARGUMENTS = {
    "distill": ("teacher", "train", "dev", "output", *DATA, *_BUDGET, *_STUDENT, *_LOOP, *RUN),
    "finetune": (
        *("encoder", "train", "dev", "output", *DATA, *_BUDGET, *_LOOP, *RUN),
        *("reinitialize_pooler", "dropout"),
    ),
}

_PACKAGES = ("torch", "transformers", "matplotlib")
_BITS = re.compile("(1|32)-(1|32)-([1-8]|32)")
# More than anybody waits for, and little enough to be counted in floats.
_MOST_STEPS = 2**53
_MANY = 1e9  # epochs, and the largest share


class Bits(NamedTuple):
    """Bits of weights, of word embeddings (1 or 32), and of activations (1..8 or 32); 32 is float.

    >>> str(Bits(1, 1, 2))
    '1-1-2'
    """

    weights: int
    embeddings: int
    activations: int

    def __str__(self) -> str:
        return f"{self.weights}-{self.embeddings}-{self.activations}"


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of these is a number.

    With ``minutes`` the number of steps, and so the result, depends on the machine.
    """

    minutes: float | None = None
    steps: int | None = None
    epochs: float | None = None

    def part(self, share: float) -> Budget:
        """That share of it, at least one step."""
        return Budget(
            None if self.minutes is None else self.minutes * share,
            None if self.steps is None else max(1, round(self.steps * share)),
            None if self.epochs is None else self.epochs * share,
        )

    def progress(self, step: int, seconds: float, steps_per_epoch: int) -> float:
        """Which part of it is used up, 0..1."""
        if self.minutes is not None:
            limit = 60 * self.minutes
            return seconds / limit if seconds < limit else 1.0
        steps = self.steps
        if steps is None:
            assert self.epochs is not None
            steps = max(1, round(self.epochs * steps_per_epoch))
        return min(1.0, step / steps)


def parse_bits(text: str) -> Bits:
    """Bits as they are written, ``W-E-A``.

    >>> parse_bits("1-1-2")
    Bits(weights=1, embeddings=1, activations=2)

    Raises:
        InputTypeError: It is not a string.
        InputError: It is not three numbers with hyphens between them, 1 or 32, 1 or 32, and 1..8 or
            32.
    """
    if not isinstance(text, str):
        raise InputTypeError(f"bits: found {type(text).__name__}, expected str such as '1-1-2'")
    found = _BITS.fullmatch(text)
    if found is None:
        raise InputError(
            f"bits: found {quote(text)}, expected W-E-A (weights, embeddings, activations) such as "
            "1-1-2: 1 or 32, 1 or 32, and 1..8 or 32"
        )
    return Bits(*map(int, found.groups()))


def check_bits(bits: Sequence[str]) -> tuple[Bits, ...]:
    """The bits of every stage.

    >>> [str(each) for each in check_bits(["1-1-2", "1-1-1"])]
    ['1-1-2', '1-1-1']

    Raises:
        InputTypeError, InputError: As `parse_bits`; or there is no stage, or the last one has other
            bits for embeddings than for weights.
    """
    if not _is_list(bits):
        raise InputTypeError(f"bits: found {quote(bits)}, expected a list such as ['1-1-2']")
    stages = tuple(parse_bits(each) for each in bits)
    if not stages:
        raise InputError("bits: found no stage, expected at least one such as 1-1-1")
    last = stages[-1]
    if last.embeddings != last.weights:
        # The published form has no word for it: it would be read as another model.
        raise InputError(
            f"bits: found {last} last, expected as many bits for embeddings as for weights"
        )
    return stages


def check_shares(shares: Sequence[float] | None, stages: int) -> tuple[float, ...]:
    """What part of the budget each stage gets; equal parts where nothing is said.

    >>> check_shares([1, 1, 2], 3)
    (0.25, 0.25, 0.5)

    Raises:
        InputTypeError: A share is not a number.
        InputError: A share is out of bounds, or there is not one for each stage.
    """
    if shares is None:
        return (1 / stages,) * stages
    if not _is_list(shares):
        raise InputTypeError(f"shares: found {quote(shares)}, expected a list such as [1, 2]")
    numbers = [check_number("shares", each, above=0, below=_MANY) for each in shares]
    if len(numbers) != stages:
        raise InputError(
            f"shares: found {len(numbers)}, expected {stages}, one for each stage of bits"
        )
    total = math.fsum(numbers)
    return tuple(each / total for each in numbers)


def check_budget(
    minutes: float | None, steps: int | None, epochs: float | None, *, default_epochs: float
) -> Budget:
    """The one budget that was given, or else the default.

    >>> check_budget(None, None, None, default_epochs=3)
    Budget(minutes=None, steps=None, epochs=3)

    Raises:
        InputTypeError: It is not a number; ``steps`` is not an integer.
        InputError: More than one was given, or it is out of bounds.
    """
    budgets = {"minutes": minutes, "steps": steps, "epochs": epochs}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) > 1:
        raise InputError(
            f"budget: found {' and '.join(given)}, expected one of minutes, steps and epochs"
        )
    if minutes is not None:
        return Budget(minutes=check_number("minutes", minutes, above=0))
    if steps is not None:
        return Budget(steps=check_int("steps", steps, 1, _MOST_STEPS))
    if epochs is not None:
        return Budget(epochs=check_number("epochs", epochs, above=0, below=_MANY))
    return Budget(epochs=default_epochs)


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    low: float | None = None,
    below: float = math.inf,
) -> float:
    """A finite number, if asked for one greater than ``above``, or at least ``low``.

    >>> check_number("epochs", 2, above=0)
    2.0

    Raises:
        InputTypeError: It is not a number.
        InputError: It is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    too_low = (above is not None and number <= above) or (low is not None and number < low)
    if too_low or number >= below or not math.isfinite(number):
        bound = f" above {above:g}" if above is not None else ""
        bound = f" of at least {low:g}" if low is not None else bound
        bound += f" below {below:g}" if math.isfinite(below) else ""
        raise InputError(f"{name}: found {number:g}, expected a finite number{bound}")
    return number


def check_installed() -> None:
    """Whether the packages of the extra ``train`` are there; imports none of them.

    Raises:
        UnsupportedError: Names those that are missing.
    """
    from importlib.util import find_spec  # who only asks for help does not wait for this

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"training needs {' and '.join(missing)}, which this Python does not have: "
            "pip install bitinfer[train]"
        )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
