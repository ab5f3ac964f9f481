"""A granted frame where a domain wants it: in its page tables, or in its p2m.

A domain whose mappings are in neither, the built-in Domain 0, has the host's memory, and nothing is written for it.
Source: create_grant_host_mapping and replace_grant_host_mapping in xen/arch/x86/include/asm/grant_table.h, and
xen/arch/x86/hvm/grant_table.c.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EPERM
from euxen.abi.grant_table import (
    GNTMAP_contains_pte,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_general_error,
    GNTST_okay,
)
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call3, load64, native, shr
from euxen.hypervisor.grants.pv_mapping import create_grant_pv_mapping, replace_grant_pv_mapping
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.outside_writes import close_window, open_window
from euxen.hypervisor.mm.page import page_of
from euxen.hypervisor.records import DomainRecord, PageInfo
from euxen.hypervisor.traps import CRASH_P2M, crash


@native
def _note_mapped(domain: int, frame: int, writable: int) -> int:
    """A frame is mapped now, perhaps another domain's: code that its owner or this domain has of it may get wrong."""
    machine = load64(domain + DomainRecord.machine)
    owner = load64(page_of(machine, frame) + PageInfo.owner)
    if owner == domain:
        return 0
    if writable:
        open_window(owner, frame)
    block = load64(domain + DomainRecord.block)
    if block:
        call3(load64(block + CpuBlock.invalidate_code), block, frame << pg.PAGE_SHIFT, pg.PAGE_SIZE)
    return 0


@native
def _kind_of(flags: int) -> int:
    """The p2m_type_t of a mapping."""
    return p2m.p2m_grant_map_ro if flags & GNTMAP_readonly else p2m.p2m_grant_map_rw


@native
def _create_p2m_mapping(domain: int, address: int, frame: int, flags: int) -> int:
    """Put a frame at a guest frame, which is named by its address: GNTST_*."""
    if flags & ~GNTMAP_readonly != GNTMAP_host_map:
        return GNTST_general_error
    error = p2m.add_page(domain, shr(address, pg.PAGE_SHIFT), frame, _kind_of(flags))
    if error == -XEN_EPERM:
        crash(load64(domain + DomainRecord.block), CRASH_P2M)
    return GNTST_general_error if error else GNTST_okay


@native
def _replace_p2m_mapping(domain: int, address: int, frame: int, new_address: int, flags: int) -> int:
    """Take it out again: GNTST_*. Xen takes an entry that allows less or more, and leaves the right one behind."""
    if new_address or flags & GNTMAP_contains_pte:
        return GNTST_general_error
    entry = p2m.get_entry(domain, shr(address, pg.PAGE_SHIFT))
    if p2m.type_of(entry) != _kind_of(flags) or p2m.mfn_of(entry) != frame:
        return GNTST_general_error
    return GNTST_general_error if p2m.remove_page(domain, shr(address, pg.PAGE_SHIFT), frame) else GNTST_okay


@native
def create_grant_host_mapping(domain: int, address: int, frame: int, flags: int) -> int:
    """Map a frame, to which references were taken for that, where a domain wants it: GNTST_*."""
    status = GNTST_okay
    if load64(domain + DomainRecord.p2m):
        status = _create_p2m_mapping(domain, address, frame, flags)
    elif not load64(domain + DomainRecord.is_external):
        status = create_grant_pv_mapping(domain, address, frame, flags)
    if status == GNTST_okay:
        _note_mapped(domain, frame, 0 if flags & GNTMAP_readonly else 1)
    return status


@native
def replace_grant_host_mapping(domain: int, address: int, frame: int, new_address: int, flags: int) -> int:
    """Undo a mapping: GNTST_*. The references remain the caller's."""
    if load64(domain + DomainRecord.p2m):
        return _replace_p2m_mapping(domain, address, frame, new_address, flags)
    if load64(domain + DomainRecord.is_external):
        return GNTST_okay
    return replace_grant_pv_mapping(domain, address, frame, new_address, flags)


@native
def note_unmapped(domain: int, frame: int, readonly: int) -> int:
    """A mapping of a frame is gone, before the references to it go."""
    machine = load64(domain + DomainRecord.machine)
    if not readonly and load64(page_of(machine, frame) + PageInfo.owner) != domain:
        close_window(machine, frame)
    return 0
