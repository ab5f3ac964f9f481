"""Writes of a guest's kernel to its own page tables, which it has mapped read-only.

With the assist for writable page tables the kernel stores as if it could; the store is checked like a
hypercall and done, or faults as it would have. Source: xen/arch/x86/pv/ro-page-fault.c. Xen decodes the
instruction; here the engine says what was to be stored where.
"""

from __future__ import annotations

from euxen.abi.xen import VMASST_TYPE_writable_pagetables
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, load64, native
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import _PAGE_PRESENT, _PAGE_RW, mfn_in
from euxen.hypervisor.mm.mmu import l1_entry_host
from euxen.hypervisor.mm.page import get_page_from_mfn, host_of, put_page
from euxen.hypervisor.mm.update import mod_l1_entry
from euxen.hypervisor.records import DomainRecord, PageInfo, VcpuRecord
from euxen.hypervisor.traps import is_user


@native
def store(block: int, address: int, value: int, size: int) -> int:
    """``CpuBlock.on_store``: 1 if the store was done, 0 if it has to fault."""
    vcpu = load64(block + CpuBlock.vcpu)
    domain = load64(vcpu + VcpuRecord.domain)
    assist = load64(domain + DomainRecord.vm_assist) >> VMASST_TYPE_writable_pagetables
    if not assist & 1 or is_user(vcpu) or address & (size - 1):
        return 0
    entry_host = l1_entry_host(block, address)
    if not entry_host:
        return 0
    entry = load64(entry_host)
    if entry & (_PAGE_PRESENT | _PAGE_RW) != _PAGE_PRESENT:
        return 0
    machine = load64(domain + DomainRecord.machine)
    page = get_page_from_mfn(domain, mfn_in(entry))
    if not page:
        return 0
    info = load64(page + PageInfo.type_info)
    wanted = pg.PGT_l1_page_table | pg.PGT_validated
    error = 1
    if info & (pg.PGT_type_mask | pg.PGT_validated) == wanted and info & pg.PGT_count_mask:
        host = host_of(machine, mfn_in(entry)) + (address & 0xFF8)
        if size < 8:
            shift = (address & 7) * 8
            mask = ((1 << (size * 8)) - 1) << shift
            value = (load64(host) & ~mask) | ((value << shift) & mask)
        error = mod_l1_entry(host, value, 0, domain, domain)
    put_page(page)
    if error:
        return 0
    # Events wait for the end of the block of code, which may hold registers that a frame would need.
    if load64(block + CpuBlock.flush_pending):
        call1(load64(block + CpuBlock.flush_tlb), block)
    return 1
