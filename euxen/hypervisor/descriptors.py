"""Descriptor tables of PV guests. Source: xen/arch/x86/pv/descriptor-tables.c."""

from __future__ import annotations

from euxen.abi.arch_x86_xen import FIRST_RESERVED_GDT_ENTRY
from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import load64, native, signed, store64
from euxen.hypervisor.guest_access import copy_from_guest
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import _PAGE_PRESENT, mfn_in
from euxen.hypervisor.mm.mmu import l1_entry_host
from euxen.hypervisor.mm.page import get_page_from_mfn, host_of, put_page, write_word
from euxen.hypervisor.mm.pagetable import get_page_type, put_page_and_type, put_page_type
from euxen.hypervisor.mm.segdesc import check_descriptor
from euxen.hypervisor.records import DomainRecord, PageInfo, VcpuRecord

ACCESSED = state.DESC_ACCESSED << 32
ENTRIES_PER_FRAME = 512
FIRST_RESERVED_SELECTOR = FIRST_RESERVED_GDT_ENTRY << 3

# Xen's own entries at the end of every GDT that ring 3 may use; the others are the hypervisor's.
FLAT_CS32 = signed(0x00CF_FB00_0000_FFFF)  # 0xe023
FLAT_SS = signed(0x00CF_F300_0000_FFFF)  # 0xe02b
FLAT_CS64 = signed(0x00AF_FB00_0000_FFFF)  # 0xe033


@native
def _reserved_entry(selector: int) -> int:
    """Xen's part of the GDT."""
    if selector & ~7 == 0xE020:
        return FLAT_CS32
    if selector & ~7 == 0xE028:
        return FLAT_SS
    if selector & ~7 == 0xE030:
        return FLAT_CS64
    return -1


