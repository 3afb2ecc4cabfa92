"""One call beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background(Generic[T]):
    """A call that runs in a thread of its own, at once, or without one when it is asked for.

    The thread is gone when the block is left, however it is left: interrupts meanwhile are raised
    after the wait for it.

    Args:
        call: What to run; worth a thread if it gives up the interpreter's lock.
        threaded: Whether a thread may be started.

    Example:
        >>> with Background(lambda: 6 * 7, threaded=True) as answer:
        ...     print(answer.result())
        42
    """

    def __init__(self, call: Callable[[], T], *, threaded: bool) -> None:
        self._call = call
        self._threaded = threaded
        self._done = threading.Event()
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Background[T]:
        if self._threaded:
            thread = threading.Thread(target=self._run, name="bitinfer-load")
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # there are too many, or Python is about to end
                pass
            except BaseException:  # an interrupt; it may have started
                if thread.ident is not None:
                    self._wait_for(thread)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._wait_for(self._thread)

    def _wait_for(self, thread: threading.Thread) -> None:
        interrupt: BaseException | None = None
        while True:
            try:
                # Not join alone: interrupted in Python 3.11, it takes the thread for ended.
                self._done.wait()
                thread.join()
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def result(self) -> T:
        """What the call returned; what it raised, this raises.  Without a block it runs here."""
        if self._thread is None:
            return self._call()
        self._done.wait()
        if self._error is not None:
            raise self._error
        outcome: T = self._outcome
        return outcome
