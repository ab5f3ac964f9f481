"""GNTTABOP_unmap_grant_ref and GNTTABOP_unmap_and_replace, and what a dead domain had mapped.

An unmapping has two halves, with a flush of the TLB between them: first the page-table entry goes, then pins and
references. Many first halves are done before the flush. Source: unmap_common, unmap_common_complete and
gnttab_release_mappings in xen/common/grant_table.c.
"""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_okay,
    GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
)
from euxen.cpu.native.language import load32, load64, native, store16, store64, ult
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.domain_list import get_domain_by_id, put_domain
from euxen.hypervisor.grants.entries import (
    active_entry,
    nr_grant_entries,
    reduce_status_for_pin,
    status_of,
    table_of,
)
from euxen.hypervisor.grants.host_mapping import note_unmapped, replace_grant_host_mapping
from euxen.hypervisor.grants.mapping import pin_increment, takes_type
from euxen.hypervisor.grants.maptrack import maptrack_entry, put_maptrack_handle
from euxen.hypervisor.grants.records import (
    ActiveEntry,
    GNTPIN_devr_mask,
    GNTPIN_devw_mask,
    GNTPIN_hstr_mask,
    GNTPIN_hstw_mask,
    GrantMapping,
    GrantTableRecord,
    UnmapCommon,
)
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import page_of, put_page
from euxen.hypervisor.mm.pagetable import put_page_and_type, put_page_type
from euxen.hypervisor.records import DomainRecord
from euxen.hypervisor.traps import CRASH_GRANTER_GONE, crash

MAPPED = GNTMAP_device_map | GNTMAP_host_map
RELEASED_AT_ONCE = 1024
"""So many handles of a domain that dies are looked at before others get their turn."""


@native
def _counts(active: int, ld: int, flags: int) -> int:
    """Whether the pin of an entry has a domain's mappings of ``flags`` in it.

    Domids are used again: the granter may be another one than that which lent the frame.
    """
    if load64(active + ActiveEntry.domid) != load64(ld + DomainRecord.domain_id):
        return 0
    pin = load64(active + ActiveEntry.pin)
    readonly = flags & GNTMAP_readonly
    if flags & GNTMAP_host_map and not pin & (GNTPIN_hstr_mask if readonly else GNTPIN_hstw_mask):
        return 0
    if flags & GNTMAP_device_map and not pin & (GNTPIN_devr_mask if readonly else GNTPIN_devw_mask):
        return 0
    return 1


@native
def _unmap_entry(ld: int, common: int, entry: int, active: int, flags: int) -> int:
    """Take the page-table entry away, and note what is done: GNTST_*. The granter's table is locked."""
    host_addr = load64(common + UnmapCommon.host_addr)
    dev_bus_addr = load64(common + UnmapCommon.dev_bus_addr)
    mfn = load64(active + ActiveEntry.mfn)
    store64(common + UnmapCommon.mfn, mfn)
    if dev_bus_addr and flags & GNTMAP_device_map and dev_bus_addr != mfn << pg.PAGE_SHIFT:
        return GNTST_bad_dev_addr
    done = 0
    if host_addr and flags & GNTMAP_host_map:
        new_addr = load64(common + UnmapCommon.new_addr)
        status = replace_grant_host_mapping(ld, host_addr, mfn, new_addr, flags)
        if status != GNTST_okay:
            return status
        done |= GNTMAP_host_map
    if dev_bus_addr and flags & GNTMAP_device_map:
        done |= GNTMAP_device_map
    left = flags & ~done
    store64(entry + GrantMapping.flags, left if left & MAPPED else 0)
    if done:
        store64(common + UnmapCommon.done, done | (flags & GNTMAP_readonly))
    return GNTST_okay


@native
def _unmap_from(ld: int, rd: int, common: int, entry: int) -> int:
    """The first half, with the granter known: GNTST_*."""
    table = table_of(rd)
    ref = load64(entry + GrantMapping.ref)
    store64(common + UnmapCommon.ref, ref)
    status = GNTST_bad_handle
    lock(table)
    if ult(ref, nr_grant_entries(table)):
        active = active_entry(table, ref)
        flags = load64(entry + GrantMapping.flags)
        if _counts(active, ld, flags):
            status = _unmap_entry(ld, common, entry, active, flags)
    unlock(table)
    if load64(entry + GrantMapping.flags) == 0:
        put_maptrack_handle(table_of(ld), load64(common + UnmapCommon.handle))
    return status


@native
def _unmap_common(ld: int, common: int) -> int:
    """The first half of an unmapping; the status goes into ``common``."""
    store64(common + UnmapCommon.done, 0)
    store64(common + UnmapCommon.rd, 0)
    entry = maptrack_entry(table_of(ld), load64(common + UnmapCommon.handle))
    if not entry or not load64(entry + GrantMapping.flags):
        return store_status(common, GNTST_bad_handle)
    rd = get_domain_by_id(load64(ld + DomainRecord.machine), load64(entry + GrantMapping.domid))
    if not rd:
        # The page-table entry was overwritten, and then the granter went.
        block = load64(ld + DomainRecord.block)
        if block:
            crash(block, CRASH_GRANTER_GONE)
        return store_status(common, GNTST_general_error)
    store64(common + UnmapCommon.rd, rd)
    return store_status(common, _unmap_from(ld, rd, common, entry))


