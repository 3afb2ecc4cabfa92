"""The options of training: each is written once, as a field with its default, type and help.

From the fields come the keywords of `distill` and `finetune`, the options of the commands of the
same names, the checks of both, and what a report says of a run.  Needs neither PyTorch nor NumPy:
the command line uses it too.
"""

from __future__ import annotations

import inspect
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field, fields, replace
from functools import partial, wraps
from types import NoneType
from typing import Any, ClassVar, Literal, ParamSpec, TypeAlias, TypeVar

from bitinfer.checks import check_text
from bitinfer.codes import Bits
from bitinfer.config import MIN_LENGTH
from bitinfer.data.columns import Columns
from bitinfer.errors import InputError, InputTypeError, UnsupportedError, quote
from bitinfer.fields import (
    BOOL,
    NAMES,
    TEXT,
    OptionType,
    about,
    choice,
    integer,
    list_of,
    number,
    option,
)

#: A table: its path, or its rows as `bitinfer.data.tables` takes them.
Rows: TypeAlias = "str | os.PathLike[str] | Iterable[Any]"

#: The options that are such.
TABLES = ("train", "dev", "unlabelled")

_P = ParamSpec("_P")
_O = TypeVar("_O")
_R = TypeVar("_R")

# More than anybody waits for, and little enough to be counted in floats.
_MOST = 2**53
_MANY = 1e9  # epochs, and the largest share
_MOST_SEED = 2**63 - 1
_MOST_THREADS = 1024  # far more could not be started, which ends the process
_BATCH_SIZE = 32


def _check_bits(name: str, value: Any) -> tuple[str, ...]:
    stages = [Bits.parse(each) for each in NAMES.check(name, value)]
    if not stages:
        raise InputError(f"{name}: found no stage, expected at least one such as 1-1-1")
    if not stages[-1].packable:
        raise InputError(
            f"{name}: found {stages[-1]} last, expected bits that can be packed: 1 of weights and "
            "embeddings, 1 .. 4 of every activation"
        )
    return tuple(map(str, stages))


def _check_labels(name: str, value: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = NAMES.check(name, value)
    for index, label in enumerate(names):
        found = f"label {index}: found {quote(label)}"
        if not label or label != label.strip():
            raise InputError(f"{found}, expected a name without blanks around it")
        if label in names[:index]:
            raise InputError(f"{found} again, expected names that differ")
    if len(names) < 2:
        raise InputError(f"{name}: found {quote(list(names))}, expected two or more that differ")
    return names


def _check_path(name: str, value: Any, expected: str = "a path") -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise InputTypeError(f"{name}: found {type(value).__name__}, expected {expected}")
    path = os.fsdecode(value)
    if "\0" in path:
        raise InputError(f"{name}: found {path!r}, expected a path")
    return check_text(name, path)  # the name of a file may be bytes that are no text


def _check_rows(name: str, value: Any) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, os.PathLike)):
        return value
    return _check_path(name, value, "a path or rows")


_LABELS = replace(NAMES, check=_check_labels)
_BITS = replace(NAMES, check=_check_bits, metavar="W-E-A,...")
_SHARES = list_of(number(above=0, below=_MANY))
_POSITIVE, _WEIGHT = number(above=0), number(low=0)
_EPOCHS = number(above=0, below=_MANY)
_FOLDER = OptionType(_check_path)
_TABLE = OptionType(_check_rows, metavar="FILE")


_Path: TypeAlias = "str | os.PathLike[str]"


def _file(type: OptionType, metavar: str, help: str, *flags: str) -> dict[str, Any]:
    """Of a field that has no default: the functions take it by its place."""
    type = replace(type, metavar=metavar)
    return about(type, help, *flags, group="files", positional=not flags)


_TEACHER = _file(_FOLDER, "TEACHER", "local Hugging Face folder of a float BERT")
_ENCODER = _file(_FOLDER, "ENCODER", "local Hugging Face folder of a BERT, with a head or without")
_TRAIN = _file(_TABLE, "FILE", "labelled texts to learn: .tsv, .csv or .jsonl", "--train")
_DEV = _file(_TABLE, "FILE", "labelled texts that choose the weights that are kept", "--dev")
_OUTPUT = _file(_FOLDER, "OUT", "folder to make", "-o", "--output")
_data, _budget, _stages, _training, _model, _run = (
    partial(option, group=name)
    for name in ("data", "budget, one of", "stages and losses", "training", "model", "run")
)


