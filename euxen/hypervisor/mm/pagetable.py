"""Page tables of 64-bit PV guests: which frames are tables, validated for their level.

A table gets its type when it is first used as a table (``_get_page_type``): each entry is then checked
and takes a reference to what it maps, and keeps it until the table is given up or the entry is changed.

A tree of tables can be large. When the vCPU has something more urgent to do, validating or giving up a table stops
between two entries with -ERESTART, and goes on when it is asked for again. Until then the table has PGT_partial: it is
neither a table nor free for other uses. That state holds a general reference and the table's only one as its type;
entries below ``nr_validated_ptes`` hold theirs, and with PTF_partial_set the one at that place holds a general one.
What nobody will ask for again, as it was refused or is not in use any more, is left to ``put_old_guest_table``.

Source: xen/arch/x86/mm.c, promote_*, demote_*, get_page_from_*, _get_page_type, _put_page_type. A level is written
there once for each of the levels 2 to 4.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import cas64, load16, load64, native, store16, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import (
    _PAGE_PRESENT,
    _PAGE_RW,
    ENTRIES,
    LN_DISALLOW_MASK,
    adjust_lne,
    mfn_in,
)
from euxen.hypervisor.mm.l1 import demote_l1_table, promote_l1_table
from euxen.hypervisor.mm.page import (
    ERESTART,
    RESUME,
    PTF_partial_set,
    PTF_retain_ref_on_restart,
    drop_type,
    frame_of,
    get_page_from_mfn,
    get_page_light,
    host_of,
    level_of,
    page_of,
    put_page,
    take_type,
)
from euxen.hypervisor.mm.segdesc import validate_segdesc_page
from euxen.hypervisor.mm.xen_slots import init_xen_l4_slots, is_guest_slot
from euxen.hypervisor.records import DomainRecord, PageInfo

PGT_TABLES = {1: pg.PGT_l1_page_table, 2: pg.PGT_l2_page_table, 3: pg.PGT_l3_page_table, 4: pg.PGT_l4_page_table}
"""The type of a page table, by its level."""
MOST_LINEAR = 0x7FFF


@native
def _preempt_check(domain: int) -> int:
    """Whether the vCPU has something more urgent to do (hypercall_preempt_check)."""
    block = load64(domain + DomainRecord.block)
    return load64(block + CpuBlock.kicked) if block else 0


# Tables that map tables of their own level.


@native
def _linear_pt_count(page: int) -> int:
    return load16(page + PageInfo.linear_pt_count) << 48 >> 48


@native
def _note_linear(table: int, page: int, step: int) -> int:
    """One more (1) or less (-1) of a table's entries maps a table of its own level."""
    store16(table + PageInfo.linear_pt_count, _linear_pt_count(table) + step)
    store16(page + PageInfo.linear_pt_count, _linear_pt_count(page) - step)
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
    if load64(table + PageInfo.owner) != domain:
        return 0
    page = get_page_from_mfn(domain, mfn_in(entry))
    if not page:
        return 0
    uses, entries = -_linear_pt_count(page), _linear_pt_count(table)
    wanted = (level << 61) | pg.PGT_validated
    while entries >= 0 and entries < MOST_LINEAR and uses >= 0 and uses < MOST_LINEAR:
        info = load64(page + PageInfo.type_info)
        full = info & pg.PGT_count_mask == pg.PGT_count_mask
        if full or info & pg.PGT_count_mask == 0 or info & (pg.PGT_type_mask | pg.PGT_validated) != wanted:
            break
        if cas64(page + PageInfo.type_info, info, info + 1) == info:
            _note_linear(table, page, 1)
            return 1
    put_page(page)
    return 0


# What entries refer to.


@native
def get_page_and_type_preemptible(domain: int, frame: int, kind: int, flags: int) -> int:
    """Take references of both kinds to a frame of this domain, as a page table; 0 or a negative errno.

    With PTF_partial_set the caller has the general reference already, and keeps it whatever comes. Without, it has
    one only after 0; and after -ERESTART, with PTF_retain_ref_on_restart. A table that was refused when part of it
    was validated becomes ``old_guest_table``.
    """
    machine = load64(domain + DomainRecord.machine)
    if flags & PTF_partial_set == 0 and not get_page_from_mfn(domain, frame):
        return -XEN_EINVAL
    page = page_of(machine, frame)
    error = _get_page_type(page, kind)
    if error and not flags & PTF_partial_set and page != load64(domain + DomainRecord.old_guest_table):
        if error != -ERESTART or not flags & PTF_retain_ref_on_restart:
            put_page(page)
    return error


