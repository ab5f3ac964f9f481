"""Signals that wait until what must not be broken off has ended."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

_T = TypeVar("_T")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _BrokenOff(Exception):
    """Leaves a system call that may wait for ever."""


class HeldSignals:
    """A context manager, for the main thread: signals that are to end this program do so only at its end.

    Their handlers raise exceptions wherever the program is; one between two steps that belong together would leave
    threads behind, and a process that waits for them.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        """``notify`` is called when there is one."""
        self.came: int | None = None
        """The first that came."""
        self._notify = notify
        self._may_wait = False
        self._handlers: dict[int, Any] = {}

    def interruptible(self, call: Callable[[], _T]) -> _T | None:
        """What a system call gives that may wait, or None if a signal came, for which it does not go on."""
        try:
            self._may_wait = True
            return call() if self.came is None else None
        except _BrokenOff:
            return None
        finally:
            self._may_wait = False

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        if self.came is None:
            self.came = number
        self._notify()
        if self._may_wait:
            raise _BrokenOff

    def __enter__(self) -> HeldSignals:
        for number in _ENDING:
            handler = signal.getsignal(number)
            if callable(handler):  # else it is ignored, or ends the process by itself
                self._handlers[number] = handler
                signal.signal(number, self._hold)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.came is not None:
            signal.raise_signal(self.came)
