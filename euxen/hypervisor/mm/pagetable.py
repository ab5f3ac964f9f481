"""Page tables of 64-bit PV guests: validation, and changes to validated tables.

A table gets its type when it is first used as a table (``get_page_type``): each entry is then checked
and takes a reference to what it maps, and keeps it until the table is given up or the entry is changed.
All tables of a tree are validated in one go; nothing interrupts it.

Source: xen/arch/x86/mm.c and xen/arch/x86/pv/mm.h, promote_*, demote_*, get_page_from_*, mod_*_entry.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import FIRST_RESERVED_GDT_BYTE, FLAT_KERNEL_CS
from euxen.abi.errno import XEN_EBUSY, XEN_EINVAL, XEN_EPERM
from euxen.abi.xen import VMASST_TYPE_m2p_strict
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call2, call4, cas64, copy, load64, native, shr, signed, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import (
    frame_of,
    get_page_from_mfn,
    host_of,
    level_of,
    mfn_valid,
    page_of,
    put_page,
)
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo

_PAGE_PRESENT = 0x001
_PAGE_RW = 0x002
_PAGE_USER = 0x004
_PAGE_ACCESSED = 0x020
_PAGE_DIRTY = 0x040
_PAGE_GLOBAL = 0x100
_PAGE_GUEST_KERNEL = 1 << 52
_PAGE_NX = signed(1 << 63)
PADDR_MASK = 0x000F_FFFF_FFFF_F000

# What an unprivileged guest must not set: PSE or PAT, PCD, PWT; and G above level 1.
L1_DISALLOW_MASK = 0x098
LN_DISALLOW_MASK = 0x198

# What may change in an entry without looking at it again: NX, the available bits, G, D, A, U.
FASTPATH_FLAGS = signed(0xFFF0_0000_0000_0F64)
CHECKED_BITS = ~FASTPATH_FLAGS

FIRST_XEN_SLOT = 256
LAST_XEN_SLOT = 271
RO_MPT_SLOT = FIRST_XEN_SLOT
XEN_SLOTS_BYTES = (LAST_XEN_SLOT - FIRST_XEN_SLOT + 1) * 8
ENTRIES = 512

PGT_TABLES = {1: pg.PGT_l1_page_table, 2: pg.PGT_l2_page_table, 3: pg.PGT_l3_page_table, 4: pg.PGT_l4_page_table}
"""The type of a page table, by its level."""


@native
def mfn_in(entry: int) -> int:
    """The frame number in a page-table entry."""
    return (entry & PADDR_MASK) >> pg.PAGE_SHIFT


@native
def adjust_l1e(entry: int) -> int:
    """What Xen makes of a guest's level 1 entry: kernel and user pages are both accessible in ring 3."""
    if entry & _PAGE_PRESENT:
        if not entry & _PAGE_USER:
            entry |= _PAGE_GUEST_KERNEL | _PAGE_USER
        if not entry & _PAGE_GUEST_KERNEL:
            entry |= _PAGE_GLOBAL | _PAGE_USER
    return entry


@native
def adjust_lne(entry: int, level: int) -> int:
    """What Xen makes of an entry of level 2 to 4."""
    if entry & _PAGE_PRESENT:
        entry |= _PAGE_USER
        if level == 4:
            entry |= _PAGE_ACCESSED
    return entry


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
    if entry & _PAGE_RW and get_page_type(page, pg.PGT_writable_page) != 0:
        put_page(page)
        return -XEN_EBUSY
    return 0


@native
def put_page_from_l1e(entry: int, l1_owner: int) -> int:
    """Drop the references that a level 1 entry stood for."""
    if entry & _PAGE_PRESENT:
        machine = load64(l1_owner + DomainRecord.machine)
        frame = mfn_in(entry)
        if mfn_valid(machine, frame):
            page = page_of(machine, frame)
            if entry & _PAGE_RW:
                put_page_type(page, 0)
            put_page(page)
    return 0


@native
def _get_linear(entry: int, table: int, domain: int, level: int) -> int:
    """Let a table of some level map another of the same level, read-only; 1 if that is all right.

    The mapped table has to be validated already and must not map others so, nor may the mapping one be
    mapped so: then no chain of such mappings gets longer than one step.
    """
    if entry & _PAGE_RW:
        return 0
    machine = load64(domain + DomainRecord.machine)
    if mfn_in(entry) == frame_of(machine, table):
        return 1
    if load64(table + PageInfo.owner) != domain or load64(table + PageInfo.linear) < 0:
        return 0
    page = get_page_from_mfn(domain, mfn_in(entry))
    if not page:
        return 0
    wanted = (level << 61) | pg.PGT_validated
    while load64(page + PageInfo.linear) <= 0:
        info = load64(page + PageInfo.type_info)
        full = info & pg.PGT_count_mask == pg.PGT_count_mask
        if full or info & pg.PGT_count_mask == 0 or info & (pg.PGT_type_mask | pg.PGT_validated) != wanted:
            break
        if cas64(page + PageInfo.type_info, info, info + 1) == info:
            store64(table + PageInfo.linear, load64(table + PageInfo.linear) + 1)
            store64(page + PageInfo.linear, load64(page + PageInfo.linear) - 1)
            return 1
    put_page(page)
    return 0