@native
def get_page_from_lne(entry: int, table: int, domain: int, level: int, flags: int) -> int:
    """Take the references that an entry of level 2 to 4 stands for; 0 or a negative errno.

    References after -ERESTART, and flags: as of ``get_page_and_type_preemptible``.
    """
    if entry & LN_DISALLOW_MASK:
        return -XEN_EINVAL
    error = get_page_and_type_preemptible(domain, mfn_in(entry), (level - 1) << 61, flags)
    if error == -XEN_EINVAL and _get_linear(entry, table, domain, level):
        if flags & PTF_partial_set:
            # A linear mapping holds one reference, and there was one.
            put_page(page_of(load64(domain + DomainRecord.machine), mfn_in(entry)))
        error = 0
    return error


@native
def put_page_from_lne(entry: int, table: int, domain: int, flags: int) -> int:
    """Drop the references that an entry of level 2 to 4 stood for; 0, or -ERESTART with the general one kept."""
    machine = load64(domain + DomainRecord.machine)
    if not entry & _PAGE_PRESENT or mfn_in(entry) == frame_of(machine, table):
        return 0
    page = page_of(machine, mfn_in(entry))
    error = _put_page_type(page, table, flags)
    if error == 0:
        put_page(page)
    return error


# Validating a table, and giving it up.


@native
def _stop_at(page: int, slot: int, flags: int) -> int:
    """Note how far a table's validation got."""
    store16(page + PageInfo.nr_validated_ptes, slot)
    store16(page + PageInfo.partial_flags, flags)
    return -ERESTART


@native
def _promote_ln_table(domain: int, page: int, host: int, level: int) -> int:
    """Validate a table of level 2 to 4, and with it those below."""
    first = load16(page + PageInfo.nr_validated_ptes)
    flags = load16(page + PageInfo.partial_flags)
    for slot in range(first, ENTRIES):
        if slot > first and level < 4 and _preempt_check(domain):
            return _stop_at(page, slot, 0)
        entry = load64(host + slot * 8)
        if not is_guest_slot(level, slot) or not entry & _PAGE_PRESENT:
            continue
        error = get_page_from_lne(entry, page, domain, level, flags | PTF_retain_ref_on_restart)
        if error == -ERESTART:
            return _stop_at(page, slot, PTF_partial_set)
        if error:
            if slot or flags:
                # Of the table that was refused below, the general reference is now the entry's.
                _stop_at(page, slot, PTF_partial_set if load64(domain + DomainRecord.old_guest_table) else flags)
                store64(domain + DomainRecord.old_guest_table, page)
            return error
        store64(host + slot * 8, adjust_lne(entry, level))
        flags = 0
    return init_xen_l4_slots(domain, host) if level == 4 else 0


@native
def _demote_ln_table(domain: int, page: int, host: int, level: int) -> int:
    """Give up what the entries of a table of level 2 to 4 refer to, from the last to the first."""
    flags = load16(page + PageInfo.partial_flags)
    slot = load16(page + PageInfo.nr_validated_ptes) - (0 if flags else 1)
    while True:
        if is_guest_slot(level, slot) and put_page_from_lne(load64(host + slot * 8), page, domain, flags):
            return _stop_at(page, slot, PTF_partial_set)
        flags = 0
        if slot == 0:
            return 0
        if level < 4 and _preempt_check(domain):
            return _stop_at(page, slot, 0)
        slot -= 1


@native
def _validate_page(domain: int, page: int, level: int) -> int:
    """Check a page's contents for its new type."""
    machine = load64(domain + DomainRecord.machine)
    host = host_of(machine, frame_of(machine, page))
    if level == 1:
        return promote_l1_table(domain, host)
    if level <= 4:
        return _promote_ln_table(domain, page, host, level)
    return validate_segdesc_page(host)


@native
def _devalidate_page(page: int, info: int) -> int:
    """Give up what a page table's entries refer to, as far as it was validated; 0 or -ERESTART."""
    domain = load64(page + PageInfo.owner)
    machine = load64(domain + DomainRecord.machine)
    host = host_of(machine, frame_of(machine, page))
    if level_of(info) == 1:
        return demote_l1_table(domain, host)
    if not info & pg.PGT_partial:
        _stop_at(page, ENTRIES, 0)
    return _demote_ln_table(domain, page, host, level_of(info))


