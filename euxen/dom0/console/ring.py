"""A guest's console ring, from the back end's side (xen/include/public/io/console.h).

Pure: it is given the shared page and what to call after it has changed it. A guest can put anything
into the ring's indices; what makes no sense is taken for an empty ring, as xenconsoled does.
"""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi.io.console import XenconsInterface

IN_SIZE = XenconsInterface.fields["in_"].size
OUT_SIZE = XenconsInterface.fields["out"].size
WRAP = 1 << 32
MAX_INPUT = 1 << 16
"""How much input waits for a guest that does not read."""


class ConsoleRing:
    """One console: ``receive`` what the guest wrote, ``send`` what it shall read."""

    def __init__(self, page: memoryview, notify: Callable[[], None]) -> None:
        offsets = XenconsInterface.offsets
        self._in = page[offsets["in_"] : offsets["in_"] + IN_SIZE]
        self._out = page[offsets["out"] : offsets["out"] + OUT_SIZE]
        self._indices = {
            name: page[offsets[name] : offsets[name] + 4].cast("I")
            for name in ("in_cons", "in_prod", "out_cons", "out_prod")
        }
        self._notify = notify
        self._input = bytearray()
        self._closed = False
        self._last_words = b""

    def close(self) -> None:
        """The guest is gone, and the page with it. What it wrote last can be received once more."""
        self._last_words = self.receive()
        self._closed = True
        for view in (self._in, self._out, *self._indices.values()):
            view.release()

    def receive(self) -> bytes:
        """Take what the guest has written, and give it what waits for it."""
        if self._closed:
            data, self._last_words = self._last_words, b""
            return data
        consumer, producer = self._indices["out_cons"][0], self._indices["out_prod"][0]
        size = (producer - consumer) % WRAP
        data = b""
        if 0 < size <= OUT_SIZE:
            start = consumer % OUT_SIZE
            data = bytes(self._out[start : min(start + size, OUT_SIZE)])
            data += bytes(self._out[: size - len(data)])
            self._indices["out_cons"][0] = producer
        if self._fill() or data:
            self._notify()
        return data

    def send(self, data: bytes) -> int:
        """Queue input for the guest; returns how many bytes were taken."""
        if self._closed:
            return len(data)
        taken = data[: MAX_INPUT - len(self._input)]
        self._input += taken
        if self._fill():
            self._notify()
        return len(taken)

    @property
    def input_room(self) -> int:
        """How many bytes ``send`` would take."""
        return MAX_INPUT - len(self._input)

    def _fill(self) -> bool:
        """Move waiting input into the ring; whether there was any and any room."""
        consumer, producer = self._indices["in_cons"][0], self._indices["in_prod"][0]
        used = (producer - consumer) % WRAP
        if not self._input or used >= IN_SIZE:
            return False
        part = self._input[: IN_SIZE - used]
        del self._input[: len(part)]
        for number, byte in enumerate(part):
            self._in[(producer + number) % IN_SIZE] = byte
        self._indices["in_prod"][0] = (producer + len(part)) % WRAP
        return True
