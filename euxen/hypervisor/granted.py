"""What a domain whose kernel is this program, the built-in Domain 0, does with grants of others.

It makes the operations that a guest makes, with the same checks. It has all of the machine's memory before it, so
mapping a frame is taking hold of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from euxen.abi.grant_table import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_okay,
    GnttabCopy,
    GnttabMapGrantRef,
    GnttabUnmapGrantRef,
)
from euxen.abi.structure import Structure
from euxen.cpu.native.memory import Memory
from euxen.hypervisor.errors import GrantError
from euxen.hypervisor.grants import copying, mapping, unmapping
from euxen.hypervisor.grants.records import UnmapCommon
from euxen.hypervisor.machine import PAGE_SIZE

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

ANYWHERE = PAGE_SIZE
"""The address at which this program maps a frame: any but 0."""


class _Operation:
    """A structure where native code finds it."""

    def __init__(self, op: Structure) -> None:
        self._memory = Memory(op.size)
        op.pack_into(self._memory.view)
        self.address = self._memory.address

    def result(self, kind: type[Structure]) -> Structure:
        """The structure as it is now."""
        return kind.unpack_from(self._memory.view)


class GrantedPages:
    """Frames that others lend, mapped until ``unmap``: ``pages`` are their contents."""

    def __init__(self, domain: Domain, domid: int, refs: Sequence[int], writable: bool) -> None:
        """Map grants of ``domid`` for ``domain``: all of them or none. Raises GrantError."""
        self._domain = domain
        self._handles: list[int] = []
        self.pages: list[memoryview] = []
        """Writable if they were mapped so."""
        with domain.machine.lock:
            try:
                for ref in refs:
                    self._map(domid, ref, writable)
            except GrantError:
                self.unmap()
                raise

    def _map(self, domid: int, ref: int, writable: bool) -> None:
        flags = GNTMAP_host_map if writable else GNTMAP_host_map | GNTMAP_readonly
        operation = _Operation(GnttabMapGrantRef(host_addr=ANYWHERE, flags=flags, ref=ref, dom=domid))
        mapping.map_grant_ref(self._domain.record.address, operation.address)
        done = operation.result(GnttabMapGrantRef)
        assert isinstance(done, GnttabMapGrantRef)
        if done.status != GNTST_okay:
            raise GrantError(done.status)
        self._handles.append(done.handle)
        page = self._domain.machine.frame(done.dev_bus_addr // PAGE_SIZE)
        self.pages.append(page if writable else page.toreadonly())

    def unmap(self) -> None:
        """Let go of the frames. Nobody may look at them, or at parts of them, any more."""
        for page in self.pages:
            page.release()
        self.pages.clear()
        with self._domain.machine.lock:
            for handle in self._handles:
                self._unmap(handle)
            self._handles.clear()

    def _unmap(self, handle: int) -> None:
        domain = self._domain.record.address
        operation = _Operation(GnttabUnmapGrantRef(host_addr=ANYWHERE, handle=handle))
        common = Memory(UnmapCommon.size)
        unmapping.unmap_grant_ref(domain, operation.address, common.address)
        unmapping.unmap_common_complete(domain, common.address)
        done = operation.result(GnttabUnmapGrantRef)
        assert isinstance(done, GnttabUnmapGrantRef) and done.status == GNTST_okay


def grant_copy(domain: Domain, operations: Sequence[GnttabCopy]) -> None:
    """GNTTABOP_copy for ``domain``: what became of each is in its ``status``."""
    with domain.machine.lock:
        for op in operations:
            operation = _Operation(op)
            while copying.copy_one(domain.record.address, operation.address) == copying.AGAIN:
                copying.copy_end(domain.record.address)
            done = operation.result(GnttabCopy)
            assert isinstance(done, GnttabCopy)
            op.status = done.status
        copying.copy_end(domain.record.address)
