"""Address translation and the slow path of every load and store.

The law of this file: a page table is read here and nowhere else while the guest runs. The guest's
kernel (CPL 0 to 2) and its programs (CPL 3) each have a root of their own.

The translator's fast path is inline: it compares an address with its TLB entry and touches memory.
What misses arrives in ``load_*`` and ``store_*``. The library's own versions remain for what is rare:
an access that crosses a page, and a write to a page from which code was translated.
"""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import (
    call1,
    call2,
    call3,
    call4,
    call5,
    load8,
    load16,
    load32,
    load64,
    native,
    or64,
    shr,
    signed,
    slots,
    store8,
    store16,
    store32,
    store64,
    ult,
)
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm import across, mmio
from euxen.cpu.unicorn.hvm import walk as hvm_walk
from euxen.cpu.unicorn.hvm.walk import WALK_MMIO
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.tlb import (
    PAGE_MASK,
    PROT_EXEC,
    PROT_KEPT,
    PROT_READ,
    PROT_WRITE,
    entry_of,
    fill_entry,
    is_victim,
    remember_table,
)

PTE_PRESENT, PTE_WRITE, PTE_USER, PTE_ACCESSED, PTE_DIRTY, PTE_PSE = 1, 2, 4, 0x20, 0x40, 0x80
PTE_NX = signed(1 << 63)
PTE_ADDRESS = 0x000F_FFFF_FFFF_F000

LOAD, STORE, FETCH = 0, 1, 2
"""MMUAccessType of the translator."""
OF_PROGRAM = 4
"""With one of them, to ``translate``: by the page tables of the guest's programs."""

# Page-fault error codes, and what ``walk`` says where there is no fault.
PF_PRESENT, PF_WRITE, PF_USER, PF_FETCH = 1, 2, 4, 16
WALK_OK = -1
WALK_NOT_CANONICAL = -2


@native
def walk(block: int, root: int, address: int, access: int) -> int:
    """Translate a linear address through the 4-level table at machine address ``root``.

    Sets accessed and dirty bits as a CPU does. Returns WALK_OK, with the result in the block's
    ``walk_*`` words, or WALK_NOT_CANONICAL, or the bits of a page-fault error code that the table
    and the access decide.
    """
    top = address >> 47
    if top != 0 and top != -1:
        return WALK_NOT_CANONICAL
    ram = load64(block + CpuBlock.ram)
    frames = load64(block + CpuBlock.frames)
    fault = PF_WRITE if access == STORE else (PF_FETCH if access == FETCH else 0)
    rights = PTE_WRITE | PTE_USER
    no_execute = 0
    table = root
    shift = 39
    while True:
        if not ult(shr(table, 12), frames):
            return fault
        if address < 0 and shift < 39:
            remember_table(block, table, address & ~((512 << shift) - 1))
        entry_address = ram + table + ((address >> shift) & 0x1FF) * 8
        entry = load64(entry_address)
        if not entry & PTE_PRESENT:
            return fault
        rights &= entry
        no_execute |= entry
        if shift == 12 or (entry & PTE_PSE and shift < 39):
            break
        if not entry & PTE_ACCESSED:
            or64(entry_address, PTE_ACCESSED)
        table = entry & PTE_ADDRESS
        shift -= 9
    # Guest kernels and guest user programs both run in what Xen makes ring 3.
    if not rights & PTE_USER:
        return fault | PF_PRESENT
    protection = PROT_READ | PROT_KEPT if address < 0 else PROT_READ
    if no_execute >= 0:
        protection |= PROT_EXEC
    elif access == FETCH:
        return fault | PF_PRESENT
    if access == STORE:
        if not rights & PTE_WRITE:
            return fault | PF_PRESENT
        if entry & (PTE_ACCESSED | PTE_DIRTY) != PTE_ACCESSED | PTE_DIRTY:
            or64(entry_address, PTE_ACCESSED | PTE_DIRTY)
        protection |= PROT_WRITE
    else:
        if not entry & PTE_ACCESSED:
            or64(entry_address, PTE_ACCESSED)
        # Not writable in the TLB before it is dirty: the first write has to come here.
        if rights & PTE_WRITE and entry & PTE_DIRTY:
            protection |= PROT_WRITE
    span = (1 << shift) - 1
    frame = (entry & PTE_ADDRESS & ~span) | (address & span & PAGE_MASK)
    if not ult(shr(frame, 12), frames):
        return fault
    store64(block + CpuBlock.walk_frame, frame)
    store64(block + CpuBlock.walk_protection, protection)
    store64(block + CpuBlock.walk_entry, entry_address)
    return WALK_OK


@native
def root_of(block: int, mmu: int) -> int:
    """The top-level page table that an MMU mode of the translator stands for."""
    if mmu == layout.MMU_USER:
        return load64(block + CpuBlock.user_root)
    return load64(block + CpuBlock.root)


