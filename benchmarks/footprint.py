"""Size, start and memory: ``python benchmarks/footprint.py`` prints them as JSON.

Sizes are those of real files: the built-in model, and a BERT-base of random weights with the
vocabulary of the built-in one (made with PyTorch; left out without it).  Start and memory are those
of fresh processes.  This file imports nothing big, or the processes it starts would count it: Linux
hands the peak of a parent down to its child.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_STARTS = 7
_TESTS = Path(__file__).parents[1] / "tests"

# Prints seconds from the first import to the first label, and the peak memory in bytes.
_FIRST_PREDICTION = """
import sys, time
start = time.perf_counter()
import bitinfer
model = bitinfer.load(sys.argv[1])
model.predict("a warm and funny film")
seconds = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(seconds, 1024 * int(status["VmHWM"].split()[0]))
"""
_IMPORTS_ALONE = """
import numpy, safetensors.numpy, tokenizers
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(0, 1024 * int(status["VmHWM"].split()[0]))
"""
_MAKE_BASE = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.append(sys.argv[1])
import seeded
from bitinfer.converter import convert
from bitinfer.origin import find_model, read_model
folder = Path(sys.argv[2])
vocab = read_model(find_model("sst2"))[0]["vocab"].split("\\n")
spec = replace(seeded.BASE_12X768, vocab=len(vocab), positions=512)
seeded.save(folder / "base", seeded.state_dict(spec), seeded.config(spec), vocab)
convert(folder / "base", folder / "base.safetensors", verify=False)
"""
_INFO = """
import json, sys
import bitinfer
info = bitinfer.load(sys.argv[1]).info()
checkpoint = info["report"]["checkpoint_bytes"]
print(json.dumps({"parts": info["bytes"], "checkpoint": checkpoint, "config": info["config"]}))
"""


def measure() -> dict[str, Any]:
    """Per model: bytes of the file, of its parts and of the checkpoint; seconds; peak bytes."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"sst2": _model("sst2", _builtin_file())}
        made = subprocess.run([sys.executable, "-c", _MAKE_BASE, str(_TESTS), folder])
        if made.returncode == 0:
            file = Path(folder) / "base.safetensors"
            found["base"] = _model(str(file), file)
    return {"models": found, "imports_peak": _python(_IMPORTS_ALONE)[1]}


def _model(name: str, file: Path) -> dict[str, Any]:
    starts = [_python(_FIRST_PREDICTION, name) for _ in range(_STARTS)]
    return {
        **json.loads(_output(_INFO, name)),
        "file": file.stat().st_size,
        "first_prediction": sorted(seconds for seconds, _ in starts)[_STARTS // 2],
        "peak": sorted(peak for _, peak in starts)[_STARTS // 2],
    }


def _builtin_file() -> Path:
    code = "from bitinfer.origin import find_model; print(find_model('sst2').path)"
    return Path(_output(code).strip())


def _python(code: str, *arguments: str) -> tuple[float, int]:
    seconds, peak = _output(code, *arguments).split()
    return float(seconds), int(peak)


def _output(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
