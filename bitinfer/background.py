"""One call beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background(Generic[T]):
    """A call that runs in a thread of its own, at once, or without one when it is asked for.

    The thread is gone when the block is left, however it is left.

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
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name="bitinfer-load")

    def __enter__(self) -> Background[T]:
        if self._thread is not None:
            try:
                self._thread.start()
            except RuntimeError:  # there are too many, or Python is about to end
                self._thread = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What the call returned; what it raised, this raises."""
        if self._thread is None:
            return self._call()
        self._thread.join()
        if self._error is not None:
            raise self._error
        outcome: T = self._outcome
        return outcome
