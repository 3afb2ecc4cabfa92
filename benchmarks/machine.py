"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

from bitinfer.diagnostics import diagnose

_PACKAGES = ("numpy", "torch", "tokenizers")
_LOAD = os.getloadavg()[0]  # when this was imported: before the benchmarks add theirs


def describe() -> dict[str, Any]:
    """Processor, compiler, versions and date as plain data; nothing that names the host."""
    found = diagnose()
    compiler = found["bitinfer"]["compiler"]
    return {
        "cpu": found["cpu"] + _family(),
        "cpus": found["cpus"]["allowed"] or found["cpus"]["present"],
        "load": _LOAD,
        "best_isa": found["available_isas"][0],
        "compiler": f"GCC {compiler}" if compiler[0].isdigit() else compiler,
        "python": found["python"],
        "bitinfer": found["bitinfer"]["version"],
        "packages": {name: found["packages"][name] for name in _PACKAGES},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _family() -> str:
    """Virtual machines often hide the name of the processor, but not its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return ""
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    if "cpu family" not in fields:
        return ""
    return f" (family {fields['cpu family']}, model {fields['model']})"
