"""The table itself: its size, its version, entries changing places. Source: xen/common/grant_table.c."""

from __future__ import annotations

from euxen.abi.errno import XEN_EBUSY, XEN_EINVAL, XEN_ENOMEM, XEN_ENOSYS, XEN_ERANGE
from euxen.abi.grant_table import (
    GNTTAB_NR_RESERVED_ENTRIES,
    GNTST_bad_gntref,
    GNTST_eagain,
    GNTST_general_error,
    GNTST_okay,
    GTF_permit_access,
    GTF_reading,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from euxen.cpu.native.language import (
    fill,
    load16,
    load32,
    load64,
    native,
    shr,
    store16,
    store32,
    store64,
    ult,
)
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.grants.entries import (
    V2_FRAME,
    active_entry,
    nr_grant_entries,
    shared_entry,
    status_of,
)
from euxen.hypervisor.grants.records import (
    INITIAL_NR_GRANT_FRAMES,
    STATUS_PER_PAGE,
    V2_PER_PAGE,
    ActiveEntry,
    GrantTableRecord,
)
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.heap import alloc_frames, free_frame
from euxen.hypervisor.mm.p2m import unmap_xen_frame
from euxen.hypervisor.mm.page import (
    flush_domain_tlb,
    host_of,
    page_of,
    put_page_alloc_ref,
    share_xen_page_with_guest,
)
from euxen.hypervisor.records import DomainRecord, PageInfo

ENTRY_V1 = 8
STATUS_FLAGS = GTF_reading | GTF_writing


@native
def grant_to_status_frames(frames: int) -> int:
    """How many frames of status words go with a table of ``frames``."""
    return (frames * V2_PER_PAGE + STATUS_PER_PAGE - 1) // STATUS_PER_PAGE


@native
def status_to_grant_frames(frames: int) -> int:
    """How long the table is that goes with so many frames of status words, if they are full."""
    return (frames * STATUS_PER_PAGE + V2_PER_PAGE - 1) // V2_PER_PAGE


@native
def _machine_of(table: int) -> int:
    return load64(load64(table + GrantTableRecord.domain) + DomainRecord.machine)


@native
def _add_frames(table: int, frames: int, first: int, end: int) -> int:
    """Get frames for the places from ``first`` to ``end`` of a list, and let the guest have them; 0, with none got."""
    machine = _machine_of(table)
    for number in range(first, end):
        frame = alloc_frames(machine, 0)
        if frame < 0:
            for done in range(first, number):
                free_frame(machine, load64(frames + done * 8))
            return 0
        store64(frames + number * 8, frame)
    for number in range(first, end):
        share_xen_page_with_guest(load64(table + GrantTableRecord.domain), load64(frames + number * 8))
    return 1


@native
def _populate_status_frames(table: int, frames: int) -> int:
    """Have the status words for a table of ``frames``; 0 without the memory for it."""
    old = load64(table + GrantTableRecord.nr_status_frames)
    new = max(old, grant_to_status_frames(frames))
    if not _add_frames(table, load64(table + GrantTableRecord.status), old, new):
        return 0
    store64(table + GrantTableRecord.nr_status_frames, new)
    return 1


@native
def grow_table(table: int, frames: int) -> int:
    """Make a table at least so long (gnttab_grow_table): GNTST_*."""
    if not ult(frames, load64(table + GrantTableRecord.max_grant_frames) + 1):
        return GNTST_general_error
    frames = max(frames, INITIAL_NR_GRANT_FRAMES)
    status = GNTST_okay
    lock(table)
    old = load64(table + GrantTableRecord.nr_grant_frames)
    if load64(table + GrantTableRecord.version) == 2 and not _populate_status_frames(table, frames):
        status = GNTST_general_error
    if status == GNTST_okay and frames > old:
        if _add_frames(table, load64(table + GrantTableRecord.shared), old, frames):
            store64(table + GrantTableRecord.nr_grant_frames, frames)
        else:
            status = GNTST_general_error
    unlock(table)
    return status


@native
def _is_mapped(table: int) -> int:
    """Whether the guest, or anybody, refers to one of the status frames.

    The guest's own hold on each is given up. If it is, they are shared with the guest again.
    """
    machine = _machine_of(table)
    domain = load64(table + GrantTableRecord.domain)
    frames = load64(table + GrantTableRecord.status)
    for number in range(load64(table + GrantTableRecord.nr_status_frames)):
        page = page_of(machine, load64(frames + number * 8))
        unmap_xen_frame(domain, load64(frames + number * 8))
        put_page_alloc_ref(page)
        if load64(page + PageInfo.count_info) & pg.PGC_count_mask:
            if pg.get_page(page, domain):
                pg.set_allocated(page)
            for before in range(number):
                share_xen_page_with_guest(domain, load64(frames + before * 8))
            return 1
    return 0


@native
def _unpopulate_status_frames(table: int) -> int:
    """Take the status frames back; 0 or -EBUSY if they are mapped (gnttab_unpopulate_status_frames)."""
    if _is_mapped(table):
        return -XEN_EBUSY
    machine = _machine_of(table)
    frames = load64(table + GrantTableRecord.status)
    for number in range(load64(table + GrantTableRecord.nr_status_frames)):
        free_frame(machine, load64(frames + number * 8))
    store64(table + GrantTableRecord.nr_status_frames, 0)
    return flush_domain_tlb(load64(table + GrantTableRecord.domain))


@native
def _is_busy(table: int) -> int:
    """Whether a grant is in use that is not one of the first, which tools hold all the time."""
    for ref in range(GNTTAB_NR_RESERVED_ENTRIES, nr_grant_entries(table)):
        if load64(active_entry(table, ref) + ActiveEntry.pin):
            return 1
    return 0


@native
def _fits_version_1(table: int) -> int:
    """Whether the reserved entries of a table of version 2 can be written as of version 1."""
    for ref in range(GNTTAB_NR_RESERVED_ENTRIES):
        entry = shared_entry(table, ref)
        kind = load16(entry) & GTF_type_mask
        if kind == GTF_transitive or (kind == GTF_permit_access and shr(load64(entry + V2_FRAME), 32)):
            return 0
    return 1


@native
def _save_reserved(table: int) -> int:
    """Keep the reserved entries, as of version 1, in the table's ``common``."""
    for ref in range(GNTTAB_NR_RESERVED_ENTRIES):
        entry = shared_entry(table, ref)
        word = load64(entry)
        if load64(table + GrantTableRecord.version) == 2:
            flags = load16(entry)
            word = 0
            if flags & GTF_type_mask == GTF_permit_access:
                flags |= load16(status_of(table, ref))
                word = flags | (load16(entry + 2) << 16) | (load32(entry + V2_FRAME) << 32)
        store64(table + GrantTableRecord.common + ref * ENTRY_V1, word)
    return 0


@native
def _restore_reserved(table: int, version: int) -> int:
    """Write them as of a version, which the table already has."""
    for ref in range(GNTTAB_NR_RESERVED_ENTRIES):
        entry = shared_entry(table, ref)
        word = load64(table + GrantTableRecord.common + ref * ENTRY_V1)
        if version == 1:
            store64(entry, word)
        else:
            store16(status_of(table, ref), word & STATUS_FLAGS)
            store64(entry + V2_FRAME, shr(word, 32))
            store32(entry, word & ~STATUS_FLAGS)
    return 0


@native
def _change_version(table: int, version: int) -> int:
    """With the table locked: 0 or a negative errno."""
    if _is_busy(table):
        return -XEN_EBUSY
    frames = load64(table + GrantTableRecord.nr_grant_frames)
    if version == 2 and not _populate_status_frames(table, frames):
        return -XEN_ENOMEM
    if version == 1 and not _fits_version_1(table):
        return -XEN_ERANGE
    _save_reserved(table)
    if version == 1 and _unpopulate_status_frames(table):
        return -XEN_EBUSY
    machine = _machine_of(table)
    for number in range(frames):
        fill(host_of(machine, load64(load64(table + GrantTableRecord.shared) + number * 8)), 0, pg.PAGE_SIZE)
    store64(table + GrantTableRecord.version, version)
    return _restore_reserved(table, version)


@native
def set_version(table: int, version: int) -> int:
    """GNTTABOP_set_version: 0 or a negative errno."""
    if version != 1 and version != 2:
        return -XEN_EINVAL
    if version == 2 and load64(table + GrantTableRecord.max_version) == 1:
        return -XEN_ENOSYS
    result = 0
    lock(table)
    if load64(table + GrantTableRecord.version) != version:
        result = _change_version(table, version)
    unlock(table)
    return result


@native
def _exchange(a: int, b: int) -> int:
    """Exchange two words."""
    word = load64(a)
    store64(a, load64(b))
    store64(b, word)
    return 0


@native
def _swap_entries(table: int, a: int, b: int) -> int:
    if load64(active_entry(table, a) + ActiveEntry.pin) or load64(active_entry(table, b) + ActiveEntry.pin):
        return GNTST_eagain
    _exchange(shared_entry(table, a), shared_entry(table, b))
    if load64(table + GrantTableRecord.version) == 2:
        _exchange(shared_entry(table, a) + 8, shared_entry(table, b) + 8)
        status = load16(status_of(table, a))
        store16(status_of(table, a), load16(status_of(table, b)))
        store16(status_of(table, b), status)
    return GNTST_okay


@native
def swap_grant_ref(table: int, a: int, b: int) -> int:
    """GNTTABOP_swap_grant_ref: GNTST_*."""
    status = GNTST_bad_gntref
    lock(table)
    entries = nr_grant_entries(table)
    if ult(a, entries) and ult(b, entries):
        status = GNTST_okay if a == b else _swap_entries(table, a, b)
    unlock(table)
    return status


@native
def find_mapping(table: int, user: int, mfn: int, first: int, end: int) -> int:
    """The first grant from ``first`` to ``end`` by which a domain uses a frame, or -1 (grant_map_exists)."""
    found = -1
    lock(table)
    end = min(end, nr_grant_entries(table))
    while first < end and found < 0:
        active = active_entry(table, first)
        used = load64(active + ActiveEntry.pin) and load64(active + ActiveEntry.domid) == user
        if used and load64(active + ActiveEntry.mfn) == mfn:
            found = first
        first += 1
    unlock(table)
    return found


@native
def free_frames(table: int) -> int:
    """Nobody refers to the table's frames any more (grant_table_destroy)."""
    machine = _machine_of(table)
    for number in range(load64(table + GrantTableRecord.nr_grant_frames)):
        free_frame(machine, load64(load64(table + GrantTableRecord.shared) + number * 8))
    for number in range(load64(table + GrantTableRecord.nr_status_frames)):
        free_frame(machine, load64(load64(table + GrantTableRecord.status) + number * 8))
    store64(table + GrantTableRecord.nr_grant_frames, 0)
    store64(table + GrantTableRecord.nr_status_frames, 0)
    return 0
