"""GNTTABOP_map_grant_ref. Source: map_grant_ref in xen/common/grant_table.c."""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_no_space,
    GNTST_okay,
    GnttabMapGrantRef,
)
from euxen.cpu.native.language import load16, load32, load64, native, store16, store32, store64, ult
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.domain_list import get_domain_by_id, put_domain
from euxen.hypervisor.grants.entries import (
    V1_FRAME,
    V2_FRAME,
    active_entry,
    nr_grant_entries,
    reduce_status_for_pin,
    set_status,
    shared_entry,
    status_of,
    table_of,
)
from euxen.hypervisor.grants.host_mapping import create_grant_host_mapping
from euxen.hypervisor.grants.maptrack import get_maptrack_handle, maptrack_entry, put_maptrack_handle
from euxen.hypervisor.grants.records import (
    NO_HANDLE,
    ActiveEntry,
    GNTPIN_devr_inc,
    GNTPIN_devw_inc,
    GNTPIN_hstr_inc,
    GNTPIN_hstw_inc,
    GNTPIN_oflow_shift,
    GNTPIN_writable,
    GrantMapping,
    GrantTableRecord,
)
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.p2m import get_page_from_gfn
from euxen.hypervisor.mm.page import frame_of, get_page, page_of, put_page
from euxen.hypervisor.mm.pagetable import get_page_type, put_page_type
from euxen.hypervisor.records import DomainRecord

ONLY_IN_PAGE_TABLES = GNTMAP_device_map | GNTMAP_application_map | GNTMAP_contains_pte


@native
def pin_increment(flags: int) -> int:
    """What a mapping with GNTMAP_* flags adds to a pin."""
    readonly = flags & GNTMAP_readonly
    increment = 0
    if flags & GNTMAP_device_map:
        increment += GNTPIN_devr_inc if readonly else GNTPIN_devw_inc
    if flags & GNTMAP_host_map:
        increment += GNTPIN_hstr_inc if readonly else GNTPIN_hstw_inc
    return increment


@native
def frame_in_entry(table: int, ref: int) -> int:
    """The frame that a shared entry names, for the whole of it."""
    entry = shared_entry(table, ref)
    if load64(table + GrantTableRecord.version) == 1:
        return load32(entry + V1_FRAME)
    return load64(entry + V2_FRAME)


@native
def _activate(rd: int, table: int, ref: int, user: int) -> int:
    """Look up the frame of a grant that nobody uses, and note it: the PageInfo, referred to, or 0."""
    page = get_page_from_gfn(rd, frame_in_entry(table, ref))
    if page:
        active = active_entry(table, ref)
        store64(active + ActiveEntry.domid, user)
        store64(active + ActiveEntry.src_domid, load64(rd + DomainRecord.domain_id))
        store64(active + ActiveEntry.trans_gref, ref)
        store64(active + ActiveEntry.mfn, frame_of(load64(rd + DomainRecord.machine), page))
        store64(active + ActiveEntry.start, 0)
        store64(active + ActiveEntry.length, pg.PAGE_SIZE)
        store64(active + ActiveEntry.is_sub_page, 0)
    return page


@native
def _pin(rd: int, table: int, ref: int, user: int, readonly: int, increment: int) -> int:
    """Count a mapping of a grant and refer to its frame: the PageInfo, or a negative GNTST_*. The table is locked."""
    if not ult(ref, nr_grant_entries(table)):
        return GNTST_bad_gntref
    active = active_entry(table, ref)
    pin = load64(active + ActiveEntry.pin)
    if pin and (
        load64(active + ActiveEntry.domid) != user
        or pin & (increment << GNTPIN_oflow_shift)
        or load64(active + ActiveEntry.is_sub_page)
    ):
        return GNTST_general_error
    if not pin or (not readonly and not pin & GNTPIN_writable):
        status = set_status(table, ref, readonly, 1, user)
        if status != GNTST_okay:
            return status
    if pin:
        page = page_of(load64(rd + DomainRecord.machine), load64(active + ActiveEntry.mfn))
        if not get_page(page, rd):
            reduce_status_for_pin(active, status_of(table, ref), readonly)
            return GNTST_general_error
    else:
        page = _activate(rd, table, ref, user)
        if not page:
            reduce_status_for_pin(active, status_of(table, ref), readonly)
            return GNTST_bad_page
    store64(active + ActiveEntry.pin, pin + increment)
    return page


