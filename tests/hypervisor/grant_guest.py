"""A PV guest for tests of grants, whose hypercalls are made for it: it need not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pv_guest import DATA, MEMORY, PAGES, PvGuest

from euxen.abi.grant_table import (
    GNTCOPY_source_gref,
    GNTMAP_host_map,
    GNTST_okay,
    GnttabCopy,
    GnttabMapGrantRef,
    GNTTABOP_copy,
    GNTTABOP_map_grant_ref,
    GNTTABOP_transfer,
    GNTTABOP_unmap_grant_ref,
    GnttabTransfer,
    GnttabUnmapGrantRef,
    GrantEntryV1,
    GTF_permit_access,
)
from euxen.abi.structure import Structure
from euxen.abi.xen import DOMID_SELF, HYPERVISOR_grant_table_op, HYPERVISOR_update_va_mapping
from euxen.cpu.native.language import unsigned
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor import traps
from euxen.hypervisor.continuation import DEFER, PREEMPTED
from euxen.hypervisor.control import DEFAULT_GRANT_LIMITS, GrantLimits
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.hypercalls import native, table
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE, Machine
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import PageInfo

S = TypeVar("S", bound=Structure)

FREE = 0x18_0000
"""Where nothing is mapped: addresses for grants."""
FIRST_POOL_PAGE = 16
"""The guest's pages from here on are mapped nowhere."""


def new_hypervisor() -> Hypervisor:
    """A machine with nothing but Domain 0."""
    return Hypervisor(Machine(MEMORY), UnicornEngine)


def place(number: int) -> int:
    """An address for a grant, by a number from 0 to 100."""
    return FREE + number * PAGE_SIZE


class GrantGuest(PvGuest):
    """A guest that lends, borrows and copies."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        max_pages: int = PAGES,
        grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS,
        domid: int = 0,
    ) -> None:
        super().__init__(hypervisor=hypervisor, max_pages=max_pages, grant_limits=grant_limits, domid=domid)
        self.entries = self.machine.frame(self.domain.grant_table.frames[0])

    def hypercall(self, number: int, *arguments: int) -> int:
        """Make a hypercall, to its end; Xen's answer."""
        block, vcpu = self.domain.record["block"], self.vcpu
        a1, a2, a3, a4 = (*arguments, 0, 0, 0, 0)[:4]
        while True:
            result = native.dispatch(block, vcpu.record.address, number, a1, a2, a3, a4)
            if result != PREEMPTED:
                break
            a1, a2, a3, a4 = vcpu.continuation
        if result == DEFER:
            result = table.call(vcpu, number, a1, a2, a3, a4, 0)
        traps.finish(block)
        return result

    def operate(self, command: int, operations: Sequence[S]) -> list[S]:
        """A grant-table operation on an array; the answers."""
        size = operations[0].size
        self.put(DATA, b"".join(bytes(op) for op in operations))
        result = self.hypercall(HYPERVISOR_grant_table_op, command, DATA, len(operations))
        assert result == 0
        page = self.page(DATA)
        return [type(op).unpack_from(page, number * size) for number, op in enumerate(operations)]

    def pool(self, number: int) -> int:
        """The machine frame of a page that is mapped nowhere."""
        return int(self.frames[FIRST_POOL_PAGE + number])

    def grant(self, ref: int, domid: int, frame: int, flags: int = GTF_permit_access) -> None:
        """Lend a frame, by an entry of version 1."""
        GrantEntryV1(flags=flags, domid=domid, frame=frame).pack_into(self.entries, ref * GrantEntryV1.size)

    def entry(self, ref: int) -> GrantEntryV1:
        """An entry as it is now."""
        return GrantEntryV1.unpack_from(self.entries, ref * GrantEntryV1.size)

    def map(self, granter: int, ref: int, address: int, flags: int = GNTMAP_host_map) -> GnttabMapGrantRef:
        """Map a grant; the answer, with a status."""
        op = GnttabMapGrantRef(host_addr=address, flags=flags, ref=ref, dom=granter)
        return self.operate(GNTTABOP_map_grant_ref, [op])[0]

    def map_handle(self, granter: int, ref: int, address: int, flags: int = GNTMAP_host_map) -> int:
        """Map a grant for which that works; the handle."""
        op = self.map(granter, ref, address, flags)
        assert op.status == GNTST_okay
        return op.handle

    def unmap(self, handle: int, address: int, bus: int = 0) -> int:
        """Unmap a grant: GNTST_*."""
        op = GnttabUnmapGrantRef(host_addr=address, dev_bus_addr=bus, handle=handle)
        return self.operate(GNTTABOP_unmap_grant_ref, [op])[0].status

    def copy(self, op: GnttabCopy) -> int:
        """Copy: GNTST_*."""
        return self.operate(GNTTABOP_copy, [op])[0].status

    def transfer(self, frame: int, domid: int, ref: int) -> int:
        """Give a frame away: GNTST_*."""
        return self.operate(GNTTABOP_transfer, [GnttabTransfer(mfn=frame, domid=domid, ref=ref)])[0].status

    def set_entry(self, address: int, entry: int) -> int:
        """HYPERVISOR_update_va_mapping, with the address flushed."""
        return self.hypercall(HYPERVISOR_update_va_mapping, address, entry, 2)

    def references(self, frame: int) -> tuple[int, int]:
        """How many references there are to a frame, and how many to its type."""
        page = frame * (PageInfo.size // 8)
        words = self.machine.frame_table.words()
        return int(words[page]) & pg.PGC_count_mask, int(words[page + 1]) & pg.PGT_count_mask

    def owner(self, frame: int) -> int:
        """The record of a frame's owner, 0 for none."""
        return unsigned(int(self.machine.frame_table.words()[frame * (PageInfo.size // 8) + 2]))


def is_there(hypervisor: Hypervisor, domid: int) -> bool:
    """Whether there is such a domain, be it dead."""
    return hypervisor.find(domid) is not None


def pins(domain: Domain) -> dict[int, int]:
    """A domain's grants in use."""
    return domain.grant_table.pins()


def copy_from(granter: int, ref: int, frame: int, length: int = 8, offset: int = 0) -> GnttabCopy:
    """A copy from a grant to a frame of the caller's."""
    op = GnttabCopy(len=length, flags=GNTCOPY_source_gref)
    op.source.u.ref, op.source.domid, op.source.offset = ref, granter, offset
    op.dest.u.gmfn, op.dest.domid = frame, DOMID_SELF
    return op
