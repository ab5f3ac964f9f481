"""Taking a dead domain's memory back. Source: domain_relinquish_resources in xen/arch/x86/domain.c."""

from __future__ import annotations

from euxen.cpu.native.language import and64, load64, native
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import page_of, put_page_alloc_ref
from euxen.hypervisor.mm.pagetable import put_page_and_type
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo


@native
def relinquish(machine: int, domain: int) -> int:
    """Drop pins, from the top level down, and then every page's allocation.

    Returns how many pages are left: those that other domains have mapped.
    """
    end = load64(machine + MachineRecord.heap_top)
    for level in range(4, 0, -1):
        for frame in range(end):
            page = page_of(machine, frame)
            if load64(page + PageInfo.owner) == domain:
                info = load64(page + PageInfo.type_info)
                if info & pg.PGT_pinned and pg.level_of(info) == level:
                    and64(page + PageInfo.type_info, ~pg.PGT_pinned)
                    put_page_and_type(page)
    for frame in range(end):
        page = page_of(machine, frame)
        if load64(page + PageInfo.owner) == domain:
            put_page_alloc_ref(page)
    return load64(domain + DomainRecord.tot_pages) + load64(domain + DomainRecord.xenheap_pages)
