"""Giving a domain many frames at once, as its builder does."""

from __future__ import annotations

from euxen.cpu.native.language import load64, native, store64
from euxen.hypervisor.mm.heap import alloc_frames
from euxen.hypervisor.mm.page import assign_page
from euxen.hypervisor.records import DomainRecord, MachineRecord


@native
def populate(domain: int, first_pfn: int, count: int, frames: int) -> int:
    """Give the domain ``count`` frames for the pfns from ``first_pfn``; their numbers go to ``frames``.

    Returns how many it got: fewer where the machine or the domain's limit has no more.
    """
    machine = load64(domain + DomainRecord.machine)
    m2p = load64(machine + MachineRecord.m2p)
    for number in range(count):
        if load64(domain + DomainRecord.tot_pages) >= load64(domain + DomainRecord.max_pages):
            return number
        frame = alloc_frames(machine, 0)
        if frame < 0:
            return number
        assign_page(domain, frame)
        store64(m2p + frame * 8, first_pfn + number)
        store64(frames + number * 8, frame)
    return count
