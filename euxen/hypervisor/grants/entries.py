"""Entries of a grant table: where they are, and taking one into use. Source: xen/common/grant_table.c.

Shared entries are the guest's to write at any time. What Xen reads twice may differ; what it has checked it copies
into the active entry.
"""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTST_general_error,
    GNTST_okay,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from euxen.cpu.native.language import and64, cas64, load16, load64, native, or8
from euxen.hypervisor.grants.records import (
    V1_PER_PAGE,
    V2_PER_PAGE,
    ActiveEntry,
    GNTPIN_writable,
    GrantTableRecord,
)
from euxen.hypervisor.mm.page import PAGE_SHIFT, host_of
from euxen.hypervisor.records import DomainRecord

RETRIES = 4
"""How often an entry is read again that the guest changes while Xen marks it."""
V1_FRAME = 4
V2_FRAME = 8
"""Where an entry names its frame, and how: 32 bits, or 64."""


@native
def table_of(domain: int) -> int:
    """A domain's GrantTableRecord."""
    return load64(domain + DomainRecord.grant_table)


@native
def nr_grant_entries(table: int) -> int:
    """How many entries there are."""
    frames = load64(table + GrantTableRecord.nr_grant_frames)
    return frames * (V1_PER_PAGE if load64(table + GrantTableRecord.version) == 1 else V2_PER_PAGE)


@native
def _word_at(table: int, frames: int, number: int, per_page_shift: int, shift: int) -> int:
    """The host address of item ``number`` in a list of frames that hold ``2 ** per_page_shift`` each."""
    machine = load64(load64(table + GrantTableRecord.domain) + DomainRecord.machine)
    frame = load64(frames + (number >> per_page_shift) * 8)
    return host_of(machine, frame) + ((number & ((1 << per_page_shift) - 1)) << shift)


@native
def shared_entry(table: int, ref: int) -> int:
    """The host address of a shared entry, which begins with its flags and the domid."""
    frames = load64(table + GrantTableRecord.shared)
    if load64(table + GrantTableRecord.version) == 1:
        return _word_at(table, frames, ref, PAGE_SHIFT - 3, 3)
    return _word_at(table, frames, ref, PAGE_SHIFT - 4, 4)


@native
def status_of(table: int, ref: int) -> int:
    """The host address of the 16 bits in which Xen says how an entry is used."""
    if load64(table + GrantTableRecord.version) == 1:
        return shared_entry(table, ref)
    return _word_at(table, load64(table + GrantTableRecord.status), ref, PAGE_SHIFT - 1, 1)


@native
def active_entry(table: int, ref: int) -> int:
    """The ActiveEntry of a grant reference."""
    return load64(table + GrantTableRecord.active) + ref * ActiveEntry.size


@native
def clear_flags(status: int, mask: int) -> int:
    """Clear bits in 16 bits that the guest may write at the same time (gnttab_clear_flags)."""
    and64(status & ~7, ~(mask << ((status & 7) * 8)))
    return 0


@native
def reduce_status_for_pin(active: int, status: int, readonly: int) -> int:
    """Let the status say no more than the pin does."""
    pin = load64(active + ActiveEntry.pin)
    mask = 0 if pin else GTF_reading
    if not readonly and not pin & GNTPIN_writable:
        mask |= GTF_writing
    if mask:
        clear_flags(status, mask)
    return 0


@native
def _permits(flags: int, domid: int, user: int, mapping: int, version: int) -> int:
    """Whether an entry lends its frame to a domain, for a mapping or for a copy."""
    kind = flags & (GTF_type_mask | GTF_sub_page if mapping else GTF_type_mask)
    if domid != user:
        return 0
    return 1 if kind == GTF_permit_access or (version == 2 and not mapping and kind == GTF_transitive) else 0


@native
def _set_status_v1(shared: int, pinned: int, readonly: int, mapping: int, user: int) -> int:
    """Mark an entry of version 1 as in use: GNTST_*."""
    old = load64(shared)
    for _ in range(RETRIES + 1):
        if not pinned and not _permits(old & 0xFFFF, (old >> 16) & 0xFFFF, user, mapping, 1):
            return GNTST_general_error
        new = old | GTF_reading
        if not readonly:
            if old & GTF_readonly:
                return GNTST_general_error
            new |= GTF_writing
        seen = cas64(shared, old, new)
        if seen == old:
            return GNTST_okay
        old = seen
    return GNTST_general_error


@native
def _set_status_v2(shared: int, status: int, pinned: int, readonly: int, mapping: int, user: int) -> int:
    """Mark an entry of version 2 as in use: GNTST_*. The status is set first, and taken back if the entry changed."""
    header = load64(shared)
    if not pinned and not _permits(header & 0xFFFF, (header >> 16) & 0xFFFF, user, mapping, 2):
        return GNTST_general_error
    if readonly:
        or8(status, GTF_reading)
    else:
        if header & GTF_readonly:
            return GNTST_general_error
        or8(status, GTF_reading | GTF_writing)
    header = load64(shared)
    if not pinned:
        permitted = _permits(header & 0xFFFF, (header >> 16) & 0xFFFF, user, mapping, 2)
        if not permitted or (not readonly and header & GTF_readonly):
            clear_flags(status, GTF_writing | GTF_reading)
            return GNTST_general_error
    elif header & GTF_readonly:
        clear_flags(status, GTF_writing)
        return GNTST_general_error
    return GNTST_okay


@native
def set_status(table: int, ref: int, readonly: int, mapping: int, user: int) -> int:
    """Mark a shared entry as in use by a domain, if it lends its frame to it: GNTST_*. The table is locked."""
    shared = shared_entry(table, ref)
    pinned = load64(active_entry(table, ref) + ActiveEntry.pin)
    if load64(table + GrantTableRecord.version) == 1:
        return _set_status_v1(shared, pinned, readonly, mapping, user)
    return _set_status_v2(shared, status_of(table, ref), pinned, readonly, mapping, user)


@native
def flags_of(shared: int) -> int:
    """The flags of a shared entry, as they are now."""
    return load16(shared)
