"""Address translation for HVM guests: linear to guest-physical by the guest's page tables, and on by the p2m.

The law of this file: every guest-physical address goes through ``p2m_entry``, so no address reaches memory that is not
in the guest's p2m. Everything behind it, the TLBs too, knows machine addresses. Source: Intel SDM volume 3, chapter 4.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import P2M_ENTRIES, P2M_EXECUTE, P2M_READ, P2M_SHIFT, P2M_WRITE, CpuBlock
from euxen.cpu.native.language import load32, load64, native, or32, or64, shr, signed, store64, ult
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm import large
from euxen.cpu.unicorn.tlb import PAGE_MASK, PROT_EXEC, PROT_KEPT, PROT_READ, PROT_WRITE

PTE_PRESENT, PTE_WRITE, PTE_USER, PTE_ACCESSED, PTE_DIRTY, PTE_PSE, PTE_GLOBAL = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
PTE_NX = signed(1 << 63)
PTE_ADDRESS = 0x0000_00FF_FFFF_F000
"""A guest has 40 bits of physical address; see ``cpu.policy``."""
PTE_RESERVED = 0x000F_FF00_0000_0000
PAE_RESERVED = 0x7FFF_FF00_0000_0000
PDPTE_RESERVED = 0x1E6
LARGE_4M_RESERVED = 0x003F_E000
LARGE_PAT = 0x1000

LOAD, STORE, FETCH = 0, 1, 2
PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16
WALK_OK, WALK_NOT_CANONICAL, WALK_MMIO = -1, -2, -3

CR0_WP, CR0_PG = 1 << 16, 1 << 31
CR4_PSE, CR4_PAE, CR4_PGE = 1 << 4, 1 << 5, 1 << 7
EFER_NXE = 1 << 11
LOW = 0xFFFF_FFFF


@native
def p2m_entry(block: int, gpa: int) -> int:
    """The p2m's word for a guest-physical address, 0 where there is no memory."""
    frame = shr(gpa, 12)
    if not ult(frame, P2M_ENTRIES << P2M_SHIFT):
        return 0
    leaf = load64(load64(block + CpuBlock.p2m) + (frame >> P2M_SHIFT) * 8)
    if leaf == 0:
        return 0
    entry = load64(leaf + (frame & (P2M_ENTRIES - 1)) * 8)
    if not entry & P2M_READ or not ult((entry & PTE_ADDRESS) >> 12, load64(block + CpuBlock.frames)):
        return 0
    return entry


@native
def _table_entry(block: int, gpa: int) -> int:
    """The host address of a page-table entry, with bit 0 set where it may not be written; 0 where no memory is."""
    entry = p2m_entry(block, gpa)
    if entry == 0:
        return 0
    host = load64(block + CpuBlock.ram) + (entry & PTE_ADDRESS) + (gpa & 0xFFF)
    return host if entry & P2M_WRITE else host | 1


@native
def _mark(where: int, entry: int, bits: int) -> int:
    """Set accessed and dirty bits in an entry of eight bytes that says ``entry``, as ``_table_entry`` gave it."""
    if entry & bits != bits and not where & 1:
        or64(where, bits)
    return 0


@native
def _mark_short(where: int, entry: int, bits: int) -> int:
    """The same for an entry of four bytes."""
    if entry & bits != bits and not where & 1:
        or32(where, bits)
    return 0


@native
def _finish(block: int, gpa: int, access: int, protection: int) -> int:
    """The last step: from the guest-physical address to the machine's, with what both tables permit."""
    entry = p2m_entry(block, gpa)
    wanted = P2M_WRITE if access == STORE else (P2M_EXECUTE if access == FETCH else P2M_READ)
    if not entry & wanted:
        store64(block + CpuBlock.walk_frame, gpa)
        store64(block + CpuBlock.walk_protection, wanted)
        return WALK_MMIO
    if not entry & P2M_WRITE:
        protection &= ~PROT_WRITE
    if not entry & P2M_EXECUTE:
        protection &= ~PROT_EXEC
    store64(block + CpuBlock.walk_frame, entry & PTE_ADDRESS)
    store64(block + CpuBlock.walk_protection, protection)
    return WALK_OK


@native
def _may_write(env: int, rights: int, user: int) -> int:
    return 1 if rights & PTE_WRITE or not (user or load64(env + state.CR0) & CR0_WP) else 0