@dataclass(frozen=True, kw_only=True)
class _Shared(Columns):
    """The options that both functions have."""

    labels: Sequence[str] | None = _data(
        None, _LABELS, "names of the classes in order; default the teacher's, or as found"
    )
    regression: bool = _data(False, BOOL, "the label is a number to predict")
    max_length: int | None = _data(
        None, integer(MIN_LENGTH), "tokens a text is cut to; default 128"
    )
    minutes: float | None = _budget(None, _POSITIVE, "time")
    steps: int | None = _budget(None, integer(1, _MOST), "batches")
    epochs: float | None = _budget(None, _EPOCHS, "passes over the training texts")
    seed: int = _training(0, integer(0, _MOST_SEED), "of everything random")
    evaluate_every: int | None = _training(
        None, integer(1), "steps between looks at dev; default half an epoch"
    )
    bf16: bool | None = _training(
        None, BOOL, "16-bit products; default where the machine is made for them"
    )
    threads: int | None = _training(None, integer(1, _MOST_THREADS), "of PyTorch; default all CPUs")
    licence: str | None = _run(None, TEXT, "of the model, recorded in it and its card")
    plot: bool = _run(False, BOOL, "draw report.svg, which needs matplotlib")
    resume: bool = _run(False, BOOL, "go on with a run that was stopped")
    show_progress_bar: bool | None = _run(
        None, BOOL, "default if the logger `bitinfer` is at level INFO, or on a terminal"
    )

    command: ClassVar[Literal["distill", "finetune"]]
    usual_epochs: ClassVar[float]

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            # None is a value where it is the default.
            if value is not None or each.default is not None:
                value = each.metadata["type"].check(each.name, value)
                object.__setattr__(self, each.name, value)
        budgets = [name for name in ("minutes", "steps", "epochs") if getattr(self, name)]
        if len(budgets) > 1:
            raise InputError(
                f"budget: found {' and '.join(budgets)}, expected one of minutes, steps and epochs"
            )
        if self.regression and self.labels is not None:
            found = quote(list(self.labels))
            raise InputError(f"labels: found {found}, expected none for a regression")

    def progress(self, share: float, step: int, seconds: float, steps_per_epoch: int) -> float:
        """Which part of a share of the budget is used up, 0..1; at least a step is.

        With ``minutes`` the number of steps, and so the result, depends on the machine.
        """
        if self.minutes is not None:
            limit = 60 * self.minutes * share  # which may round to 0
            return seconds / limit if seconds < limit else 1.0
        total = self.steps or (self.epochs or self.usual_epochs) * steps_per_epoch
        return min(1.0, step / max(1, round(total * share)))

    def given(self) -> dict[str, Any]:
        """Those that are not at their defaults."""
        usual = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in vars(self).items() if value != usual[name]}

    def plain(self) -> dict[str, Any]:
        """Every option as a report has it; ``{"rows": ...}`` stands for rows without a file."""
        found = dict(vars(self))
        for name, value in found.items():
            if name in TABLES and not isinstance(value, (str, NoneType)):
                found[name] = {"rows": type(value).__name__}
            elif isinstance(value, tuple):
                found[name] = list(value)
        return found


