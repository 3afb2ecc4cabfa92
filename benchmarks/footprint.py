"""Size, start and memory: ``python benchmarks/footprint.py`` prints them as JSON.

    python benchmarks/footprint.py --calls 100000     only: does the memory stay flat over so many?

Sizes are those of real files: the built-in model, and a BERT-base of random weights with the
vocabulary of the built-in one (made with PyTorch; left out without it).  Start and memory are those
of fresh processes.  This file imports nothing big, or the processes it starts would count it: Linux
hands the peak of a parent down to its child.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_STARTS = 7
_HERE = Path(__file__).parent

# Prints seconds from the start of the process and from the first import to the first label, and the
# peak memory in bytes.  The clock is that of the system: the time of the start is an argument.
_FIRST_PREDICTION = """
import sys, time
start = time.monotonic()
import bitinfer
model = bitinfer.load(sys.argv[1])
model.predict("a warm and funny film")
end = time.monotonic()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(end - float(sys.argv[2]), end - start, 1024 * int(status["VmHWM"].split()[0]))
"""
_IMPORTS_ALONE = """
import numpy, tokenizers
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(1024 * int(status["VmHWM"].split()[0]))
"""
# Sentences of every length, words that are new, pairs, batches, vectors, arrays; prints the calls
# made and the resident memory, in bytes, ten times.  The first calls are not counted: they fill
# what is kept, the workspace and the table of known words.
_MANY_CALLS = """
import sys
import bitinfer
model = bitinfer.load(sys.argv[1])
def call(i):
    text = f"a warm and funny film number {i} " * (1 + i % 19)
    if i % 100 == 0:
        model.predict([text] * (1 + i // 100 % 40))
    elif i % 100 == 1:
        model.encode([text, "x"], pooling="mean")
    elif i % 100 == 2:
        model.forward([[101, i % 1000, 102]] * 3)
    elif i % 100 == 3:
        model.predict(text, f"second {i}", top_k=None)
    else:
        model.predict(text)
calls = int(sys.argv[2])
for i in range(20_000):
    call(i)
model.predict(["a warm and funny film " * 200] * 64, max_length=model.config["positions"])
for part in range(11):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(part * calls // 10, 1024 * int(status["VmRSS"].split()[0]), flush=True)
    if part < 10:
        for i in range(part * calls // 10, (part + 1) * calls // 10):
            call(i)
"""
_MAKE_BASE = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from models import text_model
text_model(Path(sys.argv[2]))
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
        made = subprocess.run([sys.executable, "-c", _MAKE_BASE, str(_HERE), folder])
        if made.returncode == 0:
            file = Path(folder) / "base.safetensors"
            found["base"] = _model(str(file), file)
    return {"models": found, "imports_peak": int(_output(_IMPORTS_ALONE))}


def measure_calls(name: str, calls: int) -> dict[str, Any]:
    """Resident bytes after each tenth of the calls, and by how much they grew over all of them."""
    lines = _output(_MANY_CALLS, name, str(calls)).splitlines()
    resident = {int(done): int(size) for done, size in map(str.split, lines)}
    return {"calls": calls, "growth": resident[calls] - resident[0], "resident": resident}


def _model(name: str, file: Path) -> dict[str, Any]:
    _first_prediction(name)  # what Python compiles and the file are then on the disk and in memory
    starts = [_first_prediction(name) for _ in range(_STARTS)]
    from_start, from_import, peak = (
        sorted(each)[_STARTS // 2] for each in zip(*starts, strict=True)
    )
    return {
        **json.loads(_output(_INFO, name)),
        "file": file.stat().st_size,
        "process_to_first_prediction": from_start,
        "first_prediction": from_import,
        "peak": int(peak),
    }


def _first_prediction(name: str) -> tuple[float, ...]:
    return tuple(map(float, _output(_FIRST_PREDICTION, name, str(time.monotonic())).split()))


def _builtin_file() -> Path:
    code = "from bitinfer.runtime.origin import find_model; print(find_model('sst2').path)"
    return Path(_output(code).strip())


def _output(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    # Installed packages are compiled: what is measured must not compile them every time.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, help="measure the memory over so many calls instead")
    parser.add_argument("--model", default="sst2", help="packed file or name, with --calls")
    options = parser.parse_args()
    if options.calls is None:
        print(json.dumps(measure(), indent=1))
    else:
        print(json.dumps(measure_calls(options.model, options.calls), indent=1))


if __name__ == "__main__":
    _main()
