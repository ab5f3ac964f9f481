"""Changing single entries of validated page tables.

Source: xen/arch/x86/mm.c, mod_l1_entry to mod_l4_entry, and update_intpte in xen/arch/x86/pv/mm.h.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call4, cas64, load64, native, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_NX,
    _PAGE_PRESENT,
    _PAGE_USER,
    CHECKED_BITS,
    L1_DISALLOW_MASK,
    LN_DISALLOW_MASK,
    adjust_l1e,
    adjust_lne,
    mfn_in,
)
from euxen.hypervisor.mm.l1 import get_page_from_l1e, put_page_from_l1e
from euxen.hypervisor.mm.page import page_of
from euxen.hypervisor.mm.pagetable import get_page_from_lne, put_page_from_lne
from euxen.hypervisor.mm.xen_slots import is_guest_slot
from euxen.hypervisor.records import DomainRecord


@native
def _write_entry(host: int, old: int, new: int, preserve_ad: int) -> int:
    """Store an entry; the CPU may be setting accessed and dirty bits at the same time."""
    if not preserve_ad:
        store64(host, new)
        return 0
    while True:
        seen = cas64(host, old, new | (old & (_PAGE_ACCESSED | _PAGE_DIRTY)))
        if seen == old:
            return 0
        old = seen


@native
def note_change(host: int, old: int, level: int, domain: int) -> int:
    """An entry was changed: the kernel's own translations may have come from it."""
    block = load64(domain + DomainRecord.block)
    if old & _PAGE_PRESENT and block:
        call4(load64(block + CpuBlock.entry_changed), block, host, old, level)
    return 0


@native
def mod_l1_entry(host: int, new: int, preserve_ad: int, pt_owner: int, pg_owner: int) -> int:
    """Change an entry of a validated level 1 table; 0 or a negative errno."""
    old = load64(host)
    if new & _PAGE_PRESENT:
        if new & L1_DISALLOW_MASK:
            return -XEN_EINVAL
        new = adjust_l1e(new)
        if not (old ^ new) & CHECKED_BITS:
            _write_entry(host, old, new, preserve_ad)
            if old & ~new & (_PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY) or (new & ~old) & _PAGE_NX:
                note_change(host, old, 1, pt_owner)
            return 0
        error = get_page_from_l1e(new, pt_owner, pg_owner)
        if error:
            return error
    _write_entry(host, old, new, preserve_ad)
    note_change(host, old, 1, pt_owner)
    put_page_from_l1e(old, pt_owner)
    return 0


@native
def mod_ln_entry(host: int, new: int, level: int, page: int, preserve_ad: int, domain: int) -> int:
    """Change an entry of a validated table of level 2 to 4; 0 or a negative errno.

    What is left to undo, of the old entry's table or of a new one's that was refused, is in ``old_guest_table``.
    """
    slot = (host & (pg.PAGE_SIZE - 1)) >> 3
    if not is_guest_slot(level, slot):
        return -XEN_EINVAL
    old = load64(host)
    if new & _PAGE_PRESENT:
        if new & LN_DISALLOW_MASK:
            return -XEN_EINVAL
        new = adjust_lne(new, level)
        if not (old ^ new) & CHECKED_BITS:
            note_change(host, old, level, domain)
            return _write_entry(host, old, new, preserve_ad)
        error = get_page_from_lne(new, page, domain, level, 0)
        if error:
            return error
    _write_entry(host, old, new, preserve_ad)
    if old & _PAGE_PRESENT:
        note_change(host, old, level, domain)
        pg.flush_domain_tlb(domain)
    if put_page_from_lne(old, page, domain, 0):
        store64(domain + DomainRecord.old_guest_table, page_of(load64(domain + DomainRecord.machine), mfn_in(old)))
    return 0