@native
def get_page_from_lne(entry: int, table: int, domain: int, level: int) -> int:
    """Take the references that an entry of level 2 to 4 stands for; 0 or a negative errno."""
    if entry & LN_DISALLOW_MASK:
        return -XEN_EINVAL
    page = get_page_from_mfn(domain, mfn_in(entry))
    error = -XEN_EINVAL
    if page:
        error = get_page_type(page, (level - 1) << 61)
        if error:
            put_page(page)
    if error == -XEN_EINVAL and _get_linear(entry, table, domain, level):
        error = 0
    return error


@native
def put_page_from_lne(entry: int, table: int, domain: int) -> int:
    """Drop the references that an entry of level 2 to 4 stood for."""
    machine = load64(domain + DomainRecord.machine)
    if entry & _PAGE_PRESENT and mfn_in(entry) != frame_of(machine, table):
        page = page_of(machine, mfn_in(entry))
        put_page_type(page, table)
        put_page(page)
    return 0


@native
def _promote_l1(domain: int, host: int) -> int:
    """Validate a level 1 table."""
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
def _promote_ln(domain: int, page: int, host: int, level: int) -> int:
    """Validate a table of level 2 to 4, and with it those below."""
    for i in range(ENTRIES):
        if level == 4 and i >= FIRST_XEN_SLOT and i <= LAST_XEN_SLOT:
            continue
        entry = load64(host + i * 8)
        if entry & _PAGE_PRESENT:
            error = get_page_from_lne(entry, page, domain, level)
            if error:
                for j in range(i):
                    if level < 4 or j < FIRST_XEN_SLOT or j > LAST_XEN_SLOT:
                        put_page_from_lne(load64(host + j * 8), page, domain)
                return error
            store64(host + i * 8, adjust_lne(entry, level))
    if level == 4:
        machine = load64(domain + DomainRecord.machine)
        copy(host + FIRST_XEN_SLOT * 8, load64(machine + MachineRecord.xen_slots), XEN_SLOTS_BYTES)
        if not m2p_strict(domain):
            store64(host + RO_MPT_SLOT * 8, 0)
    return 0


@native
def m2p_strict(domain: int) -> int:
    """Whether a top-level table shows the M2P until programs use it; else it does once a kernel uses it."""
    return (load64(domain + DomainRecord.vm_assist) >> VMASST_TYPE_m2p_strict) & 1


@native
def fill_ro_mpt(domain: int, frame: int) -> int:
    """Show the machine-to-physical table in a top-level table."""
    machine = load64(domain + DomainRecord.machine)
    store64(host_of(machine, frame) + RO_MPT_SLOT * 8, load64(load64(machine + MachineRecord.xen_slots)))
    return 0


@native
def zap_ro_mpt(domain: int, frame: int) -> int:
    """Show it no more."""
    store64(host_of(load64(domain + DomainRecord.machine), frame) + RO_MPT_SLOT * 8, 0)
    return 0


@native
def _validate(page: int, level: int) -> int:
    """Check a page's contents for its new type."""
    domain = load64(page + PageInfo.owner)
    machine = load64(domain + DomainRecord.machine)
    host = host_of(machine, frame_of(machine, page))
    if level == 1:
        return _promote_l1(domain, host)
    if level <= 4:
        return _promote_ln(domain, page, host, level)
    return _check_descriptors(host)


@native
def _devalidate(page: int, level: int) -> int:
    """Give up what a page table's entries refer to."""
    domain = load64(page + PageInfo.owner)
    machine = load64(domain + DomainRecord.machine)
    host = host_of(machine, frame_of(machine, page))
    for i in range(ENTRIES):
        entry = load64(host + i * 8)
        if level == 1:
            put_page_from_l1e(entry, domain)
        elif level < 4 or i < FIRST_XEN_SLOT or i > LAST_XEN_SLOT:
            put_page_from_lne(entry, page, domain)
    return 0


@native
def get_page_type(page: int, kind: int) -> int:
    """Take a reference to a page as a type, changing and validating it if it is free to change.

    The caller holds a general reference. Returns 0 or a negative errno.
    """
    while True:
        info = load64(page + PageInfo.type_info)
        new = info + 1
        if new & pg.PGT_count_mask == 0:
            return -XEN_EINVAL
        if info & pg.PGT_count_mask == 0:
            if info & pg.PGT_type_mask != kind:
                new = (new & ~(pg.PGT_type_mask | pg.PGT_validated)) | kind
        elif info & pg.PGT_type_mask != kind or not info & pg.PGT_validated:
            return -XEN_EINVAL
        if cas64(page + PageInfo.type_info, info, new) == info:
            break
    if new & pg.PGT_validated:
        return 0
    if info & pg.PGT_type_mask != kind and kind != pg.PGT_writable_page:
        _forget_writable(page)
    error = 0
    if kind != pg.PGT_writable_page and kind != pg.PGT_shared_page:
        store64(page + PageInfo.linear, 0)
        error = _validate(page, level_of(kind))
    if error:
        store64(page + PageInfo.type_info, 0)
    else:
        store64(page + PageInfo.type_info, load64(page + PageInfo.type_info) | pg.PGT_validated)
    return error


