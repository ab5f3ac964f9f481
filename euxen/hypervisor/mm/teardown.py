"""Taking a dead domain's memory back. Source: domain_relinquish_resources in xen/arch/x86/domain.c."""

from __future__ import annotations

from euxen.cpu.native.language import and64, load64, native, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import ERESTART, page_of, put_page_alloc_ref
from euxen.hypervisor.mm.pagetable import put_old_guest_table, put_page_and_type_preemptible
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo


@native
def relinquish_page_tables(machine: int, domain: int) -> int:
    """Drop pins, from the top level down, and undo what is partly validated.

    Returns 0, or -ERESTART if it was interrupted and has to be called again.
    """
    end = load64(machine + MachineRecord.heap_top)
    for level in range(4, 0, -1):
        for frame in range(end):
            if put_old_guest_table(domain):
                return -ERESTART
            page = page_of(machine, frame)
            if load64(page + PageInfo.owner) == domain:
                info = load64(page + PageInfo.type_info)
                if info & pg.PGT_pinned and pg.level_of(info) == level:
                    and64(page + PageInfo.type_info, ~pg.PGT_pinned)
                    put_page_and_type_preemptible(domain, page)
                elif info & pg.PGT_partial and pg.level_of(info) == level:
                    # Its general reference is PGT_partial's, with which it goes.
                    pg.get_page_light(page)
                    store64(domain + DomainRecord.old_guest_table, page)
    return -ERESTART if put_old_guest_table(domain) else 0


@native
def relinquish_pages(machine: int, domain: int, first: int, end: int) -> int:
    """Drop the references by which the domain holds its pages, among the frames from ``first`` to ``end``."""
    for frame in range(first, end):
        page = page_of(machine, frame)
        if load64(page + PageInfo.owner) == domain:
            put_page_alloc_ref(page)
    return 0
