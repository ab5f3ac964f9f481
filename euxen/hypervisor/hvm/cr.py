"""Control registers and EFER of an HVM guest, with Xen's checks. Source: hvm_set_cr0, hvm_set_cr3, hvm_set_cr4 and
hvm_set_efer in xen/arch/x86/hvm/hvm.c.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import Answer, CpuBlock
from euxen.cpu.native.language import call2, call3, load32, load64, native, shr, store32
from euxen.hypervisor.hvm.checks import (
    CR0_ET,
    CR0_GUEST_BITS,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
)
from euxen.hypervisor.hvm.lapic_state import guest_of
from euxen.hypervisor.hvm.records import HvmVcpuRecord
from euxen.hypervisor.hvm.vlapic_regs import write_cr8

DONE, GP = int(Answer.DONE), 13


@native
def _load(block: int, register: int, value: int) -> int:
    call3(load64(block + CpuBlock.load_cr), block, register, value)
    return DONE


@native
def _set_cr0(block: int, env: int, value: int) -> int:
    if shr(value, 32):
        return GP
    value = (value & CR0_GUEST_BITS) | CR0_ET
    if value & (CR0_PE | CR0_PG) == CR0_PG:
        return GP
    old = load64(env + state.CR0)
    efer = load64(env + state.EFER)
    if value & CR0_PG and not old & CR0_PG:
        if efer & EFER_LME and not load64(env + state.CR4) & CR4_PAE:
            return GP
    elif not value & CR0_PG and old & CR0_PG:
        if efer & EFER_LME and load32(env + state.CS + state.FLAGS) & state.DESC_L:
            return GP
    return _load(block, 0, value)


@native
def _set_cr4(block: int, env: int, value: int) -> int:
    if value & ~load64(guest_of(block) + HvmVcpuRecord.cr4_valid):
        return GP
    if not value & CR4_PAE and load64(env + state.EFER) & EFER_LMA:
        return GP
    return _load(block, 4, value)


@native
def on_cr_write(block: int, register: int, value: int) -> int:
    """``CpuBlock.on_cr_write``: DONE or the vector of a fault."""
    env = load64(block + CpuBlock.env)
    if register == 0:
        return _set_cr0(block, env, value)
    if register == 3:
        if shr(value, load64(guest_of(block) + HvmVcpuRecord.max_physical)):
            return GP
        return _load(block, 3, value)
    if register == 4:
        return _set_cr4(block, env, value)
    write_cr8(block, value)
    return DONE


@native
def set_efer(block: int, value: int) -> int:
    """MSR_EFER: DONE or the vector of a fault. Nobody sets LMA but paging."""
    env = load64(block + CpuBlock.env)
    old = load64(env + state.EFER)
    value &= ~EFER_LMA
    if value & ~load64(guest_of(block) + HvmVcpuRecord.efer_valid):
        return GP
    if (value ^ old) & EFER_LME and load64(env + state.CR0) & CR0_PG:
        return GP
    if value & EFER_LME and not old & EFER_LME:
        # Whoever has set it before long mode was there shall stay in 32-bit code.
        flags = load32(env + state.CS + state.FLAGS)
        store32(env + state.CS + state.FLAGS, flags & ~state.DESC_L)
    call2(load64(block + CpuBlock.load_efer), block, value)
    return DONE
