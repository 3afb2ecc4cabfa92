"""Training: a float BERT and labelled texts become a packed 1-bit model.

The names below are imported on first use: whoever only asks for ``bitinfer distill --help`` does
not wait for PyTorch.  They need the extra ``train``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitinfer.train.distillation import distill as distill
    from bitinfer.train.finetuning import finetune as finetune
    from bitinfer.train.report import TrainingReport as TrainingReport
    from bitinfer.train.report import read_report as read_report

# A module must not bear the name of a function here: importing it would hide the function.
_HOMES = {
    "TrainingReport": "report",
    "distill": "distillation",
    "finetune": "finetuning",
    "read_report": "report",
}

__all__ = ["TrainingReport", "distill", "finetune", "read_report"]


if not TYPE_CHECKING:  # a type checker that saw this would believe in any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'bitinfer.train' has no attribute {name!r}")
        if _HOMES[name] != "report":
            options = importlib.import_module("bitinfer.train.options")
            options.check_installed("torch", "transformers")
        value = getattr(importlib.import_module(f"bitinfer.train.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