@native
def find(block: int, mmu: int, address: int, access: int) -> int:
    """Translate a linear address as code of an MMU mode sees it: ``walk``, by the rules of the guest's kind."""
    if load64(block + CpuBlock.hvm):
        return hvm_walk.walk(block, mmu, address, access)
    return walk(block, root_of(block, mmu), address, access)


@native
def translate(block: int, address: int, access: int) -> int:
    """Where the guest kernel's memory at ``address`` is in the host's, up to the end of the page; 0 if it is not.

    For the hypervisor's own access on behalf of the guest: of its kernel, or OF_PROGRAM. Code that was
    translated from a page that will be written is forgotten.
    """
    env = load64(block + CpuBlock.env)
    mmu = layout.MMU_USER if access & OF_PROGRAM else layout.MMU_KERNEL
    access &= ~OF_PROGRAM
    entry = entry_of(env, mmu, address)
    kind = layout.TLB_WRITE if access == STORE else layout.TLB_READ
    # While a flush is due, the TLB may name memory that is another guest's by now.
    if load64(entry + kind) == address & PAGE_MASK and not load64(block + CpuBlock.flush_pending):
        return address + load64(entry + layout.TLB_ADDEND)
    if find(block, mmu, address, access) != WALK_OK:
        return 0
    frame = load64(block + CpuBlock.walk_frame)
    if access == STORE and load8(load64(block + CpuBlock.code_map) + (frame >> 12)):
        call3(load64(slots() + Functions.tb_invalidate_phys_range), load64(block + CpuBlock.uc), frame, frame + 4096)
    return load64(block + CpuBlock.ram) + frame + (address & 0xFFF)


@native
def tlb_fill(cpu: int, address: int, _size: int, access: int, mmu: int, probe: int, code: int) -> int:
    """``CPUClass.tlb_fill``: fill the TLB, or have the guest fault and not return.

    ``code`` is where in the translated code the access was made, 0 if the registers are up to date.
    """
    block = load64(cpu + layout.CPU_OPAQUE)
    access &= 3
    mmu &= 3
    fault = find(block, mmu, address, access)
    if fault == WALK_OK:
        fill_entry(block, load64(block + CpuBlock.env), mmu, address)
        return 1
    if probe & 0xFF:
        return 0
    if access == STORE and (is_forbidden(block, fault, mmu) or fault == WALK_MMIO) and not _is_alone(block, code):
        # Perhaps the hypervisor will do the store: it has to be told of one, which an atomic instruction is not.
        call2(load64(slots() + Functions.cpu_loop_exit_atomic), cpu, code)
    raise_fault(block, address, fault, mmu, code)
    return 0


@native
def is_forbidden(block: int, fault: int, mmu: int) -> int:
    """Whether a store faults so that the hypervisor is asked to do it: by a PV kernel, to what it may only read."""
    if fault <= 0 or load64(block + CpuBlock.hvm):
        return 0
    return 1 if fault & PF_PRESENT and mmu != layout.MMU_USER else 0


@native
def _is_alone(block: int, code: int) -> int:
    """Whether translated code is that of an instruction that is executed alone already."""
    if not code:
        return 1
    context = load64(load64(block + CpuBlock.uc) + layout.UC_TCG_CONTEXT)
    translated = call2(load64(slots() + Functions.tcg_tb_lookup), context, code)
    return 1 if not translated or load32(translated + layout.TB_CFLAGS) & layout.CF_PARALLEL else 0


@native
def raise_fault(block: int, address: int, fault: int, mmu: int, code: int) -> int:
    """Bring the registers up to date, let the hypervisor handle the fault, and leave the translated code."""
    cpu = load64(block + CpuBlock.cpu)
    if code:
        call3(load64(slots() + Functions.cpu_restore_state), cpu, code, 1)
    if fault == WALK_NOT_CANONICAL:
        call4(load64(block + CpuBlock.on_trap), block, 13, 0, 0)
    elif fault == WALK_MMIO:
        mmio.leave(block, address)
    else:
        if mmu == layout.MMU_USER:
            fault |= PF_USER
        call3(load64(block + CpuBlock.on_page_fault), block, address, fault)
    store32(cpu + layout.CPU_EXCEPTION_INDEX, layout.NO_EXCEPTION)
    call1(load64(slots() + Functions.cpu_loop_exit), cpu)
    return 0


@native
def _loadable(env: int, address: int, operand: int, code: int, last: int) -> int:
    """The host address for a load of ``last + 1`` bytes, or 0 where the library has to do it."""
    mmu = operand & 15
    entry = entry_of(env, mmu, address)
    page = address & PAGE_MASK
    if (address & 0xFFF) + last > 0xFFF:
        return across.load(env, address, operand, code, last + 1)
    if load64(entry + layout.TLB_READ) != page:
        if is_victim(env, mmu, page, layout.TLB_READ):
            return 0
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        fault = find(block, mmu, address, LOAD)
        if fault != WALK_OK:
            if mmio.access(block, address, fault, last + 1, 0, 0):
                return block + CpuBlock.mmio_value
            raise_fault(block, address, fault, mmu, code)
        entry = fill_entry(block, env, mmu, address)
    return address + load64(entry + layout.TLB_ADDEND)


