"""Level 1 of page tables: what its entries refer to.

Source: xen/arch/x86/mm.c, get_page_from_l1e, put_page_from_l1e, promote_l1_table, demote_l1_table.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EBUSY, XEN_EINVAL, XEN_EPERM
from euxen.cpu.native.language import load64, native, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import (
    _PAGE_PRESENT,
    _PAGE_RW,
    ENTRIES,
    L1_DISALLOW_MASK,
    PADDR_MASK,
    adjust_l1e,
    mfn_in,
)
from euxen.hypervisor.mm.outside_writes import close_window, forget_code, open_window
from euxen.hypervisor.mm.page import drop_type, mfn_valid, page_of, put_page, take_type
from euxen.hypervisor.records import DomainRecord, PageInfo


@native
def get_page_from_l1e(entry: int, l1_owner: int, pg_owner: int) -> int:
    """Take the references that a level 1 entry stands for; 0 or a negative errno."""
    if entry & L1_DISALLOW_MASK:
        return -XEN_EINVAL
    machine = load64(l1_owner + DomainRecord.machine)
    frame = mfn_in(entry)
    if not mfn_valid(machine, frame):
        return -XEN_EINVAL if frame == PADDR_MASK >> pg.PAGE_SHIFT else -XEN_EPERM
    page = page_of(machine, frame)
    owner = pg.get_page_owner(page)
    if owner != pg_owner:
        # Who names a privileged domain as the owner may map with its rights: device models in domains of their own do.
        if not owner or pg_owner == l1_owner or not load64(pg_owner + DomainRecord.is_privileged):
            if owner:
                put_page(page)
            return -XEN_EBUSY
    if entry & _PAGE_RW and take_type(page, pg.PGT_writable_page) != 0:
        put_page(page)
        return -XEN_EBUSY
    if owner != l1_owner:
        # The domain that maps it may have had the frame before, with something else in it.
        forget_code(l1_owner, frame)
        if entry & _PAGE_RW:
            open_window(owner, frame)
    return 0


@native
def put_page_from_l1e(entry: int, l1_owner: int) -> int:
    """Drop the references that a level 1 entry stood for."""
    if entry & _PAGE_PRESENT:
        machine = load64(l1_owner + DomainRecord.machine)
        frame = mfn_in(entry)
        if mfn_valid(machine, frame):
            page = page_of(machine, frame)
            owner = load64(page + PageInfo.owner)
            if entry & _PAGE_RW:
                drop_type(page, 0)
                if owner != l1_owner:
                    close_window(machine, frame)
            if owner != l1_owner or not load64(page + PageInfo.count_info) & pg.PGC_allocated:
                # Once it is let go of, this domain is not asked any more when the frame gets other uses.
                pg.flush_domain_tlb(l1_owner)
            put_page(page)
    return 0


@native
def promote_l1_table(domain: int, host: int) -> int:
    """Validate a table; 0, or a negative errno with nothing taken. It is short enough to do in one go."""
    for i in range(ENTRIES):
        entry = load64(host + i * 8)
        if entry & _PAGE_PRESENT:
            error = get_page_from_l1e(entry, domain, domain)
            if error:
                for j in range(i):
                    put_page_from_l1e(load64(host + j * 8), domain)
                return error
            store64(host + i * 8, adjust_l1e(entry))
    return 0


@native
def demote_l1_table(domain: int, host: int) -> int:
    """Give up what a table's entries refer to."""
    for i in range(ENTRIES):
        put_page_from_l1e(load64(host + i * 8), domain)
    return 0
