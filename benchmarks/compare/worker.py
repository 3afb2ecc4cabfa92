"""A process with one contestant, told by lines of JSON what to do.

    python -m benchmarks.compare.worker GROUP NAME THREADS

Requests are ``{"do": "prepare", "cell": {...}}``, ``{"do": "check"}``, ``{"do": "time"}``,
``{"do": "warm"}``, ``{"do": "call"}`` and ``{"do": "footprint"}``; each is answered by one line, an
object, which is ``{"error": ...}`` if it failed.  The end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any, TextIO

from .contestants import GROUPS, Contestant

_LEAST = 0.005  # seconds: the clock and what woke the process up are nothing beside it
_WARM = 0.1  # seconds until caches and clock rates are those of this contestant, not of the last


def answer(contestant: Contestant, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "prepare":
            return {"variant": contestant.prepare(request["cell"])}
        case "check":
            return asdict(contestant.check())
        case "call":
            contestant.call()
            return {}
        case "warm":
            until = time.perf_counter() + _WARM
            contestant.call()
            while time.perf_counter() < until:
                contestant.call()
            return {}
        case "time":
            return _timed(contestant)
        case "footprint":
            return {"peak": _peak(), "file": contestant.file_bytes()}
    raise ValueError(f"do: found {request['do']!r}")


def _timed(contestant: Contestant) -> dict[str, Any]:
    """Seconds of a call, and how many processors it kept busy; short calls are repeated."""
    processor, start = time.process_time(), time.perf_counter()
    calls, seconds = 0, 0.0
    while seconds < _LEAST:
        contestant.call()
        calls += 1
        seconds = time.perf_counter() - start
    busy = (time.process_time() - processor) / seconds
    return {"seconds": seconds / calls, "busy": busy}


def _peak() -> int:
    """Bytes of memory that the process has had at most."""
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":", 1) for line in file)
    return 1024 * int(status["VmHWM"].split()[0])


def serve(contestant: Contestant, requests: TextIO, replies: TextIO) -> None:
    for line in requests:
        try:
            reply = answer(contestant, json.loads(line))
        except Exception as error:  # whatever a library throws is an answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


def main() -> None:
    group, name, threads = sys.argv[1:]
    # What libraries print must not come between the answers.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(GROUPS[group][name].make(int(threads)), sys.stdin, replies)


if __name__ == "__main__":
    main()
