"""`load`: from a path to a model, the work of both processors side by side.

The time from the start of a process to its first label is mostly that of importing NumPy, so the
file is read and its checksum computed meanwhile.  Nothing here may import NumPy at the top.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bitinfer import _core
from bitinfer.checks import check_engine
from bitinfer.errors import BitinferError, FormatError, UnsupportedError
from bitinfer.runtime.background import Background
from bitinfer.runtime.format import open_packed
from bitinfer.runtime.origin import Origin, find_builtin, find_model, is_checkpoint, read_model

if TYPE_CHECKING:
    from bitinfer.runtime.model import BitModel

__all__ = ["load", "load_origin", "may_start_thread", "reopen"]


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    num_threads: int | None = None,
    isa: str | None = None,
) -> BitModel:
    """Load a model from the disk.  Nothing is ever downloaded.

    Args:
        path: A packed file, a folder that holds one as ``packed.safetensors`` (as `distill` makes
            it), a checkpoint folder, a ``.pt`` / ``.bin`` checkpoint, or the name of a built-in
            model.  The content decides, not the ending, and an existing path wins over a name.
            Checkpoints are converted in memory, which needs PyTorch.
        device: ``"cpu"``.
        num_threads: Threads of one call; default ``BITINFER_NUM_THREADS``, else the CPUs this
            process may use.
        isa: Instruction set, one of :func:`bitinfer.available_isas`; default ``BITINFER_ISA``, else
            the best one.  The answers do not depend on it.

    Raises:
        FormatError: The packed file is damaged or of an unknown version.
        ConversionError: The checkpoint cannot be converted exactly.
        UnsupportedError: The device or instruction set is not there, or PyTorch is missing.
        InputError: There is no such path or name, or an option or variable is not allowed.
        InputTypeError: An argument has a type that is not allowed.
        OSError: The file cannot be read.

    >>> model = load("sst2")
    >>> model.predict("a warm and funny film").label
    'positive'
    """
    if str(device) != "cpu":
        raise UnsupportedError(f"device: found {str(device)!r}, expected 'cpu'")
    options = check_engine(num_threads, isa)
    return load_origin(find_model(path), *options)


def load_origin(origin: Origin, num_threads: int | None = None, isa: str | None = None) -> BitModel:
    """The model of an origin; options that are no options are errors of the native code."""
    if is_checkpoint(origin):
        from bitinfer.runtime.model import BitModel

        return BitModel(origin, num_threads, isa, content=read_model(origin))
    threaded = may_start_thread(num_threads)
    with open_packed(origin.path) as file, Background(file.read, threaded=threaded) as reading:
        from bitinfer.runtime.model import BitModel

        content = file.metadata, file.tensors(reading.result())
        return BitModel(origin, num_threads, isa, content=content)


def reopen(origin: Origin, identity: str, num_threads: int | None, isa: str | None) -> BitModel:
    """Undo `BitModel.__reduce__`."""
    if origin.builtin is not None:
        origin = find_builtin(origin.builtin)
    model = load_origin(origin, num_threads, isa)
    if model._identity() != identity:
        raise FormatError(f"{origin}: not the model that was pickled: the file has changed since")
    return model


def may_start_thread(num_threads: int | None) -> bool:
    """Whether a model of so many threads may start one while it is loaded."""
    try:
        return _core.resolve_num_threads(num_threads) > 1
    except BitinferError:
        return False  # a wrong variable of the environment: the engine will say so