@dataclass(frozen=True)
class DistillOptions(_Shared):
    """Of `bitinfer.train.distill`."""

    command: ClassVar[Literal["distill", "finetune"]] = "distill"
    usual_epochs: ClassVar[float] = 12.0
    most_gradient: ClassVar[float | None] = None  # the norm to which it is cut, if it is dense

    teacher: _Path = field(metadata=_TEACHER)
    train: Rows = field(metadata=_TRAIN)
    dev: Rows = field(metadata=_DEV)
    output: _Path = field(metadata=_OUTPUT)
    _: KW_ONLY
    unlabelled: Rows | None = _data(  # noqa: RUF009
        None, _TABLE, "more texts to learn from; labels in it are not looked at"
    )
    bits: Sequence[str] = _stages(
        ("1-1-4", "1-1-2", "1-1-1"),
        _BITS,
        "of each student: weights (1 or 32), embeddings (1 or 32), activations (1 .. 8 or 32); "
        "+attention=n, +ffn=n or +point=n for points with other bits",
    )
    shares: Sequence[float] | None = _stages(
        None, _SHARES, "of the budget for each student, in any unit; default equal ones"
    )
    token_noise: float = _stages(
        0.0, number(low=0, below=0.5), "mean part of the tokens to replace by random ones"
    )
    label_weight: float = _stages(0.0, _WEIGHT, "of the loss on the labels")
    hidden_weight: float = _stages(1.0, _WEIGHT, "of the loss on hidden states")
    attention_weight: float = _stages(0.0, _WEIGHT, "of the loss on attention scores")
    activation: str = _stages("relu", choice("relu", "gelu"), "of the students")
    batch_size: int | None = _training(
        None, integer(1), "texts of a step, or with batch_tokens the most; default 32"
    )
    batch_tokens: int | None = _training(
        None, integer(1), "most tokens of a step, if no text is longer"
    )
    learning_rate: float = _training(5e-4, _POSITIVE, "the highest")
    vector_rate: float = _training(
        1.0, _POSITIVE, "rate of shifts, steps, biases and norms, as a multiple"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is self.batch_tokens is None:
            object.__setattr__(self, "batch_size", _BATCH_SIZE)
        if self.shares is not None and len(self.shares) != len(self.bits):
            found = f"shares: found {len(self.shares)}"
            raise InputError(f"{found}, expected {len(self.bits)}, one for each stage of bits")

    @property
    def stages(self) -> list[tuple[Bits, float]]:
        """Bits of each student, and its share of the budget: equal ones where nothing is said."""
        shares = self.shares or (1,) * len(self.bits)
        total = math.fsum(shares)
        return [(Bits.parse(b), share / total) for b, share in zip(self.bits, shares, strict=True)]


@dataclass(frozen=True)
class FinetuneOptions(_Shared):
    """Of `bitinfer.train.finetune`."""

    command: ClassVar[Literal["distill", "finetune"]] = "finetune"
    usual_epochs: ClassVar[float] = 3.0
    # What the loop asks for, and nobody may choose here.
    most_gradient: ClassVar[float | None] = 1.0
    token_noise: ClassVar[float] = 0.0
    batch_tokens: ClassVar[int | None] = None
    vector_rate: ClassVar[float] = 1.0

    encoder: _Path = field(metadata=_ENCODER)
    train: Rows = field(metadata=_TRAIN)
    dev: Rows = field(metadata=_DEV)
    output: _Path = field(metadata=_OUTPUT)
    _: KW_ONLY
    batch_size: int = _training(_BATCH_SIZE, integer(1), "texts of a step")
    learning_rate: float = _training(5e-5, _POSITIVE, "the highest")
    reinitialize_pooler: bool = _model(
        False, BOOL, "begin with a new pooler, as for an encoder of sentence embeddings"
    )
    dropout: float = _model(0.1, number(low=0, below=1), "probability in training")


Options: TypeAlias = DistillOptions | FinetuneOptions
#: The options of each function, which are those of the command of the same name.
OPTIONS: dict[str, type[DistillOptions] | type[FinetuneOptions]] = {
    each.command: each for each in (DistillOptions, FinetuneOptions)
}


def names_of(command: str, *groups: str) -> list[str]:
    """The options of a function, the first arguments first; of some groups if any are named."""
    found = _ordered(OPTIONS[command])
    return [each.name for each in found if not groups or each.metadata["group"] in groups]


def _ordered(kind: Any) -> list[Field[Any]]:
    return sorted(fields(kind), key=lambda each: bool(each.kw_only))


def takes_options(kind: Callable[_P, _O]) -> Callable[[Callable[[_O], _R]], Callable[_P, _R]]:
    """A function of checked options becomes one that takes each as an argument.

    Its docstring gets the help of all options in the place of ``{options}``.
    """

    def decorate(run: Callable[[_O], _R]) -> Callable[_P, _R]:
        @wraps(run)
        def call(*given: _P.args, **named: _P.kwargs) -> _R:
            return run(kind(*given, **named))

        told = [f"{each.name}: {each.metadata['help']}." for each in _ordered(kind)]
        lines = [textwrap.fill(each, 88, subsequent_indent="    ") for each in told]
        described = textwrap.indent("\n".join(lines), 8 * " ").lstrip()
        call.__doc__ = (run.__doc__ or "").replace("{options}", described)
        call.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
        return call

    return decorate


def check_installed(*packages: str) -> None:
    """Raises an UnsupportedError that names what is missing of the extra ``train``."""
    from importlib.util import find_spec  # who only asks for help does not wait for this

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"training needs {' and '.join(missing)}, which this Python does not have: "
            "pip install bitinfer[train]"
        )
