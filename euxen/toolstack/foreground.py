"""Running one domain in the foreground: its console on this program's terminal or standard streams."""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import TracebackType

from euxen.abi.domctl import XEN_DOMINF_shutdown, XEN_DOMINF_shutdownmask, XEN_DOMINF_shutdownshift
from euxen.toolstack.create import RunningDomain
from euxen.toolstack.ending import Ending, ending_of
from euxen.toolstack.errors import UserError
from euxen.toolstack.machine import Host
from euxen.toolstack.signals import HeldSignals

ESCAPE = b"\x1d"
"""Ctrl-]: leaves the console."""
READ_SIZE = 4096
LONGEST_WAIT = 3600.0
LAST_WORDS = 1.0
"""How long, in seconds, somebody who reads slowly has for what the domain said last."""


class Wakeup:
    """Lets any thread wake the one that waits for ``file``. A context manager."""

    def __init__(self) -> None:
        self.file = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """From any thread."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.file, 1)

    def clear(self) -> None:
        """What happened so far is going to be looked at."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.file)

    def __enter__(self) -> Wakeup:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        os.close(self.file)


@contextlib.contextmanager
def _raw_terminal(file: int) -> Iterator[None]:
    """Give every key to the guest, if ``file`` is a terminal. What was typed before is not lost."""
    if not os.isatty(file):
        yield
        return
    saved = termios.tcgetattr(file)
    try:
        tty.setraw(file, termios.TCSANOW)  # which waits for no output: the terminal may be stopped
        yield
    finally:
        # A terminal that was hung up has nothing to restore.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(file, termios.TCSANOW, saved)


class Foreground:
    """Runs a domain until it ends, its console on standard input and output.

    Xen runs it in another thread; this one copies between the streams and the console ring, and never holds more than
    the ring does: a guest that writes faster than somebody reads has to wait, and so has who types.
    """

    def __init__(self, host: Host, running: RunningDomain, wakeup: Wakeup, timeout: float | None) -> None:
        """``wakeup`` is what the domain was created with; ``timeout`` is in seconds from now."""
        self._lock = host.machine.lock
        self._host, self._domid = host, running.domid
        self._console = running.console
        self._wakeup = wakeup
        self._signals = HeldSignals(wakeup.wake)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        # Either may have been closed by whoever started us.
        self._stdin = -1 if sys.stdin is None else sys.stdin.fileno()
        self._stdout = -1 if sys.stdout is None else sys.stdout.fileno()
        self._input_ended = False
        self._may_have_ended = False
        self._output = b""

    def run(self) -> Ending:
        """Run the domain. Afterwards it still exists, paused, for whoever wants to look at it.

        A signal raises what its handler raises when the domain has stopped.
        """
        control = self._host.control
        with (
            self._signals,
            _raw_terminal(self._stdin),
            self._host.services.watching_domains(self._domains_changed),
        ):
            control.unpause_domain(self._domid)
            try:
                ending = self._serve()
            finally:
                control.pause_domain(self._domid)
            if self._signals.came is None:
                self._show_last_words()
        return ending

    def _domains_changed(self) -> None:
        self._may_have_ended = True
        self._wakeup.wake()

    def _ending(self) -> Ending | None:
        """How the domain has ended, if it has."""
        if not self._may_have_ended:
            return None
        self._may_have_ended = False
        flags = self._host.control.domain_info(self._domid).flags
        if not flags & XEN_DOMINF_shutdown:
            return None
        return ending_of(flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask)

    def _serve(self) -> Ending:
        # Not epoll, which refuses files and /dev/null.
        with selectors.PollSelector() as selector:
            selector.register(self._wakeup.file, selectors.EVENT_READ)
            while True:
                if not self._output:
                    self._receive()
                self._watch(selector, self._stdout, selectors.EVENT_WRITE, bool(self._output))
                self._watch(selector, self._stdin, selectors.EVENT_READ, self._wants_input)
                for key, _events in selector.select(self._wait()):
                    if key.fd == self._wakeup.file:
                        self._wakeup.clear()
                    elif key.fd == self._stdout:
                        self._show()
                    elif not self._forward_input():
                        return Ending.LEFT
                if self._signals.came is not None:
                    return Ending.LEFT
                if ending := self._ending():
                    return ending
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return Ending.TIMEOUT

    def _wait(self) -> float:
        if self._deadline is None:
            return LONGEST_WAIT
        return min(max(self._deadline - time.monotonic(), 0.0), LONGEST_WAIT)

    @staticmethod
    def _watch(selector: selectors.BaseSelector, file: int, event: int, wanted: bool) -> None:
        """Wait for a file, or do so no more."""
        if file < 0:
            return
        watched = file in selector.get_map()
        if wanted and not watched:
            selector.register(file, event)
        elif watched and not wanted:
            selector.unregister(file)

    @property
    def _wants_input(self) -> bool:
        return not self._input_ended and self._console.input_room >= READ_SIZE

    def _receive(self) -> None:
        """Take what the guest has written, as much as a ring holds."""
        with self._lock:
            data = self._console.receive()
        if self._stdout >= 0:
            self._output = data

    def _show(self) -> None:
        """Write what can be written without waiting: a pipe that takes anything takes PIPE_BUF bytes."""
        try:
            written = self._signals.interruptible(lambda: os.write(self._stdout, self._output))
            self._output = self._output[written or 0 :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output cannot be written ({error.strerror})") from None

    def _forward_input(self) -> bool:
        """Give input to the guest; False if the user wants to leave."""
        try:
            data = os.read(self._stdin, READ_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""  # the terminal was hung up
        if not data:
            self._input_ended = True
            return True
        if ESCAPE in data and os.isatty(self._stdin):
            return False
        with self._lock:
            self._console.send(data)
        return True

    def _show_last_words(self) -> None:
        """Show what is left in the ring, but wait for nobody who does not read."""
        with selectors.PollSelector() as selector:
            if self._stdout >= 0:
                selector.register(self._stdout, selectors.EVENT_WRITE)
            while True:
                if not self._output:
                    self._receive()
                if not self._output or not selector.select(LAST_WORDS):
                    return
                self._show()
