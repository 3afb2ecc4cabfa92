"""Inference engine for fully binarized (1-bit) BERT models.

>>> import bitinfer
>>> model = bitinfer.load("sst2")
>>> model.predict("a warm and funny film").label
'positive'

The names below are the public interface.  They are imported on first use, so ``import bitinfer``
costs next to nothing; PyTorch is imported only to read a checkpoint.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitinfer.errors import (
    BitinferError,
    ConversionError,
    FormatError,
    InputError,
    InputTypeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from bitinfer import ops, train
    from bitinfer._core import available_isas
    from bitinfer.conversion.convert import convert
    from bitinfer.conversion.export import export_float
    from bitinfer.diagnostics import show_config
    from bitinfer.results import EncoderOutput, Prediction
    from bitinfer.runtime.model import BitModel, load

    __version__: str

__all__ = [
    "BitModel",
    "BitinferError",
    "ConversionError",
    "EncoderOutput",
    "FormatError",
    "InputError",
    "InputTypeError",
    "Prediction",
    "UnsupportedError",
    "__version__",
    "available_isas",
    "convert",
    "export_float",
    "load",
    "ops",
    "show_config",
    "train",
]

_HOMES = {
    "BitModel": "runtime.model",
    "EncoderOutput": "results",
    "Prediction": "results",
    "available_isas": "_core",
    "convert": "conversion.convert",
    "export_float": "conversion.export",
    "load": "runtime.model",
    "show_config": "diagnostics",
}


if not TYPE_CHECKING:  # a type checker that saw this would believe in any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = importlib.import_module("bitinfer._core").build_info()["version"]
        elif name in ("ops", "train"):
            value = importlib.import_module(f"bitinfer.{name}")
        elif name in _HOMES:
            value = getattr(importlib.import_module(f"bitinfer.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module 'bitinfer' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
