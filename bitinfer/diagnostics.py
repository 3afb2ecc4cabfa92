"""What a bug report needs to know about this installation."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from bitinfer import _core
from bitinfer.errors import BitinferError
from bitinfer.ops import PackedMatrix, bgemm
from bitinfer.runtime.model import load
from bitinfer.runtime.origin import builtin_names

_PACKAGES = ("numpy", "tokenizers", "safetensors", "tqdm", "torch", "transformers", "matplotlib")
_VARIABLES = ("BITINFER_ISA", "BITINFER_NUM_THREADS")


def diagnose() -> dict[str, Any]:
    """Versions, machine, instruction sets, threads and settings as plain data, ready for JSON.

    A setting that cannot be used, such as an instruction set that the machine lacks, is shown as
    the error it causes.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "bitinfer": _core.build_info(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpus": {"present": os.cpu_count(), "allowed": allowed},
        "cpu_features": [name for name, present in _core.cpu_features().items() if present],
        "available_isas": _core.available_isas(),
        "isa": _value_or_error(_core.resolve_isa),
        "num_threads": _value_or_error(_core.resolve_num_threads),
        "environment": {name: os.environ.get(name) for name in _VARIABLES},
        "packages": {name: package_version(name) for name in _PACKAGES},
    }


def self_test() -> dict[str, str]:
    """Whether each instruction set computes what it should: ``"ok"``, or what is wrong.

    Products of random codes are compared with plain loops, and the built-in models' answers with
    those of the first instruction set.
    """
    random = np.random.RandomState(1)
    a, b = (PackedMatrix.from_codes(random.choice([-1, 1], (m, 900))) for m in (7, 70))
    products = a.unpack().astype(np.int32) @ b.unpack().T

    def answers(isa: str) -> dict[str, bytes]:
        # The number of threads is given: that of the environment may be wrong, another finding.
        found = {"products": bgemm(a, b, isa=isa, num_threads=2).astype(np.int32).tobytes()}
        for name in builtin_names():
            logits = load(name, isa=isa, num_threads=2).logits("a warm and funny film")
            found[f"model {name}"] = logits.tobytes()
        return found

    isas = _core.available_isas()
    expected = answers(isas[0]) | {"products": products.tobytes()}
    results = {}
    for isa in isas:
        wrong = [what for what, found in answers(isa).items() if found != expected[what]]
        results[isa] = f"wrong: {', '.join(wrong)}" if wrong else "ok"
    return results


def show_config() -> None:
    """Print what :func:`diagnose` finds, one thing a line."""
    print("\n".join(format_lines(diagnose())))


def format_lines(data: dict[str, Any], indent: str = "") -> list[str]:
    """Nested plain data as aligned lines of text."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *format_lines(value, indent + "  ")]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"{indent}{key}: {text}")
    return lines


def _value_or_error(function: Callable[[None], str | int]) -> str | int:
    try:
        return function(None)
    except BitinferError as error:
        return f"error: {error}"


def package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0].strip() if names else platform.processor() or "unknown"
