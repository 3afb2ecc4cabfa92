"""Processes of which one at a time is awake, and rounds in which each has its turn.

An engine's threads may wait for work by spinning, which would slow down its neighbours: whoever is
not asked anything is stopped by a signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from benchmarks.markdown import ROOT

from .artefacts import FOLDER, FOLDER_VARIABLE

_FEWEST, _MOST = 5, 30  # rounds
_SLOW = 0.25  # seconds from which a call needs no other one to warm up
_LONG = 2.0  # seconds from which a contestant is timed once
_TAIL = 300  # characters of what an ended process wrote to stderr
# What keeps the libraries to their threads; each also has its own setting.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# OpenVINO and NNCF start a process that sends telemetry, except in CI.
NO_TELEMETRY = {"CI": "true"}


class ContestantError(Exception):
    """A contestant could not do what it was asked."""


class Timed(Protocol):
    """What takes part in rounds."""

    def warm(self) -> None:
        """Run for a while, untimed."""

    def time(self) -> tuple[float, float]:
        """Run once: seconds, and how many processors were busy."""


class Process:
    """A worker, stopped unless it has been asked something.

    Attributes:
        started: ``time.perf_counter()`` when it was started.
        patience: seconds until a question that has no answer ends it.
    """

    patience = 600.0

    def __init__(self, group: str, name: str, threads: int) -> None:
        environment = {
            **os.environ,
            **dict.fromkeys(_VARIABLES, str(threads)),
            **NO_TELEMETRY,
            FOLDER_VARIABLE: str(FOLDER),
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare.worker", group, name, str(threads)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # A group of its own: signals also reach what a library has started, and if we end
            # without closing it, the system ends the stopped group.
            preexec_fn=os.setpgrp,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Wake it, wait for its answer, and stop it again.

        Raises:
            ContestantError: It says so, it is gone, or it takes too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(self.patience, self._give_up, [late])
        timer.start()
        try:
            self._signal(signal.SIGCONT)
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            end = f"ended with status {self._process.wait()}"
            if late.is_set():
                end = f"no answer to {do!r} in {self.patience:g} s"
            raise ContestantError(f"{end}{self._last_words()}")
        self._signal(signal.SIGSTOP)
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise ContestantError(f"no answer to {do!r} but {line[:80]!r}") from None
        if "error" in reply:
            raise ContestantError(reply["error"])
        return reply

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self._signal(signal.SIGKILL)

    def _last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        tail = " | ".join(line.strip() for line in lines if line.strip())[-_TAIL:]
        return f": {tail}" if tail else ""

    def call(self) -> None:
        self.ask("call")

    def warm(self) -> None:
        self.ask("warm")

    def time(self) -> tuple[float, float]:
        reply = self.ask("time")
        return reply["seconds"], reply["busy"]

    def close(self) -> None:
        self._signal(signal.SIGKILL)  # also ends a stopped process
        self._process.communicate()
        self._errors.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def interleave(contestants: Mapping[str, Timed], seconds: float) -> dict[str, dict[str, Any]]:
    """Time all in turns, for about ``seconds`` each.

    Every round runs the contestants one after the other, each untimed for a while and once timed,
    so that what slows the machine down for a while meets all of them.  The i-th of the seconds of
    two contestants are of the same round.  Slow ones leave after fewer rounds than fast ones: five,
    or one where a call takes seconds.

    Returns:
        For each its ``seconds`` by round, and the processors it kept ``busy``; or the ``error``
        that ended its part.
    """
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "busy": 0.0} for name in contestants}
    for index in range(_MOST):
        for name, contestant in contestants.items():
            own = found[name]
            if "error" not in own and index < _rounds(own["seconds"], seconds):
                own.update(_turn(contestant, own))
    return found


def _turn(contestant: Timed, found: Mapping[str, Any]) -> dict[str, Any]:
    taken = found["seconds"]
    try:
        seconds, busy = contestant.time() if not taken else (0.0, 0.0)
        if seconds < _LONG:  # else it was long enough to count, the first call or not
            if min(taken or [seconds]) < _SLOW:
                contestant.warm()
            seconds, busy = contestant.time()
    except ContestantError as failure:
        return {"error": str(failure)}
    return {"seconds": [*taken, seconds], "busy": max(found["busy"], busy)}


def _rounds(taken: list[float], seconds: float) -> int:
    """In how many rounds one takes part whose calls have taken so long."""
    if not taken:
        return 1
    if min(taken) > _LONG:
        return 1
    turn = min(taken) * (2 if min(taken) < _SLOW else 1)
    return max(_FEWEST, min(_MOST, int(seconds / turn)))
