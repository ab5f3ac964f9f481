"""A ring of requests and responses from the back end's side: the BACK_RING of xen/include/public/io/ring.h.

Pure: it is given the shared pages and nothing else. The front end can write anything to them at any time, so indices
are read once and then checked, and a request is copied out before anybody looks at it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from euxen.abi.io.ring import CONST_RING_SIZE, Sring

PAGE_SIZE = 4096
INDEX_MASK = 0xFFFF_FFFF

_barrier = threading.Lock()


class RingError(Exception):
    """The front end's producer index makes no sense: one sentence. Nothing on the ring can be believed any more."""


def full_barrier() -> None:
    """Nothing that was stored before is seen after what is loaded behind (virt_mb): taking a lock is that on x86."""
    with _barrier:
        pass


class BackRing:
    """One ring, in pages that are in a row for the front end, and anywhere here. One thread at a time."""

    def __init__(self, pages: Sequence[memoryview], entry_size: int) -> None:
        self._pages = [page.cast("B") for page in pages]
        self._entry_size = entry_size
        self.size = CONST_RING_SIZE(entry_size, len(pages) * PAGE_SIZE)
        """How many entries it has."""
        self._indices = self._pages[0][:16].cast("I")  # req_prod, req_event, rsp_prod, rsp_event
        # A back end that comes back goes on where the one before it stopped (BACK_RING_ATTACH).
        self._requests_taken = self._responses_put = self._responses_pushed = self._indices[2]

    def take(self, most: int) -> list[bytes]:
        """Copies of up to ``most`` requests, in their order. Raises RingError."""
        produced = self._indices[0]
        if (produced - self._responses_put) & INDEX_MASK > self.size:
            raise RingError(
                f"front end provided bogus ring requests ({produced} - {self._responses_put} = "
                f"{(produced - self._responses_put) & INDEX_MASK} of {self.size}): the ring is stopped"
            )
        waiting = (produced - self._requests_taken) & INDEX_MASK
        if waiting > self.size:  # it took some back
            raise RingError(f"front end took back ring requests ({produced}, after {self._requests_taken})")
        taken = [self._read(self._requests_taken + number) for number in range(min(waiting, most))]
        self._requests_taken = (self._requests_taken + len(taken)) & INDEX_MASK
        return taken

    def has_more(self) -> bool:
        """Whether there are requests; if not, an event will come when there are (RING_FINAL_CHECK_FOR_REQUESTS)."""
        if self._indices[0] != self._requests_taken:
            return True
        self._indices[1] = (self._requests_taken + 1) & INDEX_MASK
        full_barrier()
        return self._indices[0] != self._requests_taken

    def put(self, response: bytes) -> None:
        """Put a response into the next entry. It is seen when it is pushed."""
        self._write(self._responses_put, response)
        self._responses_put = (self._responses_put + 1) & INDEX_MASK

    def push(self) -> bool:
        """Show what was put; whether the front end wants an event (RING_PUSH_RESPONSES_AND_CHECK_NOTIFY)."""
        before, now = self._responses_pushed, self._responses_put
        self._indices[2] = self._responses_pushed = now
        full_barrier()
        event = self._indices[3]
        return (now - event) & INDEX_MASK < (now - before) & INDEX_MASK

    @property
    def unanswered(self) -> int:
        """How many requests were taken that have no response yet."""
        return (self._requests_taken - self._responses_put) & INDEX_MASK

    def _place(self, index: int) -> tuple[int, int]:
        return divmod(Sring.size + index % self.size * self._entry_size, PAGE_SIZE)

    def _read(self, index: int) -> bytes:
        page, at = self._place(index)
        entry = bytes(self._pages[page][at : at + self._entry_size])
        if len(entry) < self._entry_size:
            entry += bytes(self._pages[page + 1][: self._entry_size - len(entry)])
        return entry

    def _write(self, index: int, data: bytes) -> None:
        page, at = self._place(index)
        first = data[: PAGE_SIZE - at]
        self._pages[page][at : at + len(first)] = first
        if len(first) < len(data):
            self._pages[page + 1][: len(data) - len(first)] = data[len(first) :]

    def close(self) -> None:
        """Look at the pages no more."""
        self._indices.release()
        for page in self._pages:
            page.release()
