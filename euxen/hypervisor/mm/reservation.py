"""Frames that a domain gives back, and runs of frames that it asks for. Source: xen/common/memory.c."""

from __future__ import annotations

from euxen.cpu.native.language import and64, cas64, load64, native, store64
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import get_page_from_mfn, lock, mfn_valid, page_of, put_page, unlock
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo


@native
def guest_remove_page(domain: int, frame: int) -> int:
    """Drop the reference by which a domain holds a frame; 0 if it does not hold it.

    The frame is free once nothing else refers to it.
    """
    page = get_page_from_mfn(domain, frame)
    if not page:
        return 0
    held = and64(page + PageInfo.count_info, ~pg.PGC_allocated) & pg.PGC_allocated
    if held:
        put_page(page)
    put_page(page)
    return 1 if held else 0


@native
def steal_page(domain: int, frame: int) -> int:
    """Take a frame that a domain holds but uses nowhere, still counted as the domain's; 1 if that is so."""
    machine = load64(domain + DomainRecord.machine)
    if not mfn_valid(machine, frame):
        return 0
    page = page_of(machine, frame)
    # With nobody referring to it nobody can change its owner or its type.
    if cas64(page + PageInfo.count_info, pg.PGC_allocated | 1, 0) != pg.PGC_allocated | 1:
        return 0
    if load64(page + PageInfo.owner) != domain:
        store64(page + PageInfo.count_info, pg.PGC_allocated | 1)
        return 0
    store64(page + PageInfo.owner, 0)
    return 1


@native
def alloc_run(machine: int, order: int) -> int:
    """Take ``2 ** order`` free frames in a row, aligned, that were never used; the first, or -1.

    Those skipped for the sake of alignment go to the heap.
    """
    count = 1 << order
    lock(machine + MachineRecord.heap_lock)
    fresh = load64(machine + MachineRecord.next_fresh)
    first = (fresh + count - 1) & ~(count - 1)
    if first + count > load64(machine + MachineRecord.frames):
        unlock(machine + MachineRecord.heap_lock)
        return -1
    free = load64(machine + MachineRecord.free_count)
    for frame in range(fresh, first):
        store64(load64(machine + MachineRecord.free_stack) + free * 8, frame)
        free += 1
    store64(machine + MachineRecord.free_count, free)
    store64(machine + MachineRecord.next_fresh, first + count)
    store64(machine + MachineRecord.free_pages, load64(machine + MachineRecord.free_pages) - count)
    unlock(machine + MachineRecord.heap_lock)
    return first
