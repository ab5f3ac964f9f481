"""Granted frames in the page tables of PV guests. Source: xen/arch/x86/pv/grant_table.c.

This is the only way in which a frame of another domain's gets into a page table. A guest may overwrite such an
entry by other means, as in a Xen without debugging: its references go, and the grant stays pinned until the guest
dies.
"""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_readonly,
    GNTST_general_error,
    GNTST_okay,
)
from euxen.cpu.native.language import load64, native, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_NX,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_USER,
    PADDR_MASK,
    adjust_l1e,
    mfn_in,
)
from euxen.hypervisor.mm.l1 import put_page_from_l1e
from euxen.hypervisor.mm.mmu import l1_entry_host
from euxen.hypervisor.mm.page import get_page_from_mfn, page_of, put_page
from euxen.hypervisor.mm.update import note_change
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo

GUEST_AVAIL_SHIFT = 16
PAGE_AVAIL_SHIFT = 9
NO_ENTRY = 0


@native
def _grant_to_pte_flags(flags: int) -> int:
    """The flags of a page-table entry for GNTMAP_* flags."""
    entry = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_NX
    if flags & GNTMAP_application_map:
        entry |= _PAGE_USER
    if not flags & GNTMAP_readonly:
        entry |= _PAGE_RW
    return entry | (((flags >> GUEST_AVAIL_SHIFT) & 7) << PAGE_AVAIL_SHIFT)


@native
def _entry_at(domain: int, address: int, contains_pte: int) -> int:
    """The host address of the level 1 entry that a guest names, or NO_ENTRY.

    A reference to its page table is taken, which ``_put_table`` drops.
    """
    machine = load64(domain + DomainRecord.machine)
    ram = load64(machine + MachineRecord.ram)
    host = NO_ENTRY
    if not contains_pte:
        host = l1_entry_host(load64(domain + DomainRecord.block), address)
    elif not address & 7 and not address & ~PADDR_MASK & ~(pg.PAGE_SIZE - 1):
        host = ram + address
    if host == NO_ENTRY:
        return NO_ENTRY
    page = get_page_from_mfn(domain, (host - ram) >> pg.PAGE_SHIFT)
    if not page:
        return NO_ENTRY
    info = load64(page + PageInfo.type_info)
    wanted = pg.PGT_l1_page_table | pg.PGT_validated
    if info & (pg.PGT_type_mask | pg.PGT_validated) != wanted or not info & pg.PGT_count_mask:
        put_page(page)
        return NO_ENTRY
    return host


@native
def _put_table(domain: int, host: int) -> int:
    machine = load64(domain + DomainRecord.machine)
    return put_page(page_of(machine, (host - load64(machine + MachineRecord.ram)) >> pg.PAGE_SHIFT))


@native
def _update_entry(domain: int, host: int, old: int, new: int) -> int:
    """Write an entry, so that the kernel's translations from it are forgotten."""
    store64(host, new)
    return note_change(host, old, 1, domain)


@native
def create_grant_pv_mapping(domain: int, address: int, frame: int, flags: int) -> int:
    """Map a frame, to which references were taken for that, by the entry that a guest names: GNTST_*."""
    host = _entry_at(domain, address, flags & GNTMAP_contains_pte)
    if host == NO_ENTRY:
        return GNTST_general_error
    old = load64(host)
    _update_entry(domain, host, old, adjust_l1e((frame << pg.PAGE_SHIFT) | _grant_to_pte_flags(flags)))
    _put_table(domain, host)
    put_page_from_l1e(old, domain)
    return GNTST_okay


@native
def _steal_linear_address(domain: int, address: int) -> int:
    """Empty the entry that maps an address; what it was with its references, or -1."""
    host = _entry_at(domain, address, 0)
    if host == NO_ENTRY:
        return -1
    entry = load64(host)
    _update_entry(domain, host, entry, 0)
    _put_table(domain, host)
    return entry


@native
def _replace(domain: int, address: int, frame: int, new: int, flags: int) -> int:
    """Put ``new`` in the place of an entry that maps a frame as ``flags`` say: GNTST_*."""
    host = _entry_at(domain, address, flags & GNTMAP_contains_pte)
    if host == NO_ENTRY:
        return GNTST_general_error
    old = load64(host)
    status = GNTST_general_error
    if mfn_in(old) == frame and not (old ^ _grant_to_pte_flags(flags)) & (_PAGE_PRESENT | _PAGE_RW):
        _update_entry(domain, host, old, new)
        status = GNTST_okay
    _put_table(domain, host)
    return status


@native
def replace_grant_pv_mapping(domain: int, address: int, frame: int, new_address: int, flags: int) -> int:
    """Undo a mapping: GNTST_*. The references remain the caller's.

    With ``new_address``, what is mapped there moves to ``address``, or goes if that fails.
    """
    new = 0
    if new_address:
        new = -1 if flags & GNTMAP_contains_pte else _steal_linear_address(domain, new_address)
        if new == -1:
            return GNTST_general_error
    status = _replace(domain, address, frame, new, flags)
    if status != GNTST_okay:
        put_page_from_l1e(new, domain)
    return status
