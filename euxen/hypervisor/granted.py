"""What a domain whose kernel is this program, the built-in Domain 0, does with grants of others.

It makes the operations that a guest makes, with the same checks. It has all of the machine's memory before it, so
mapping a frame is taking hold of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from euxen.abi.grant_table import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_okay,
    GnttabCopy,
    GnttabMapGrantRef,
    GnttabUnmapGrantRef,
)
from euxen.abi.structure import Structure
from euxen.hypervisor.errors import GrantError
from euxen.hypervisor.grants import operations
from euxen.hypervisor.machine import PAGE_SIZE

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

S = TypeVar("S", bound=Structure)

ANYWHERE = PAGE_SIZE
"""The address at which this program maps a frame: any but 0."""


def _operate(domain: Domain, operation: Callable[[int, int, int], int], structures: Sequence[S]) -> list[S]:
    """Make an operation on an array; the structures as they are afterwards."""
    if not structures:
        return []
    kind = type(structures[0])
    array = ctypes.create_string_buffer(b"".join(map(bytes, structures)), kind.size * len(structures))
    with domain.machine.lock:
        operation(domain.record.address, ctypes.addressof(array), len(structures))
    return [kind.unpack_from(array, number * kind.size) for number in range(len(structures))]


class GrantedPages:
    """Frames that others lend, mapped until ``unmap``: ``pages`` are their contents."""

    def __init__(self, domain: Domain, domid: int, refs: Sequence[int], writable: bool) -> None:
        """Map grants of ``domid`` for ``domain``: all of them or none. Raises GrantError."""
        self._domain = domain
        flags = GNTMAP_host_map if writable else GNTMAP_host_map | GNTMAP_readonly
        wanted = [GnttabMapGrantRef(host_addr=ANYWHERE, flags=flags, ref=ref, dom=domid) for ref in refs]
        done = _operate(domain, operations.map_host_array, wanted)
        mapped = [op for op in done if op.status == GNTST_okay]
        self._handles = [op.handle for op in mapped]
        pages = [domain.machine.frame(op.dev_bus_addr // PAGE_SIZE) for op in mapped]
        self.pages: list[memoryview] = pages if writable else [page.toreadonly() for page in pages]
        """Writable if they were mapped so."""
        if len(mapped) < len(done):
            self.unmap()
            raise GrantError(next(op.status for op in done if op.status != GNTST_okay))

    def unmap(self) -> None:
        """Let go of the frames. Nobody may look at them, or at parts of them, any more."""
        for page in self.pages:
            page.release()
        self.pages.clear()
        wanted = [GnttabUnmapGrantRef(host_addr=ANYWHERE, handle=handle) for handle in self._handles]
        self._handles.clear()
        done = _operate(self._domain, operations.unmap_host_array, wanted)
        assert all(op.status == GNTST_okay for op in done)


def grant_copy(domain: Domain, copies: Sequence[GnttabCopy]) -> None:
    """GNTTABOP_copy for ``domain``: what became of each is in its ``status``."""
    for op, done in zip(copies, _operate(domain, operations.copy_host_array, copies), strict=True):
        op.status = done.status
