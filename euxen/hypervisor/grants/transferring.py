"""GNTTABOP_transfer: the entry that accepts a frame. Source: gnttab_transfer in xen/common/grant_table.c."""

from __future__ import annotations

from euxen.abi.grant_table import GTF_accept_transfer, GTF_transfer_committed, GTF_transfer_completed
from euxen.cpu.native.language import cas64, load32, load64, native, or8, store32, store64, ult
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.grants.entries import RETRIES, V1_FRAME, V2_FRAME, nr_grant_entries, shared_entry, table_of
from euxen.hypervisor.grants.records import GrantTableRecord
from euxen.hypervisor.mm.page import adjust_tot_pages, own_page
from euxen.hypervisor.records import DomainRecord, MachineRecord


@native
def _commit(entry: int, giver: int) -> int:
    """Mark an entry that accepts a frame from a domain, which its guest leaves alone then; 0 if it does not accept."""
    old = load64(entry)
    for _ in range(RETRIES + 1):
        if old & 0xFFFF != GTF_accept_transfer or (old >> 16) & 0xFFFF != giver:
            return 0
        seen = cas64(entry, old, old | GTF_transfer_committed)
        if seen == old:
            return 1
        old = seen
    return 0


@native
def give(domain: int, ref: int, giver: int, frame: int) -> int:
    """Give a frame that nobody has to a domain, if the grant accepts it from ``giver``, and tell it there; 1 if so.

    The frame is counted as one of the domain's already.
    """
    machine = load64(domain + DomainRecord.machine)
    table = table_of(domain)
    accepts = 0
    lock(table)
    if ult(ref, nr_grant_entries(table)):
        entry = shared_entry(table, ref)
        accepts = _commit(entry, giver)
        if accepts:
            version = load64(table + GrantTableRecord.version)
            pfn = load32(entry + V1_FRAME) if version == 1 else load64(entry + V2_FRAME)
            own_page(domain, frame)
            store64(load64(machine + MachineRecord.m2p) + frame * 8, pfn)
            if version == 1:
                store32(entry + V1_FRAME, frame)
            else:
                store64(entry + V2_FRAME, frame)
            or8(entry, GTF_transfer_completed)
    unlock(table)
    return accepts


@native
def reserve_page(domain: int) -> int:
    """Count one page more as a domain's, if it may have one; 1 if so."""
    if load64(domain + DomainRecord.is_dying):
        return 0
    if load64(domain + DomainRecord.tot_pages) >= load64(domain + DomainRecord.max_pages):
        return 0
    adjust_tot_pages(domain, 1)
    return 1


@native
def unreserve_page(domain: int) -> int:
    """Count it no more."""
    adjust_tot_pages(domain, -1)
    return 0