@native
def _get_page_type(page: int, kind: int) -> int:
    """Take a reference to a page as a type, validating it if need be; 0 or a negative errno.

    After -ERESTART the page has PGT_partial and the caller no reference as its type.
    """
    found = take_type(page, kind)
    if found <= 0:
        return found
    domain = load64(page + PageInfo.owner)
    error = _validate_page(domain, page, level_of(kind))
    # Nobody else changes type_info while neither PGT_validated nor PGT_partial is set.
    if error == 0:
        store64(page + PageInfo.type_info, load64(page + PageInfo.type_info) | pg.PGT_validated)
    elif error == -ERESTART or page == load64(domain + DomainRecord.old_guest_table):
        get_page_light(page)
        store64(page + PageInfo.type_info, load64(page + PageInfo.type_info) | pg.PGT_partial)
    else:
        store64(page + PageInfo.type_info, 0)
    if found == RESUME:
        put_page(page)
    return error


@native
def _put_page_type(page: int, table: int, flags: int) -> int:
    """Drop a reference to a page as its type; 0, or -ERESTART: the page has PGT_partial now, and the reference is gone.

    ``table``: the page table in which it was an entry, or 0. ``flags``: PTF_partial_set to go on with, or to undo,
    what was done of a page with PGT_partial.
    """
    linear = 0
    if table and not flags:
        differ = (load64(page + PageInfo.type_info) ^ load64(table + PageInfo.type_info)) & pg.PGT_type_mask
        linear = 0 if differ else 1
    info = drop_type(page, flags)
    error = _devalidate_page(page, info) if info else 0
    if linear:
        _note_linear(table, page, -1)
    if error:
        get_page_light(page)
        store64(page + PageInfo.type_info, load64(page + PageInfo.type_info) | pg.PGT_partial)
    elif info:
        store64(page + PageInfo.type_info, load64(page + PageInfo.type_info) - 1)
    if info & pg.PGT_partial:
        put_page(page)
    return error


@native
def put_old_guest_table(domain: int) -> int:
    """Undo what is left to undo; 0, or -ERESTART if there is more."""
    page = load64(domain + DomainRecord.old_guest_table)
    if page:
        if _put_page_type(page, 0, PTF_partial_set):
            return -ERESTART
        store64(domain + DomainRecord.old_guest_table, 0)
        put_page(page)
    return 0


@native
def put_page_and_type_preemptible(domain: int, page: int) -> int:
    """Drop a reference of both kinds; -ERESTART where that leaves something in ``old_guest_table``."""
    if _put_page_type(page, 0, 0):
        store64(domain + DomainRecord.old_guest_table, page)
        return -ERESTART
    put_page(page)
    return 0


# For those that go on until all is done.


@native
def finish_old_guest_table(domain: int) -> int:
    """Undo all that is left to undo."""
    while put_old_guest_table(domain):
        pass
    return 0


@native
def get_page_type(page: int, kind: int) -> int:
    """Take a reference to a page as a type other than page table, or as one of level 1; 0 or a negative errno.

    The caller holds a general reference.
    """
    return _get_page_type(page, kind)


@native
def put_page_type(page: int) -> int:
    """Drop a reference to a page as its type."""
    flags = 0
    while _put_page_type(page, 0, flags):
        flags = PTF_partial_set
    return 0


@native
def put_page_and_type(page: int) -> int:
    """Drop a reference of both kinds."""
    put_page_type(page)
    put_page(page)
    return 0


@native
def get_page_and_type_from_mfn(domain: int, frame: int, kind: int) -> int:
    """Take references of both kinds to a frame of this domain, as any type; 0 or a negative errno."""
    if level_of(kind) > 4:
        page = get_page_from_mfn(domain, frame)
        if not page:
            return -XEN_EINVAL
        error = get_page_type(page, kind)
        if error:
            put_page(page)
        return error
    error = -ERESTART
    while error == -ERESTART:
        finish_old_guest_table(domain)
        error = get_page_and_type_preemptible(domain, frame, kind, 0)
    finish_old_guest_table(domain)
    return error
