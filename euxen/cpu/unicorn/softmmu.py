"""Address translation and the slow path of every load and store.

The law of this file: a page table is read here and nowhere else while the guest runs, and a TLB
entry is made only by ``_fill_entry``. Kernel mode (CPL 0 to 2) and user mode (CPL 3) each have a
root of their own and a TLB of their own, so a guest that changes between them flushes nothing.

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
    copy,
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
from euxen.cpu.unicorn.library import Functions

PAGE_MASK = ~0xFFF
PTE_PRESENT, PTE_WRITE, PTE_USER, PTE_ACCESSED, PTE_DIRTY, PTE_PSE = 1, 2, 4, 0x20, 0x40, 0x80
PTE_NX = signed(1 << 63)
PTE_ADDRESS = 0x000F_FFFF_FFFF_F000

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
LOAD, STORE, FETCH = 0, 1, 2
"""MMUAccessType of the translator."""

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
    protection = PROT_READ
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
def _entry(env: int, mmu: int, address: int) -> int:
    """The TLB entry that an address falls into."""
    fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
    return load64(fast + 8) + (((address >> 12) << 6) & load64(fast))


@native
def _fill_entry(block: int, env: int, mmu: int, address: int) -> int:
    """Put the result of the last walk into the TLB; returns the entry."""
    page = address & PAGE_MASK
    desc = env + layout.ENV_TLB_DESC + mmu * layout.TLB_DESC_SIZE
    fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
    table = load64(fast + 8)
    offset = ((address >> 12) << 6) & load64(fast)
    entry = table + offset
    io = load64(desc + layout.TLB_DESC_IOTLB) + (offset >> 2)
    dirty = env + layout.ENV_TLB_DIRTY
    store16(dirty, load16(dirty) | (1 << mmu))
    old_read = load64(entry + layout.TLB_READ)
    old_code = load64(entry + layout.TLB_CODE)
    old = old_read if old_read != -1 else old_code
    if old == -1:
        used = desc + layout.TLB_DESC_USED
        store64(used, load64(used) + 1)
    elif old & PAGE_MASK != page:
        # The entry that has to go may be wanted again soon: it becomes a victim.
        number = load64(desc + layout.TLB_DESC_VINDEX)
        store64(desc + layout.TLB_DESC_VINDEX, number + 1)
        number &= layout.VICTIMS - 1
        copy(desc + layout.TLB_DESC_VTABLE + number * layout.TLB_ENTRY_SIZE, entry, layout.TLB_ENTRY_SIZE)
        copy(desc + layout.TLB_DESC_VIOTLB + number * 16, io, 16)
    _forget_victim(desc, page)
    frame = load64(block + CpuBlock.walk_frame)
    protection = load64(block + CpuBlock.walk_protection)
    writable = -1
    if protection & PROT_WRITE:
        writable = page
        if load8(load64(block + CpuBlock.code_map) + (frame >> 12)):
            writable |= layout.TLB_NOTDIRTY
        store64(load64(block + CpuBlock.writable_epoch) + (frame >> 9), load64(block + CpuBlock.tlb_epoch))
    if page < 0:
        table_frame = (load64(block + CpuBlock.walk_entry) - load64(block + CpuBlock.ram)) >> 12
        store64(load64(block + CpuBlock.kernel_epoch) + table_frame * 8, load64(block + CpuBlock.tlb_epoch))
    store64(entry + layout.TLB_READ, page)
    store64(entry + layout.TLB_WRITE, writable)
    store64(entry + layout.TLB_CODE, page if protection & PROT_EXEC else -1)
    store64(entry + layout.TLB_PADDR, frame)
    store64(entry + layout.TLB_ADDEND, load64(block + CpuBlock.ram) + frame - page)
    store64(io, frame - page)
    store64(io + 8, 0)
    return entry


@native
def translate(block: int, address: int, access: int) -> int:
    """Where the guest kernel's memory at ``address`` is in the host's, up to the end of the page; 0 if it is not.

    For the hypervisor's own access on behalf of the guest. Code that was translated from a page that
    will be written is forgotten.
    """
    env = load64(block + CpuBlock.env)
    entry = _entry(env, layout.MMU_KERNEL, address)
    kind = layout.TLB_WRITE if access == STORE else layout.TLB_READ
    if load64(entry + kind) == address & PAGE_MASK:
        return address + load64(entry + layout.TLB_ADDEND)
    if walk(block, load64(block + CpuBlock.root), address, access) != WALK_OK:
        return 0
    frame = load64(block + CpuBlock.walk_frame)
    if access == STORE and load8(load64(block + CpuBlock.code_map) + (frame >> 12)):
        call3(load64(slots() + Functions.tb_invalidate_phys_range), load64(block + CpuBlock.uc), frame, frame + 4096)
    return load64(block + CpuBlock.ram) + frame + (address & 0xFFF)


@native
def flush_tlb(block: int) -> int:
    """Forget every translation."""
    store64(block + CpuBlock.flush_pending, 0)
    store64(block + CpuBlock.tlb_epoch, load64(block + CpuBlock.tlb_epoch) + 1)
    call1(load64(slots() + Functions.tlb_flush), load64(block + CpuBlock.cpu))
    return 0


@native
def flush_page(block: int, address: int) -> int:
    """Forget the translations of one page."""
    call2(load64(slots() + Functions.tlb_flush_page), load64(block + CpuBlock.cpu), address & PAGE_MASK)
    return 0


@native
def _make_readonly(first: int, count: int, frame: int) -> int:
    """Take the permission to write from those of ``count`` TLB entries that map a frame."""
    entry = first
    for _ in range(count):
        if load64(entry + layout.TLB_PADDR) == frame and load64(entry + layout.TLB_WRITE) != -1:
            store64(entry + layout.TLB_WRITE, -1)
        entry += layout.TLB_ENTRY_SIZE
    return 0


@native
def forget_frame(block: int, frame: int) -> int:
    """Forget that a machine frame may be written, wherever it is mapped."""
    known = load64(block + CpuBlock.writable_epoch) + frame * 8
    if load64(known) == load64(block + CpuBlock.tlb_epoch):
        store64(known, 0)
        env = load64(block + CpuBlock.env)
        for mmu in range(layout.MMU_USER, layout.MMU_KERNEL + 1):
            fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
            _make_readonly(load64(fast + 8), (load64(fast) >> 6) + 1, frame << 12)
            victims = env + layout.ENV_TLB_DESC + mmu * layout.TLB_DESC_SIZE + layout.TLB_DESC_VTABLE
            _make_readonly(victims, layout.VICTIMS, frame << 12)
    return 0


@native
def switch_root(block: int, root: int) -> int:
    """Give the kernel another address space. The user's own translations go with it."""
    store64(block + CpuBlock.root, root)
    flush_tlb(block)
    return 0