@native
def load_8(env: int, address: int, operand: int, code: int) -> int:
    """``helper_ret_ldub_mmu``."""
    host = _loadable(env, address, operand, code, 0)
    if host:
        return load8(host)
    return call4(load64(slots() + Functions.helper_ret_ldub_mmu), env, address, operand, code)


@native
def load_16(env: int, address: int, operand: int, code: int) -> int:
    """``helper_le_lduw_mmu``."""
    host = _loadable(env, address, operand, code, 1)
    if host:
        return load16(host)
    return call4(load64(slots() + Functions.helper_le_lduw_mmu), env, address, operand, code)


@native
def load_32(env: int, address: int, operand: int, code: int) -> int:
    """``helper_le_ldul_mmu``."""
    host = _loadable(env, address, operand, code, 3)
    if host:
        return load32(host)
    return call4(load64(slots() + Functions.helper_le_ldul_mmu), env, address, operand, code)


@native
def load_64(env: int, address: int, operand: int, code: int) -> int:
    """``helper_le_ldq_mmu``."""
    host = _loadable(env, address, operand, code, 7)
    if host:
        return load64(host)
    return call4(load64(slots() + Functions.helper_le_ldq_mmu), env, address, operand, code)


NOT_HERE = 0
DONE = 1


@native
def _storable(env: int, address: int, value: int, operand: int, code: int, last: int) -> int:
    """The host address for a store, NOT_HERE where the library has to do it, DONE where the hypervisor did."""
    mmu = operand & 15
    entry = entry_of(env, mmu, address)
    page = address & PAGE_MASK
    if (address & 0xFFF) + last > 0xFFF:
        return DONE if across.store(env, address, value, operand, code, last + 1) else NOT_HERE
    written = load64(entry + layout.TLB_WRITE)
    if written == page | layout.TLB_NOTDIRTY:
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        if load8(load64(block + CpuBlock.code_map) + (load64(entry + layout.TLB_PADDR) >> 12)):
            return NOT_HERE
        store64(entry + layout.TLB_WRITE, page)
    elif written != page:
        if is_victim(env, mmu, page, layout.TLB_WRITE):
            return NOT_HERE
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        fault = find(block, mmu, address, STORE)
        if fault != WALK_OK:
            if is_forbidden(block, fault, mmu) and call4(
                load64(block + CpuBlock.on_store), block, address, value, last + 1
            ):
                return DONE
            if mmio.access(block, address, fault, last + 1, 1, value):
                return DONE
            raise_fault(block, address, fault, mmu, code)
        entry = fill_entry(block, env, mmu, address)
        if load64(entry + layout.TLB_WRITE) != page:
            return NOT_HERE
    return address + load64(entry + layout.TLB_ADDEND)


@native
def storable(env: int, address: int, mmu: int) -> int:
    """The host address of guest memory that may be written at once, to the end of the page; 0 if it may not."""
    entry = entry_of(env, mmu, address)
    if load64(entry + layout.TLB_WRITE) != address & PAGE_MASK:
        return 0
    return address + load64(entry + layout.TLB_ADDEND)


@native
def store_8(env: int, address: int, value: int, operand: int, code: int) -> int:
    """``helper_ret_stb_mmu``."""
    host = _storable(env, address, value, operand, code, 0)
    if host == NOT_HERE:
        call5(load64(slots() + Functions.helper_ret_stb_mmu), env, address, value, operand, code)
    elif host != DONE:
        store8(host, value)
    return 0


@native
def store_16(env: int, address: int, value: int, operand: int, code: int) -> int:
    """``helper_le_stw_mmu``."""
    host = _storable(env, address, value, operand, code, 1)
    if host == NOT_HERE:
        call5(load64(slots() + Functions.helper_le_stw_mmu), env, address, value, operand, code)
    elif host != DONE:
        store16(host, value)
    return 0


@native
def store_32(env: int, address: int, value: int, operand: int, code: int) -> int:
    """``helper_le_stl_mmu``."""
    host = _storable(env, address, value, operand, code, 3)
    if host == NOT_HERE:
        call5(load64(slots() + Functions.helper_le_stl_mmu), env, address, value, operand, code)
    elif host != DONE:
        store32(host, value)
    return 0


@native
def store_64(env: int, address: int, value: int, operand: int, code: int) -> int:
    """``helper_le_stq_mmu``."""
    host = _storable(env, address, value, operand, code, 7)
    if host == NOT_HERE:
        call5(load64(slots() + Functions.helper_le_stq_mmu), env, address, value, operand, code)
    elif host != DONE:
        store64(host, value)
    return 0