@native
def _unpin(table: int, ref: int, readonly: int, increment: int) -> int:
    """Undo ``_pin``, but for the reference."""
    lock(table)
    active = active_entry(table, ref)
    store64(active + ActiveEntry.pin, load64(active + ActiveEntry.pin) - increment)
    reduce_status_for_pin(active, status_of(table, ref), readonly)
    unlock(table)
    return 0


@native
def takes_type(flags: int, ld: int, rd: int) -> int:
    """Whether a host mapping holds a reference to the frame's type (gnttab_host_mapping_get_page_type)."""
    return 0 if flags & GNTMAP_readonly or (ld != rd and load64(rd + DomainRecord.is_external)) else 1


@native
def _make(ld: int, rd: int, page: int, op: int, flags: int) -> int:
    """Map a page, to which there is one reference, as ``flags`` ask for: GNTST_*. Without success none is left."""
    types = 0
    references = 1
    status = GNTST_okay
    if flags & GNTMAP_device_map and not flags & GNTMAP_readonly:
        if get_page_type(page, pg.PGT_writable_page):
            status = GNTST_general_error
        else:
            types += 1
    if status == GNTST_okay and flags & GNTMAP_host_map:
        if flags & GNTMAP_device_map:
            if get_page(page, rd):
                references += 1
            else:
                status = GNTST_general_error
        if status == GNTST_okay and takes_type(flags, ld, rd):
            if get_page_type(page, pg.PGT_writable_page):
                status = GNTST_general_error
            else:
                types += 1
        if status == GNTST_okay:
            frame = frame_of(load64(ld + DomainRecord.machine), page)
            status = create_grant_host_mapping(ld, load64(op + GnttabMapGrantRef.host_addr), frame, flags)
    if status != GNTST_okay:
        for _ in range(types):
            put_page_type(page)
        for _ in range(references):
            put_page(page)
    return status


@native
def _map(ld: int, rd: int, op: int, flags: int) -> int:
    """Map a grant of ``rd`` for ``ld``: the frame, or a negative GNTST_*."""
    table = table_of(rd)
    ref = load32(op + GnttabMapGrantRef.ref)
    readonly = flags & GNTMAP_readonly
    increment = pin_increment(flags)
    lock(table)
    page = _pin(rd, table, ref, load64(ld + DomainRecord.domain_id), readonly, increment)
    unlock(table)
    if page < 0:
        return page
    # Once the references are given away, nothing is known of the page.
    frame = frame_of(load64(ld + DomainRecord.machine), page)
    status = _make(ld, rd, page, op, flags)
    if status != GNTST_okay:
        _unpin(table, ref, readonly, increment)
        return status
    return frame


@native
def _map_tracked(ld: int, rd: int, op: int, flags: int) -> int:
    """The same, with a handle for it: GNTST_*."""
    table = table_of(ld)
    handle = get_maptrack_handle(table)
    if handle == NO_HANDLE:
        return GNTST_no_space
    frame = _map(ld, rd, op, flags)
    if frame < 0:
        put_maptrack_handle(table, handle)
        return frame
    entry = maptrack_entry(table, handle)
    store64(entry + GrantMapping.ref, load32(op + GnttabMapGrantRef.ref))
    store64(entry + GrantMapping.domid, load16(op + GnttabMapGrantRef.dom))
    store64(entry + GrantMapping.flags, flags & 0xFFFF)
    store64(op + GnttabMapGrantRef.dev_bus_addr, frame << pg.PAGE_SHIFT)
    store32(op + GnttabMapGrantRef.handle, handle)
    return GNTST_okay


@native
def map_grant_ref(ld: int, op: int) -> int:
    """Do a struct gnttab_map_grant_ref at a host address for a domain, and put the answer there."""
    flags = load32(op + GnttabMapGrantRef.flags)
    if not flags & (GNTMAP_device_map | GNTMAP_host_map):
        status = GNTST_bad_gntref
    elif load64(ld + DomainRecord.is_external) and flags & ONLY_IN_PAGE_TABLES:
        status = GNTST_general_error
    else:
        rd = get_domain_by_id(load64(ld + DomainRecord.machine), load16(op + GnttabMapGrantRef.dom))
        status = GNTST_bad_domain
        if rd:
            status = _map_tracked(ld, rd, op, flags)
            put_domain(rd)
    store16(op + GnttabMapGrantRef.status, status)
    return 0
