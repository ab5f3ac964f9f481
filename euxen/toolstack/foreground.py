"""Running one domain in the foreground: its console on this program's terminal or standard streams."""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator

from euxen.abi.sched import SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_suspend
from euxen.hypervisor.pcpu import Pcpu
from euxen.toolstack.create import RunningDomain
from euxen.toolstack.machine import Host

ESCAPE = b"\x1d"
"""Ctrl-]: leaves the console."""
READ_SIZE = 4096


class Ending(enum.Enum):
    """How a domain's run ended."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    CRASH = "crash"
    SUSPEND = "suspend"
    TIMEOUT = "timeout"
    LEFT = "left"


ENDINGS = {SHUTDOWN_poweroff: Ending.POWEROFF, SHUTDOWN_reboot: Ending.REBOOT, SHUTDOWN_suspend: Ending.SUSPEND}


class Output:
    """Bytes from the guest's thread for the terminal's: a pipe end to wait on, and what was written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = bytearray()
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self._write_end, False)

    def write(self, data: bytes) -> None:
        """From any thread."""
        with self._lock:
            self._pending += data
        self.wake()

    def wake(self) -> None:
        """Have whoever waits look."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    def take(self) -> bytes:
        """All that was written since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_end, READ_SIZE)
        with self._lock:
            data = bytes(self._pending)
            self._pending.clear()
        return data

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.read_end)
        os.close(self._write_end)


@contextlib.contextmanager
def _raw_terminal(file: int) -> Iterator[None]:
    """Give every key to the guest, if ``file`` is a terminal."""
    if not os.isatty(file):
        yield
        return
    saved = termios.tcgetattr(file)
    try:
        tty.setraw(file)
        yield
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, saved)


class Foreground:
    """Runs a domain until it ends, its console on ``stdin`` and ``stdout``."""

    def __init__(self, host: Host, running: RunningDomain, output: Output, timeout: float | None) -> None:
        self._host = host
        self._domain = running.domain
        self._console = running.console
        self._output = output
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._pcpu = Pcpu(running.domain)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._input_ended = False
        self._stdin = sys.stdin.fileno() if sys.stdin is not None else -1

    def run(self) -> Ending:
        """Run the domain. Afterwards it still exists, for whoever wants to look at it."""
        thread = threading.Thread(target=self._run_domain, name="euxen-pcpu0")
        with _raw_terminal(self._stdin):
            thread.start()
            try:
                ending = self._serve()
            finally:
                self._pcpu.stop()
                thread.join()
                self._show(self._output.take())
        if self._error is not None:
            raise self._error
        return ending

    def _run_domain(self) -> None:
        try:
            self._pcpu.run()
        except BaseException as error:
            self._error = error
        self._ended.set()
        self._output.wake()

    def _serve(self) -> Ending:
        with selectors.DefaultSelector() as selector:
            selector.register(self._output.read_end, selectors.EVENT_READ)
            reading = self._register_stdin(selector)
            while True:
                timeout = None if self._deadline is None else self._deadline - time.monotonic()
                if timeout is not None and timeout <= 0:
                    return Ending.TIMEOUT
                for key, _events in selector.select(timeout):
                    if key.fd == self._output.read_end:
                        self._show(self._output.take())
                    elif not self._forward_input(selector):
                        return Ending.LEFT
                if self._ended.is_set():
                    return self._ending()
                reading = self._hold_input(selector, reading)

    def _register_stdin(self, selector: selectors.BaseSelector) -> bool:
        """Whether there is an input that can be waited for; a file or /dev/null is read in one go."""
        if self._stdin < 0:
            return False
        try:
            selector.register(self._stdin, selectors.EVENT_READ)
        except PermissionError:
            self._send(_read_all(self._stdin))
            return False
        return True

    def _hold_input(self, selector: selectors.BaseSelector, reading: bool) -> bool:
        """Stop reading while the guest does not, and go on when it does."""
        registered = self._stdin in selector.get_map() if self._stdin >= 0 else False
        room = self._console.input_room >= READ_SIZE
        if reading and registered and not room:
            selector.unregister(self._stdin)
        elif reading and not registered and room and not self._input_ended:
            selector.register(self._stdin, selectors.EVENT_READ)
        return reading

    def _forward_input(self, selector: selectors.BaseSelector) -> bool:
        """Give input to the guest; False if the user wants to leave."""
        data = os.read(self._stdin, READ_SIZE)
        if not data:
            selector.unregister(self._stdin)
            self._input_ended = True
            return True
        if os.isatty(self._stdin) and ESCAPE in data:
            return False
        self._send(data)
        return True

    def _send(self, data: bytes) -> None:
        with self._host.machine.lock:
            self._console.send(data)
        self._pcpu.wake()

    @staticmethod
    def _show(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]

    def _ending(self) -> Ending:
        code = self._domain.shutdown_code
        return Ending.CRASH if code is None else ENDINGS.get(code, Ending.CRASH)


def _read_all(file: int) -> bytes:
    data = bytearray()
    while part := os.read(file, 1 << 16):
        data += part
    return bytes(data)
