"""Who makes a hypercall: a guest's vCPU, or this program as the kernel of Domain 0.

A hypercall's structures are in its caller's memory. A vCPU (``Vcpu``) has that of its guest; the built-in Domain 0 has
what it lends for the call, as a kernel's tools do with the buffers of libxencall.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from euxen.hypervisor.errors import GuestFault

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

BUFFER_SHIFT = 32
"""Each buffer has this many bits of addresses to itself; no buffer is at 0."""


class Caller(Protocol):
    """A domain that asks, and its memory."""

    @property
    def domain(self) -> Domain:
        """In whose name the hypercall is made."""
        ...

    def read(self, address: int, size: int) -> bytes:
        """Copy from the caller's memory (copy_from_guest). Raises GuestFault."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Copy to the caller's memory (copy_to_guest). Raises GuestFault."""
        ...

    def handle_okay(self, address: int) -> bool:
        """Whether an array of the caller's may begin there at all (guest_handle_okay)."""
        ...

    def hypercall_preempt_check(self) -> bool:
        """Whether a hypercall that takes long should let others go first, by ``Continuation``."""
        ...


class Buffer:
    """Memory that was lent for a hypercall."""

    def __init__(self, address: int, data: bytes) -> None:
        self.address = address
        self.data = bytearray(data)


class Lender:
    """Buffers by addresses that are nobody else's."""

    def __init__(self) -> None:
        self._buffers: dict[int, bytearray] = {}
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def lend(self, data: bytes) -> Iterator[Buffer]:
        """Have ``data`` in memory during a call, and find in the buffer what became of it."""
        number = next(self._numbers)
        buffer = Buffer(number << BUFFER_SHIFT, data)
        self._buffers[number] = buffer.data
        try:
            yield buffer
        finally:
            del self._buffers[number]

    def _locate(self, address: int, size: int) -> tuple[bytearray, int]:
        buffer = self._buffers.get(address >> BUFFER_SHIFT)
        offset = address & (1 << BUFFER_SHIFT) - 1
        if buffer is None or offset + size > len(buffer):
            raise GuestFault
        return buffer, offset

    def read(self, address: int, size: int) -> bytes:
        """Copy from a buffer. Raises GuestFault."""
        buffer, offset = self._locate(address, size)
        return bytes(buffer[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        """Copy to a buffer. Raises GuestFault."""
        buffer, offset = self._locate(address, len(data))
        buffer[offset : offset + len(data)] = data


class Kernel(Lender):
    """The kernel of the built-in Domain 0."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain = domain

    def handle_okay(self, address: int) -> bool:
        """It knows what it does."""
        return True

    def hypercall_preempt_check(self) -> bool:
        """Its hypercalls keep nobody from running."""
        return False
