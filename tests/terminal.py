"""The command `euxen` as people run it: a process of its own, with a terminal of its own where that is wanted."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

EUXEN = Path(sys.executable).with_name("euxen")
ROOT = Path(__file__).parents[1]
PATIENCE = 120.0
"""Seconds after which something that does not come is taken for something that never comes."""


def run(*arguments: str | Path, stdin: bytes | int = b"") -> subprocess.CompletedProcess[bytes]:
    """The command, to its end. ``stdin``: its input, or a file descriptor."""
    command = [str(EUXEN), *map(str, arguments)]
    if isinstance(stdin, int):
        return subprocess.run(command, stdin=stdin, capture_output=True, timeout=PATIENCE, check=False)
    return subprocess.run(command, input=stdin, capture_output=True, timeout=PATIENCE, check=False)


class Terminal:
    """A command on a terminal of its own: what it shows, and keys for it."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._keyboard, self.file = pty.openpty()
        self.seen = b""
        """What the command has shown, and nobody has waited for."""
        self.process = subprocess.Popen(
            command, stdin=self.file, stdout=self.file, stderr=self.file, start_new_session=True
        )

    @property
    def raw(self) -> bool:
        """Whether keys go to the command one by one, none of them with a meaning for the terminal."""
        local = termios.tcgetattr(self.file)[3]
        return not local & (termios.ICANON | termios.ECHO | termios.ISIG)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._keyboard, keys.encode())

    def expect(self, text: str) -> bytes:
        """Wait until the command has shown a text; what it showed before since the last time."""
        wanted = text.encode()
        while (at := self.seen.find(wanted)) < 0:
            if not self._read():
                raise AssertionError(f"{text!r} never came, but {self.seen[-2000:]!r}")
        before, self.seen = self.seen[:at], self.seen[at + len(wanted) :]
        return before

    def wait(self) -> int:
        """Read to the end of the command; its exit status."""
        while self.process.poll() is None:
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.process.returncode

    def _read(self, patience: float = PATIENCE) -> bool:
        """Read what there is; False if nothing comes."""
        end = time.monotonic() + patience
        while True:
            ready = select.select([self._keyboard], [], [], min(patience, 0.1))[0]
            if ready:
                self.seen += os.read(self._keyboard, 65536)
                return True
            if self.process.poll() is not None or time.monotonic() > end:
                return False

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keyboard)
        os.close(self.file)
