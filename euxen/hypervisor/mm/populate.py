"""Giving a domain many frames at once, as its builder does."""

from __future__ import annotations

from euxen.cpu.native.language import load64, native, store64
from euxen.hypervisor.mm.heap import alloc_for
from euxen.hypervisor.mm.p2m import add_page, p2m_ram_rw
from euxen.hypervisor.mm.page import assign_page, page_of, put_page_alloc_ref
from euxen.hypervisor.records import DomainRecord, MachineRecord


@native
def populate(domain: int, places: int, count: int) -> int:
    """Give the domain a frame for each of the ``count`` pfns at ``places``.

    For a PV domain the frames' numbers take their place. Returns how many it got: fewer where the machine or the
    domain's limit has no more, or the p2m no place.
    """
    machine = load64(domain + DomainRecord.machine)
    if load64(domain + DomainRecord.is_dying):
        return 0
    is_translated = load64(domain + DomainRecord.p2m)
    m2p = load64(machine + MachineRecord.m2p)
    for number in range(count):
        if load64(domain + DomainRecord.tot_pages) >= load64(domain + DomainRecord.max_pages):
            return number
        frame = alloc_for(machine, domain, 0)
        if frame < 0:
            return number
        assign_page(domain, frame)
        if is_translated:
            if add_page(domain, load64(places + number * 8), frame, p2m_ram_rw):
                put_page_alloc_ref(page_of(machine, frame))
                return number
        else:
            store64(m2p + frame * 8, load64(places + number * 8))
            store64(places + number * 8, frame)
    return count
