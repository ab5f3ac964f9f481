"""Locked instructions, atomic also to those who share memory with the guest: other guests, Xen, Domain 0.

The library translates LOCK into a plain load and store, as it runs one CPU at a time. It has atomic
functions for when several run, and ``translate_block`` has it call them. Where they give up, as on an operand
that is not aligned, the instruction is executed alone in a block of its own, with load and store after all.
The library's atomic XCHG is none; here is one that is. And its CMPXCHG8B that is executed alone stores so that
the hypervisor would not be asked to do it; ours does not.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.native.language import (
    call3,
    load32,
    load64,
    native,
    shr,
    slots,
    store32,
    store64,
    xchg8,
    xchg16,
    xchg32,
    xchg64,
)
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm.walk import WALK_MMIO
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.softmmu import (
    STORE,
    WALK_OK,
    find,
    is_forbidden,
    load_8,
    load_16,
    load_32,
    load_64,
    raise_fault,
    store_8,
    store_16,
    store_32,
    store_64,
)
from euxen.cpu.unicorn.tlb import PAGE_MASK, entry_of, fill_entry
from euxen.cpu.unicorn.translate import begin_translation

LOW = 0xFFFF_FFFF


@native
def translate_block(cpu: int, block: int, instructions: int) -> int:
    """``gen_intermediate_code``: with atomic instructions, except for one that is executed alone."""
    begin_translation(load64(cpu + layout.CPU_OPAQUE))
    context = load64(load64(cpu + layout.CPU_UC) + layout.UC_TCG_CONTEXT)
    store32(context + layout.TCG_TB_CFLAGS, load32(context + layout.TCG_TB_CFLAGS) ^ layout.CF_PARALLEL)
    # CMPXCHG8B and CMPXCHG16B go by the block's own flags.
    store32(block + layout.TB_CFLAGS, load32(block + layout.TB_CFLAGS) ^ layout.CF_PARALLEL)
    call3(load64(slots() + Functions.gen_intermediate_code), cpu, block, instructions)
    store32(block + layout.TB_CFLAGS, load32(block + layout.TB_CFLAGS) ^ layout.CF_PARALLEL)
    return 0


@native
def _exchangeable(env: int, address: int, operand: int, code: int, last: int) -> int:
    """The host address for an exchange of ``last + 1`` bytes, or 0 where it has to be a load and a store."""
    mmu = operand & 15
    entry = entry_of(env, mmu, address)
    page = address & PAGE_MASK
    if address & last:
        return 0
    if load64(entry + layout.TLB_WRITE) != page:
        block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
        # Before the load, which would fault as one.
        fault = find(block, mmu, address, STORE)
        if fault != WALK_OK:
            if not is_forbidden(block, fault, mmu) and fault != WALK_MMIO:
                raise_fault(block, address, fault, mmu, code)
            return 0
        entry = fill_entry(block, env, mmu, address)
        if load64(entry + layout.TLB_WRITE) != page:
            return 0
    return address + load64(entry + layout.TLB_ADDEND)


@native
def xchg_8(env: int, address: int, value: int, operand: int, return_address: int) -> int:
    """``helper_atomic_xchgb``."""
    host = _exchangeable(env, address, operand, return_address, 0)
    if host:
        return xchg8(host, value)
    old = load_8(env, address, operand, return_address)
    store_8(env, address, value, operand, return_address)
    return old


@native
def xchg_16(env: int, address: int, value: int, operand: int, return_address: int) -> int:
    """``helper_atomic_xchgw_le``."""
    host = _exchangeable(env, address, operand, return_address, 1)
    if host:
        return xchg16(host, value)
    old = load_16(env, address, operand, return_address)
    store_16(env, address, value, operand, return_address)
    return old


@native
def xchg_32(env: int, address: int, value: int, operand: int, return_address: int) -> int:
    """``helper_atomic_xchgl_le``."""
    host = _exchangeable(env, address, operand, return_address, 3)
    if host:
        return xchg32(host, value)
    old = load_32(env, address, operand, return_address)
    store_32(env, address, value, operand, return_address)
    return old


@native
def xchg_64(env: int, address: int, value: int, operand: int, return_address: int) -> int:
    """``helper_atomic_xchgq_le``."""
    host = _exchangeable(env, address, operand, return_address, 7)
    if host:
        return xchg64(host, value)
    old = load_64(env, address, operand, return_address)
    store_64(env, address, value, operand, return_address)
    return old


@native
def cmpxchg8b_alone(env: int, address: int, return_address: int) -> int:
    """``helper_cmpxchg8b_unlocked``."""
    mmu = layout.MMU_USER if load32(env + state.HFLAGS) & state.HF_CPL == 3 else layout.MMU_KERNEL
    arithmetic = state.rflags(load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)) & state.ARITHMETIC
    old = load_64(env, address, mmu, return_address)
    if old == (load64(env + state.RDX) << 32) | (load64(env + state.RAX) & LOW):
        value = (load64(env + state.RCX) << 32) | (load64(env + state.RBX) & LOW)
        store_64(env, address, value, mmu, return_address)
        store64(env + state.CC_SRC, arithmetic | state.ZF)
    else:
        store_64(env, address, old, mmu, return_address)
        store64(env + state.CC_SRC, arithmetic & ~state.ZF)
        store64(env + state.RAX, old & LOW)
        store64(env + state.RDX, shr(old, 32))
    return 0
