"""Training recipes of published checkpoints: a family is one file here that registers itself.

Reading a checkpoint is opening its files, finding the family that recognises them by their content,
and that family's `Family.read`.  Only `bitinfer.train` names a family: it makes models of ``bit``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from bitinfer.errors import ConversionError, InputError

if TYPE_CHECKING:
    from bitinfer.codes import Bits
    from bitinfer.description import F32, Description
    from bitinfer.families.checkpoint import Checkpoint, ConfigSource, PathLike, VocabSource


class Family(NamedTuple):
    """A training recipe."""

    name: str  # as a packed file spells it
    # None if a checkpoint is of this family, else what it lacks, for a message.
    recognises: Callable[[Checkpoint], str | None]
    # Raises a ConversionError where it does not understand everything.
    read: Callable[[Checkpoint], Description]
    # Every parameter as float32 by its published key, and the settings.
    write: Callable[[Description], tuple[dict[str, F32], dict[str, Any]]] | None = None


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Adds a family to those that are tried; raises InputError if there is one of that name."""
    if family.name in _FAMILIES:
        raise InputError(f"family {family.name!r}: found one of that name, expected none")
    _FAMILIES[family.name] = family


def families() -> dict[str, Family]:
    """Every family by its name."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return dict(_FAMILIES)


def find_family(checkpoint: Checkpoint) -> Family:
    """The one family that recognises it, or a ConversionError that says what each misses."""
    lacks = {name: family.recognises(checkpoint) for name, family in families().items()}
    found = [name for name, missing in lacks.items() if missing is None]
    if len(found) == 1:
        return _FAMILIES[found[0]]
    reasons = "; ".join(f"{name}: {missing}" for name, missing in lacks.items())
    names = found or f"no family that is known ({reasons})"
    raise ConversionError(f"{checkpoint.file}: found a checkpoint of {names}, expected one family")


def read_checkpoint(
    path: PathLike,
    *,
    config: ConfigSource | None = None,
    vocab: VocabSource | None = None,
    labels: Sequence[str] | None = None,
    task: str | None = None,
    bits: str | Bits | None = None,
) -> Description:
    """Reads a checkpoint of any family.

    Args:
        path: a folder with ``pytorch_model.bin``, or a weights file: a state dict, bare or under
            ``state_dict``, ``model`` or ``model_state_dict``.
        config, vocab: settings and tokens, or paths of such files, where the checkpoint has none.
        labels, task, bits: as in `Checkpoint`, where it does not tell; bits also as text.

    Raises:
        ConversionError: naming the key or setting, what was found and what was expected.
        InputError, InputTypeError: ``bits`` is not written as `Bits.parse` reads it.
        UnsupportedError: PyTorch is not installed.

    Example:
        >>> description = read_checkpoint("bit-sst2", labels=["negative", "positive"])
        >>> description.config.hidden
        384
    """
    from bitinfer.codes import Bits
    from bitinfer.families.checkpoint import open_checkpoint

    said = bits if bits is None or isinstance(bits, Bits) else Bits.parse(bits)
    checkpoint = open_checkpoint(
        path, config=config, vocab=vocab, labels=labels, task=task, bits=said
    )
    return find_family(checkpoint).read(checkpoint)