@native
def _short(block: int, env: int, address: int, access: int, user: int) -> int:
    """Two levels of entries of four bytes."""
    fault = PF_WRITE if access == STORE else 0
    cr4 = load64(env + state.CR4)
    where = _table_entry(block, (load64(env + state.CR3) & 0xFFFF_F000) + (address >> 22) * 4)
    entry = load32(where & ~1) if where else 0
    if not entry & PTE_PRESENT:
        return fault
    rights = entry
    if entry & PTE_PSE and cr4 & CR4_PSE:
        if entry & LARGE_4M_RESERVED:
            return fault | PF_PRESENT | PF_RESERVED
        gpa = (entry & 0xFFC0_0000) | (address & 0x003F_F000)
        large.note(block, address, 22)
    else:
        _mark_short(where, entry, PTE_ACCESSED)
        where = _table_entry(block, (entry & 0xFFFF_F000) + ((address >> 12) & 0x3FF) * 4)
        entry = load32(where & ~1) if where else 0
        if not entry & PTE_PRESENT:
            return fault
        rights &= entry
        gpa = entry & 0xFFFF_F000
    may_write = _may_write(env, rights, user)
    if (user and not rights & PTE_USER) or (access == STORE and not may_write):
        return fault | PF_PRESENT
    _mark_short(where, entry, PTE_ACCESSED | PTE_DIRTY if access == STORE else PTE_ACCESSED)
    protection = PROT_READ | PROT_EXEC
    # Not writable in the TLB before it is dirty: the first write has to come here.
    if may_write and (access == STORE or entry & PTE_DIRTY):
        protection |= PROT_WRITE
    if entry & PTE_GLOBAL and cr4 & CR4_PGE:
        protection |= PROT_KEPT
    return _finish(block, gpa, access, protection)


@native
def _long(block: int, env: int, address: int, access: int, user: int) -> int:
    """Four levels of entries of eight bytes, or three (PAE)."""
    no_execute_enabled = load64(env + state.EFER) & EFER_NXE
    fault = PF_WRITE if access == STORE else (PF_FETCH if access == FETCH and no_execute_enabled else 0)
    reserved = PTE_RESERVED if no_execute_enabled else PTE_RESERVED | PTE_NX
    rights = PTE_WRITE | PTE_USER
    no_execute = 0
    shift = 39
    table = load64(env + state.CR3) & ~0xFFF
    if not load32(env + state.HFLAGS) & state.HF_LMA:
        reserved |= PAE_RESERVED
        where = _table_entry(block, (table & LOW) + (load64(env + state.CR3) & 0xFE0) + (address >> 30) * 8)
        entry = load64(where & ~1) if where else 0
        if not entry & PTE_PRESENT:
            return fault
        if entry & (reserved | PTE_NX | PDPTE_RESERVED):
            return fault | PF_PRESENT | PF_RESERVED
        table = entry & PTE_ADDRESS
        shift = 21
    while True:
        where = _table_entry(block, table + ((address >> shift) & 0x1FF) * 8)
        entry = load64(where & ~1) if where else 0
        if not entry & PTE_PRESENT:
            return fault
        is_large = 1 if entry & PTE_PSE and shift > 12 else 0
        if entry & reserved or (is_large and (shift == 39 or entry & ((1 << shift) - 1) & ~0xFFF & ~LARGE_PAT)):
            return fault | PF_PRESENT | PF_RESERVED
        rights &= entry
        no_execute |= entry
        if shift == 12 or is_large:
            break
        _mark(where, entry, PTE_ACCESSED)
        table = entry & PTE_ADDRESS
        shift -= 9
    may_write = _may_write(env, rights, user)
    if (user and not rights & PTE_USER) or (access == STORE and not may_write):
        return fault | PF_PRESENT
    protection = PROT_READ
    if no_execute >= 0 or not no_execute_enabled:
        protection |= PROT_EXEC
    elif access == FETCH:
        return fault | PF_PRESENT
    _mark(where, entry, PTE_ACCESSED | PTE_DIRTY if access == STORE else PTE_ACCESSED)
    if may_write and (access == STORE or entry & PTE_DIRTY):
        protection |= PROT_WRITE
    if entry & PTE_GLOBAL and load64(env + state.CR4) & CR4_PGE:
        protection |= PROT_KEPT
    if shift > 12:
        large.note(block, address, shift)
    span = (1 << shift) - 1
    gpa = (entry & PTE_ADDRESS & ~span) | (address & span & PAGE_MASK)
    return _finish(block, gpa, access, protection)


@native
def walk(block: int, mmu: int, address: int, access: int) -> int:
    """Translate a linear address as code of an MMU mode sees it. The result is that of ``softmmu.walk``, or WALK_MMIO
    with the guest-physical address in ``walk_frame`` and the P2M_* bit that is missing in ``walk_protection``."""
    env = load64(block + CpuBlock.env)
    user = 1 if mmu == layout.MMU_USER else 0
    if load32(env + state.HFLAGS) & state.HF_LMA:
        top = address >> 47
        if top != 0 and top != -1:
            return WALK_NOT_CANONICAL
        return _long(block, env, address, access, user)
    address &= LOW
    if not load64(env + state.CR0) & CR0_PG:
        return _finish(block, address & PAGE_MASK, access, PROT_READ | PROT_WRITE | PROT_EXEC)
    if load64(env + state.CR4) & CR4_PAE:
        return _long(block, env, address, access, user)
    return _short(block, env, address, access, user)
