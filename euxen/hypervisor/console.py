"""Xen's own console: a ring of what it and its domains have written. Source: xen/drivers/char/console.c."""

from __future__ import annotations

from collections.abc import Callable

RING_SIZE = 16 << 10
NOT_PRINTABLE = bytes(byte for byte in range(256) if byte not in (0x09, 0x0A) and not 0x20 <= byte < 0x7F)
LONGEST_LINE = 80
"""What a guest writes without an end is a line when it is so long."""


class XenConsole:
    """The ring. Positions in it count bytes from the start, and wrap after 32 bits, as Xen's do."""

    def __init__(self) -> None:
        self._ring = bytearray(RING_SIZE)
        self._consumed = 0
        self._produced = 0
        self._unfinished: dict[int, bytes] = {}
        self.listener: Callable[[str], None] = lambda line: None
        """Called with each line of Xen's own, without its end."""

    def _put(self, text: bytes) -> None:
        text = text[-RING_SIZE:]
        at = self._produced % RING_SIZE
        room = RING_SIZE - at
        self._ring[at : at + len(text)] = text[:room]
        self._ring[: len(text[room:])] = text[room:]
        assert len(self._ring) == RING_SIZE
        self._produced += len(text)
        self._consumed = max(self._consumed, self._produced - RING_SIZE)

    def printk(self, line: str) -> None:
        """Log a line of Xen's."""
        self._put(f"(XEN) {line}\n".encode(errors="replace"))
        self.listener(line)

    def guest_write(self, domid: int, data: bytes) -> None:
        """What a domain has written: Domain 0's as it is, others' by line, with their numbers, if it is printable."""
        if domid == 0:
            self._put(data)
            return
        pending = self._unfinished.get(domid, b"") + data.translate(None, NOT_PRINTABLE)
        *lines, rest = pending.split(b"\n")
        if len(rest) >= LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._unfinished[domid] = rest
        for line in lines:
            for start in range(0, max(len(line), 1), LONGEST_LINE):
                self._put(b"(XEN) (d%d) %s\n" % (domid, line[start : start + LONGEST_LINE]))

    def read(self, size: int, start: int | None, clear: bool) -> tuple[bytes, int]:
        """Up to ``size`` bytes, from ``start`` on if that is in the ring, and where they end (read_console_ring)."""
        first = self._consumed
        if start is not None:
            behind = self._produced - start & 0xFFFF_FFFF
            if behind < self._produced - self._consumed:
                first = self._produced - behind
        end = min(first + size, self._produced)
        if clear:
            self._consumed = end
        at = first % RING_SIZE
        return bytes((self._ring[at:] + self._ring[:at])[: end - first]), end & 0xFFFF_FFFF

    def forget(self, domid: int) -> None:
        """A domain is gone."""
        self._unfinished.pop(domid, None)