@native
def _forget_writable(page: int) -> int:
    """No CPU may be left with a writable translation of a frame that becomes a page table."""
    domain = load64(page + PageInfo.owner)
    block = load64(domain + DomainRecord.block)
    if block:
        machine = load64(domain + DomainRecord.machine)
        call2(load64(block + CpuBlock.forget_frame), block, frame_of(machine, page))
    return 0


@native
def put_page_type(page: int, table: int) -> int:
    """Drop a reference to a page as its type. ``table``: the page table in which it was an entry, or 0."""
    while True:
        info = load64(page + PageInfo.type_info)
        new = info - 1
        level = level_of(info)
        last = new & pg.PGT_count_mask == 0 and level >= 1 and level <= 4 and new & pg.PGT_validated
        if last:
            # Not validated and not free: nobody else can use it until its entries are given up.
            new = info & ~pg.PGT_validated
        if cas64(page + PageInfo.type_info, info, new) == info:
            break
    if last:
        _devalidate(page, level)
    if table and not (info ^ load64(table + PageInfo.type_info)) & pg.PGT_type_mask:
        store64(page + PageInfo.linear, load64(page + PageInfo.linear) + 1)
        store64(table + PageInfo.linear, load64(table + PageInfo.linear) - 1)
    if last:
        store64(page + PageInfo.type_info, load64(page + PageInfo.type_info) - 1)
    return 0


@native
def put_page_and_type(page: int) -> int:
    """Drop a reference of both kinds."""
    put_page_type(page, 0)
    put_page(page)
    return 0


@native
def get_page_and_type_from_mfn(domain: int, frame: int, kind: int) -> int:
    """Take references of both kinds to a frame of this domain; 0 or a negative errno."""
    page = get_page_from_mfn(domain, frame)
    if not page:
        return -XEN_EINVAL
    error = get_page_type(page, kind)
    if error:
        put_page(page)
    return error


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
def note_change(host: int, old: int, level: int, domain: int) -> int:
    """An entry was changed: the kernel's own translations may have come from it."""
    block = load64(domain + DomainRecord.block)
    if old & _PAGE_PRESENT and block:
        call4(load64(block + CpuBlock.entry_changed), block, host, old, level)
    return 0


@native
def mod_ln_entry(host: int, new: int, level: int, page: int, preserve_ad: int, domain: int) -> int:
    """Change an entry of a validated table of level 2 to 4; 0 or a negative errno."""
    slot = (host & (pg.PAGE_SIZE - 1)) >> 3
    if level == 4 and slot >= FIRST_XEN_SLOT and slot <= LAST_XEN_SLOT:
        return -XEN_EINVAL
    old = load64(host)
    if new & _PAGE_PRESENT:
        if new & LN_DISALLOW_MASK:
            return -XEN_EINVAL
        new = adjust_lne(new, level)
        if not (old ^ new) & CHECKED_BITS:
            note_change(host, old, level, domain)
            return _write_entry(host, old, new, preserve_ad)
        error = get_page_from_lne(new, page, domain, level)
        if error:
            return error
    _write_entry(host, old, new, preserve_ad)
    if old & _PAGE_PRESENT:
        note_change(host, old, level, domain)
        pg.flush_domain_tlb(domain)
    put_page_from_lne(old, page, domain)
    return 0


@native
def _check_descriptors(host: int) -> int:
    """Validate a page of segment descriptors."""
    for i in range(ENTRIES):
        descriptor = load64(host + i * 8)
        checked = check_descriptor(descriptor)
        if checked == 0 and descriptor != 0:
            return -XEN_EINVAL
        if checked != descriptor:
            store64(host + i * 8, checked)
    return 0


@native
def check_descriptor(descriptor: int) -> int:
    """A descriptor as Xen lets a 64-bit guest have it, or 0 if it can't have it (check_descriptor).

    A descriptor that is not present always faults, so it is harmless. Code and data are all right at any
    base and limit, as paging protects Xen. Of the others a call gate is let through, made one for ring 0 so that
    it is never taken; its selector keeps for what it was.
    """
    high = shr(descriptor, 32)
    if not high & 0x8000:
        return descriptor
    # Kernel and user both run in ring 3.
    high |= 3 << 13
    kind = high & 0x1F00
    if not high & 0x1000:
        if kind == 0:
            return descriptor
        selector = (descriptor >> 16) & 0xFFFF
        xens = not selector & 4 and selector >= FIRST_RESERVED_GDT_BYTE and selector != FLAT_KERNEL_CS
        if kind != 0x0C00 or high & 0xFF or xens:
            return 0
        return (descriptor & 0xFFFF) | ((selector | 3) << 16) | ((high & ~(3 << 13)) << 32)
    return (descriptor & 0xFFFF_FFFF) | (high << 32)
