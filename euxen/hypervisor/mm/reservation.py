"""Frames that a domain gives back. Source: xen/common/memory.c, and steal_page in xen/arch/x86/mm.c."""

from __future__ import annotations

from euxen.cpu.native.language import cas64, load64, native, store64
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import (
    adjust_tot_pages,
    flush_domain_tlb,
    get_page_from_mfn,
    mfn_valid,
    page_of,
    put_page,
    put_page_alloc_ref,
)
from euxen.hypervisor.records import DomainRecord, PageInfo


@native
def guest_remove_page(domain: int, frame: int) -> int:
    """Drop the reference by which a domain holds a frame, a guest frame of an HVM one; 0 if it does not hold it.

    The frame is free once nothing else refers to it.
    """
    if load64(domain + DomainRecord.p2m):
        return p2m.guest_remove_page(domain, frame)
    page = get_page_from_mfn(domain, frame)
    if not page:
        return 0
    held = put_page_alloc_ref(page)
    # Others may hold the frame for longer, and let go of it without looking here.
    flush_domain_tlb(domain)
    put_page(page)
    return held


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
    # It may still be called what it was last, and validated as that, for the domain that had it.
    store64(page + PageInfo.type_info, 0)
    return 1


@native
def release_stolen_page(domain: int) -> int:
    """Count a stolen page as the domain's no more."""
    flush_domain_tlb(domain)
    adjust_tot_pages(domain, -1)
    return 0