@native
def _gdt_page(vcpu: int, index: int) -> int:
    """The page of the GDT that an entry is in, or 0. It is one of descriptors for as long as the GDT is in use."""
    if index >= load64(vcpu + VcpuRecord.gdt_ents) + ENTRIES_PER_FRAME - 1 & -ENTRIES_PER_FRAME:
        return 0
    machine = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.machine)
    return pg.page_of(machine, load64(vcpu + VcpuRecord.gdt_frames + index // ENTRIES_PER_FRAME * 8))


@native
def _get_ldt_page(block: int, vcpu: int, index: int) -> int:
    """The page of the LDT that an entry is in, or 0 (pv_map_ldt_shadow_page).

    Takes references of both kinds: memory of another's, or that the guest writes to, is no table.
    """
    if index >= load64(vcpu + VcpuRecord.ldt_ents):
        return 0
    host = l1_entry_host(block, load64(vcpu + VcpuRecord.ldt_base) + index * 8)
    if not host or not load64(host) & _PAGE_PRESENT:
        return 0
    page = get_page_from_mfn(load64(vcpu + VcpuRecord.domain), mfn_in(load64(host)))
    if page and get_page_type(page, pg.PGT_seg_desc_page):
        put_page(page)
        return 0
    return page


@native
def _read_entry(vcpu: int, page: int, index: int, load: int) -> int:
    """The descriptor of an entry in a page of them, or -1 for none; ``load``: mark it as accessed."""
    machine = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.machine)
    host = host_of(machine, pg.frame_of(machine, page)) + index % ENTRIES_PER_FRAME * 8
    value = load64(host)
    if load and not value & ACCESSED and value & (state.DESC_S << 32):
        value |= ACCESSED
        store64(host, value)
    return value if value else -1


@native
def descriptor(block: int, selector: int, load: int, _unused: int) -> int:
    """``CpuBlock.on_descriptor``: the descriptor for a selector, or -1. ``load``: mark it as accessed."""
    if selector & 0xFFFC == 0:
        return -1
    if not selector & 4 and selector & 0xFFFF >= FIRST_RESERVED_SELECTOR:
        return _reserved_entry(selector & 0xFFFF)
    vcpu = load64(block + CpuBlock.vcpu)
    index = (selector & 0xFFFF) >> 3
    if selector & 4:
        page = _get_ldt_page(block, vcpu, index)
        if not page:
            return -1
        value = _read_entry(vcpu, page, index, load)
        put_page_and_type(page)
        return value
    page = _gdt_page(vcpu, index)
    return _read_entry(vcpu, page, index, load) if page else -1


@native
def destroy_gdt(vcpu: int) -> int:
    """Give the frames of a vCPU's GDT up (pv_destroy_gdt)."""
    domain = load64(vcpu + VcpuRecord.domain)
    machine = load64(domain + DomainRecord.machine)
    frames = (load64(vcpu + VcpuRecord.gdt_ents) + ENTRIES_PER_FRAME - 1) // ENTRIES_PER_FRAME
    store64(vcpu + VcpuRecord.gdt_ents, 0)
    for i in range(frames):
        put_page_and_type(pg.page_of(machine, load64(vcpu + VcpuRecord.gdt_frames + i * 8)))
        store64(vcpu + VcpuRecord.gdt_frames + i * 8, 0)
    return 0


@native
def install_gdt(vcpu: int, list_host: int, entries: int) -> int:
    """Make the frames listed at ``list_host`` a vCPU's GDT (pv_set_gdt); 0 or a negative errno."""
    if entries < 0 or entries > FIRST_RESERVED_GDT_ENTRY:
        return -XEN_EINVAL
    domain = load64(vcpu + VcpuRecord.domain)
    frames = (entries + ENTRIES_PER_FRAME - 1) // ENTRIES_PER_FRAME
    for i in range(frames):
        page = get_page_from_mfn(domain, load64(list_host + i * 8))
        bad = 1
        if page:
            bad = get_page_type(page, pg.PGT_seg_desc_page)
            if bad:
                put_page(page)
        if bad:
            machine = load64(domain + DomainRecord.machine)
            for j in range(i):
                put_page_and_type(pg.page_of(machine, load64(list_host + j * 8)))
            return -XEN_EINVAL
    destroy_gdt(vcpu)
    for i in range(frames):
        store64(vcpu + VcpuRecord.gdt_frames + i * 8, load64(list_host + i * 8))
    store64(vcpu + VcpuRecord.gdt_ents, entries)
    return 0


@native
def do_set_gdt(block: int, frame_list: int, entries: int) -> int:
    """HYPERVISOR_set_gdt."""
    vcpu = load64(block + CpuBlock.vcpu)
    entries &= 0xFFFF_FFFF
    if entries > FIRST_RESERVED_GDT_ENTRY:
        return -XEN_EINVAL
    frames = (entries + ENTRIES_PER_FRAME - 1) // ENTRIES_PER_FRAME
    scratch = vcpu + VcpuRecord.scratch
    if copy_from_guest(block, scratch, frame_list, frames * 8):
        return -XEN_EFAULT
    return install_gdt(vcpu, scratch, entries)


@native
def do_update_descriptor(block: int, address: int, value: int) -> int:
    """HYPERVISOR_update_descriptor: ``address`` is a machine address."""
    domain = load64(load64(block + CpuBlock.vcpu) + VcpuRecord.domain)
    page = get_page_from_mfn(domain, (address & 0x7FFF_FFFF_FFFF_FFFF) >> pg.PAGE_SHIFT)
    if not page:
        return -XEN_EINVAL
    checked = check_descriptor(value)
    error = -XEN_EINVAL
    if not address & 7 and (checked or not value):
        is_table = load64(page + PageInfo.type_info) & pg.PGT_type_mask == pg.PGT_seg_desc_page
        error = get_page_type(page, pg.PGT_seg_desc_page if is_table else pg.PGT_writable_page)
        if not error:
            machine = load64(domain + DomainRecord.machine)
            write_word(domain, host_of(machine, pg.frame_of(machine, page)) + (address & 0xFFF), checked)
            put_page_type(page)
    put_page(page)
    return -XEN_EINVAL if error else 0