@native
def store_status(common: int, status: int) -> int:
    """Note the GNTST_* of an unmapping."""
    store64(common + UnmapCommon.status, status)
    return 0


@native
def unmap_common_complete(ld: int, common: int) -> int:
    """The second half: with no translation left, the references go."""
    rd = load64(common + UnmapCommon.rd)
    done = load64(common + UnmapCommon.done)
    if done:
        machine = load64(ld + DomainRecord.machine)
        table = table_of(rd)
        mfn = load64(common + UnmapCommon.mfn)
        readonly = done & GNTMAP_readonly
        page = page_of(machine, mfn)
        if done & GNTMAP_device_map:
            if readonly:
                put_page(page)
            else:
                put_page_and_type(page)
        if done & GNTMAP_host_map:
            note_unmapped(ld, mfn, readonly)
            if takes_type(done, ld, rd):
                put_page_type(page)
            put_page(page)
        lock(table)
        active = active_entry(table, load64(common + UnmapCommon.ref))
        store64(active + ActiveEntry.pin, load64(active + ActiveEntry.pin) - pin_increment(done))
        reduce_status_for_pin(active, status_of(table, load64(common + UnmapCommon.ref)), readonly)
        unlock(table)
    if rd:
        put_domain(rd)
        store64(common + UnmapCommon.rd, 0)
    return 0


@native
def unmap_grant_ref(ld: int, op: int, common: int) -> int:
    """The first half of a struct gnttab_unmap_grant_ref at a host address."""
    store64(common + UnmapCommon.host_addr, load64(op + GnttabUnmapGrantRef.host_addr))
    store64(common + UnmapCommon.dev_bus_addr, load64(op + GnttabUnmapGrantRef.dev_bus_addr))
    store64(common + UnmapCommon.new_addr, 0)
    store64(common + UnmapCommon.handle, load32(op + GnttabUnmapGrantRef.handle))
    _unmap_common(ld, common)
    store16(op + GnttabUnmapGrantRef.status, load64(common + UnmapCommon.status))
    return 0


@native
def unmap_and_replace(ld: int, op: int, common: int) -> int:
    """The first half of a struct gnttab_unmap_and_replace at a host address."""
    store64(common + UnmapCommon.host_addr, load64(op + GnttabUnmapAndReplace.host_addr))
    store64(common + UnmapCommon.dev_bus_addr, 0)
    store64(common + UnmapCommon.new_addr, load64(op + GnttabUnmapAndReplace.new_addr))
    store64(common + UnmapCommon.handle, load32(op + GnttabUnmapAndReplace.handle))
    _unmap_common(ld, common)
    store16(op + GnttabUnmapAndReplace.status, load64(common + UnmapCommon.status))
    return 0


@native
def _release(ld: int, rd: int, entry: int, flags: int) -> int:
    """Give a mapping up whose page-table entry goes with its table."""
    table = table_of(rd)
    ref = load64(entry + GrantMapping.ref)
    readonly = flags & GNTMAP_readonly
    external = load64(ld + DomainRecord.is_external)
    lock(table)
    active = active_entry(table, ref)
    known = 0
    if ult(ref, nr_grant_entries(table)):
        known = _counts(active, ld, flags)
    mfn = load64(active + ActiveEntry.mfn) if known else 0
    if known:
        store64(active + ActiveEntry.pin, load64(active + ActiveEntry.pin) - pin_increment(flags))
        reduce_status_for_pin(active, status_of(table, ref), readonly)
    unlock(table)
    if known:
        page = page_of(load64(ld + DomainRecord.machine), mfn)
        if flags & GNTMAP_host_map and external:
            note_unmapped(ld, mfn, readonly)
            if takes_type(flags, ld, rd):
                put_page_type(page)
            put_page(page)
        if flags & GNTMAP_device_map:
            if not readonly:
                put_page_type(page)
            put_page(page)
    return 0


@native
def release_mappings(ld: int) -> int:
    """A domain dies: give up what it has mapped (gnttab_release_mappings); 1 if there is more, for another call."""
    table = table_of(ld)
    handle = load64(table + GrantTableRecord.maptrack_limit)
    end = max(handle - RELEASED_AT_ONCE, 0)
    while handle > end:
        handle -= 1
        entry = maptrack_entry(table, handle)
        flags = load64(entry + GrantMapping.flags)
        if flags & MAPPED:
            store64(entry + GrantMapping.flags, 0)
            rd = get_domain_by_id(load64(ld + DomainRecord.machine), load64(entry + GrantMapping.domid))
            if rd:
                _release(ld, rd, entry, flags)
                put_domain(rd)
    store64(table + GrantTableRecord.maptrack_limit, handle)
    return 1 if handle else 0