@native
def switch_user_root(block: int, root: int) -> int:
    """Give the guest's programs another address space."""
    store64(block + CpuBlock.user_root, root)
    flush = load64(slots() + Functions.tlb_flush_by_mmuidx)
    call2(flush, load64(block + CpuBlock.cpu), 1 << layout.MMU_USER)
    return 0


@native
def _forget_victim(desc: int, page: int) -> int:
    """At most one entry may speak for a page: drop the victim that does."""
    victim = desc + layout.TLB_DESC_VTABLE
    for _ in range(layout.VICTIMS):
        if load64(victim + layout.TLB_READ) & PAGE_MASK == page or load64(victim + layout.TLB_CODE) & PAGE_MASK == page:
            store64(victim + layout.TLB_READ, -1)
            store64(victim + layout.TLB_WRITE, -1)
            store64(victim + layout.TLB_CODE, -1)
        victim += layout.TLB_ENTRY_SIZE
    return 0


@native
def _is_victim(env: int, mmu: int, page: int, kind: int) -> int:
    """Whether an access of this kind to a page would hit the victim TLB."""
    victim = env + layout.ENV_TLB_DESC + mmu * layout.TLB_DESC_SIZE + layout.TLB_DESC_VTABLE + kind
    for _ in range(layout.VICTIMS):
        if load64(victim) == page:
            return 1
        victim += layout.TLB_ENTRY_SIZE
    return 0


@native
def tlb_fill(cpu: int, address: int, _size: int, access: int, mmu: int, probe: int, code: int) -> int:
    """``CPUClass.tlb_fill``: fill the TLB, or have the guest fault and not return.

    ``code`` is where in the translated code the access was made, 0 if the registers are up to date.
    """
    block = load64(cpu + layout.CPU_OPAQUE)
    access &= 3
    mmu &= 3
    fault = walk(block, root_of(block, mmu), address, access)
    if fault == WALK_OK:
        _fill_entry(block, load64(block + CpuBlock.env), mmu, address)
        return 1
    if probe & 0xFF:
        return 0
    raise_fault(block, address, fault, mmu, code)
    return 0


@native
def raise_fault(block: int, address: int, fault: int, mmu: int, code: int) -> int:
    """Bring the registers up to date, let the hypervisor handle the fault, and leave the translated code."""
    cpu = load64(block + CpuBlock.cpu)
    if code:
        call3(load64(slots() + Functions.cpu_restore_state), cpu, code, 1)
    if fault == WALK_NOT_CANONICAL:
        call4(load64(block + CpuBlock.on_trap), block, 13, 0, 0)
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
    entry = _entry(env, mmu, address)
    page = address & PAGE_MASK
    if (address & 0xFFF) + last > 0xFFF:
        return 0
    if load64(entry + layout.TLB_READ) != page:
        if _is_victim(env, mmu, page, layout.TLB_READ):
            return 0
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        fault = walk(block, root_of(block, mmu), address, LOAD)
        if fault != WALK_OK:
            raise_fault(block, address, fault, mmu, code)
        entry = _fill_entry(block, env, mmu, address)
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
    entry = _entry(env, mmu, address)
    page = address & PAGE_MASK
    if (address & 0xFFF) + last > 0xFFF:
        return NOT_HERE
    written = load64(entry + layout.TLB_WRITE)
    if written == page | layout.TLB_NOTDIRTY:
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        if load8(load64(block + CpuBlock.code_map) + (load64(entry + layout.TLB_PADDR) >> 12)):
            return NOT_HERE
        store64(entry + layout.TLB_WRITE, page)
    elif written != page:
        if _is_victim(env, mmu, page, layout.TLB_WRITE):
            return NOT_HERE
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        fault = walk(block, root_of(block, mmu), address, STORE)
        if fault != WALK_OK:
            forbidden = fault > 0 and fault & PF_PRESENT and mmu != layout.MMU_USER
            if forbidden and call4(load64(block + CpuBlock.on_store), block, address, value, last + 1):
                return DONE
            raise_fault(block, address, fault, mmu, code)
        entry = _fill_entry(block, env, mmu, address)
        if load64(entry + layout.TLB_WRITE) != page:
            return NOT_HERE
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
