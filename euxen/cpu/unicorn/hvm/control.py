"""Control registers and EFER: what follows from them for the translator and its TLBs.

What may be written to them is the hypervisor's to check. Whatever is written has a meaning here that does not harm
the host.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, load32, load64, native, slots, store32, store64
from euxen.cpu.unicorn import jumps, layout, tlb
from euxen.cpu.unicorn.hvm import large
from euxen.cpu.unicorn.hvm.walk import CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_NXE, LOW
from euxen.cpu.unicorn.library import Functions

CR0_PE, CR0_ET = 1, 1 << 4
CR0_FPU_SHIFT, HF_FPU = 8, 0xE00
"""MP, EM and TS are three bits of CR0 and of the translator's mode."""
CR4_OSFXSR, HF_OSFXSR = 1 << 9, 1 << 22
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
DESC_TSS_BUSY = 1 << 9


@native
def forget_all(block: int) -> int:
    """Forget every translation."""
    large.forget(block)
    return tlb.forget_all(block)


@native
def flush_page(block: int, address: int) -> int:
    """``CpuBlock.flush_page`` of an HVM guest: the page at an address, of whatever size it is."""
    size = large.size_at(block, address)
    if size == large.LARGER:
        return forget_all(block)
    if size == large.LARGE:
        tlb.drop_region(block, address, large.REGION_SHIFT)
        return jumps.forget_all(block)
    return tlb.flush_page(block, address)


@native
def derive_mode(env: int, cpl: int) -> int:
    """The translator's mode, from the control registers, the segments and a CPL."""
    cr0 = load64(env + state.CR0)
    hflags = load32(env + state.HFLAGS) & state.HF_INHIBIT_IRQ
    hflags |= (cr0 << CR0_FPU_SHIFT) & HF_FPU
    if load64(env + state.CR4) & CR4_OSFXSR:
        hflags |= HF_OSFXSR
    if load64(env + state.EFER) & EFER_LMA:
        hflags |= state.HF_LMA
    if cr0 & CR0_PE:
        hflags |= state.HF_PE
        store32(env + state.HFLAGS, hflags)
        state.update_hflags(env, cpl)
        if load64(env + state.EFLAGS) & state.VM:
            store32(env + state.HFLAGS, load32(env + state.HFLAGS) | state.HF_ADDSEG)
    else:
        store32(env + state.HFLAGS, hflags)
        state.update_hflags(env, 0)
        store32(env + state.HFLAGS, load32(env + state.HFLAGS) | state.HF_ADDSEG)
    return 0


@native
def _cpl(env: int) -> int:
    return load32(env + state.HFLAGS) & state.HF_CPL


@native
def _decide_long_mode(env: int) -> int:
    """Bring CR0 into a form that there can be, and set EFER.LMA by it."""
    cr0 = (load64(env + state.CR0) & LOW) | CR0_ET
    if not cr0 & CR0_PE:
        cr0 &= ~CR0_PG
    efer = load64(env + state.EFER) & ~EFER_LMA
    if cr0 & CR0_PG and efer & EFER_LME and load64(env + state.CR4) & CR4_PAE:
        efer |= EFER_LMA
    store64(env + state.CR0, cr0)
    store64(env + state.EFER, efer)
    return 0


@native
def _load_cr0(block: int, env: int, value: int) -> int:
    changed = value ^ load64(env + state.CR0)
    store64(env + state.CR0, (value & LOW) | CR0_ET)
    was_long = load64(env + state.EFER) & EFER_LMA
    if changed & (CR0_PG | CR0_PE):
        _decide_long_mode(env)
        if was_long and not load64(env + state.EFER) & EFER_LMA:
            store64(env + state.RIP, load64(env + state.RIP) & LOW)
    if changed & (CR0_PG | CR0_WP | CR0_PE):
        forget_all(block)
    return derive_mode(env, _cpl(env))


@native
def _load_cr4(block: int, env: int, value: int) -> int:
    changed = value ^ load64(env + state.CR4)
    store64(env + state.CR4, value)
    if changed & (CR4_PGE | CR4_PAE | CR4_PSE):
        forget_all(block)
    return derive_mode(env, _cpl(env))


@native
def _load_cr3(block: int, env: int, value: int) -> int:
    store64(env + state.CR3, value)
    return tlb.forget_transient(block)


@native
def load_cr(block: int, register: int, value: int) -> int:
    """``CpuBlock.load_cr``."""
    env = load64(block + CpuBlock.env)
    if register == 0:
        return _load_cr0(block, env, value)
    if register == 3:
        return _load_cr3(block, env, value)
    if register == 4:
        return _load_cr4(block, env, value)
    return 0


@native
def load_efer(block: int, value: int) -> int:
    """``CpuBlock.load_efer``."""
    env = load64(block + CpuBlock.env)
    old = load64(env + state.EFER)
    store64(env + state.EFER, (value & ~EFER_LMA) | (old & EFER_LMA))
    if (value ^ old) & EFER_NXE:
        forget_all(block)
    return 0


@native
def registers_loaded(block: int) -> int:
    """``CpuBlock.registers_loaded``."""
    env = load64(block + CpuBlock.env)
    # The library takes a TR for what LTR has read, before it was marked as busy.
    store32(env + state.TR + state.FLAGS, load32(env + state.TR + state.FLAGS) & ~DESC_TSS_BUSY)
    _decide_long_mode(env)
    if load64(env + state.EFER) & EFER_LMA:
        store64(env + state.EFLAGS, load64(env + state.EFLAGS) & ~state.VM)
    cpl = (load32(env + state.SS + state.FLAGS) >> state.DESC_DPL_SHIFT) & 3
    derive_mode(env, 3 if load64(env + state.EFLAGS) & state.VM else cpl)
    store32(env + layout.ENV_OLD_EXCEPTION, layout.NO_EXCEPTION)
    call1(load64(slots() + Functions.update_fp_status), env)
    call1(load64(slots() + Functions.update_mxcsr_status), env)
    return forget_all(block)


@native
def flush(block: int) -> int:
    """``CpuBlock.flush_tlb`` of an HVM guest: the p2m may have changed, under the global pages too."""
    store64(block + CpuBlock.flush_pending, 0)
    return forget_all(block)


@native
def update_cr3(env: int, value: int) -> int:
    """``cpu_x86_update_cr3``, for task switches."""
    return load_cr(load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE), 3, value)
