"""Interrupts and injected exceptions: between two blocks of an HVM guest's code.

While an interrupt pends that the guest does not take, because of IF or a shadow, the library is asked to come here
again: it does so after each instruction that may change that.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, call3, load32, load64, native, shr, slots, store32, store64
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm import delivery
from euxen.cpu.unicorn.hvm.exceptions import NO_ERROR_CODE, fault
from euxen.cpu.unicorn.library import Functions

LEAVE_BLOCKS = 0xFFFF_0000


@native
def settle(block: int) -> int:
    """The hypervisor has had control: what others have changed is seen from here on."""
    if load64(block + CpuBlock.code_pending):
        call1(load64(block + CpuBlock.forget_written_code), block)
    if load64(block + CpuBlock.flush_pending):
        call1(load64(block + CpuBlock.flush_tlb), block)
    return 0


@native
def ask(block: int) -> int:
    """Have ``exec_interrupt`` called before the next block of code."""
    store32(load64(block + CpuBlock.cpu) + layout.CPU_INTERRUPT_REQUEST, layout.CPU_INTERRUPT_HARD)
    store32(load64(block + CpuBlock.env) + layout.ENV_ICOUNT_DECR, LEAVE_BLOCKS)
    return 0


@native
def inject(block: int, vector: int, error_code: int) -> int:
    """``CpuBlock.inject``."""
    store64(block + CpuBlock.injected, vector + 1)
    store64(block + CpuBlock.injected_error, error_code)
    return ask(block)


@native
def exec_interrupt(cpu: int, _request: int) -> int:
    """``CPUClass.cpu_exec_interrupt``: whether the guest goes on elsewhere."""
    block = load64(cpu + layout.CPU_OPAQUE)
    env = load64(block + CpuBlock.env)
    # Before the questions: who kicks from another thread makes them be asked again.
    store32(cpu + layout.CPU_INTERRUPT_REQUEST, 0)
    if load64(block + CpuBlock.kicked):
        store64(block + CpuBlock.kicked, 0)
        if load64(block + CpuBlock.exit_reason) == 0:  # else it comes back anyway, and nobody may ask for anything else
            call1(load64(block + CpuBlock.on_interrupt), block)
    settle(block)
    if load64(block + CpuBlock.exit_reason):
        return 1
    injected = load64(block + CpuBlock.injected)
    if injected:
        store64(block + CpuBlock.injected, 0)
        error_code = load64(block + CpuBlock.injected_error)
        fault(block, injected - 1, 0 if error_code == NO_ERROR_CODE else error_code, 0)
    if not load64(env + state.EFLAGS) & state.IF or load32(env + state.HFLAGS) & state.HF_INHIBIT_IRQ:
        store32(cpu + layout.CPU_INTERRUPT_REQUEST, layout.CPU_INTERRUPT_HARD)
        return 0
    vector = call1(load64(block + CpuBlock.pending_vector), block)
    if vector >= 0:
        # There may be another one after it.
        store32(cpu + layout.CPU_INTERRUPT_REQUEST, layout.CPU_INTERRUPT_HARD)
        store64(block + CpuBlock.delivering, 1)
        if load32(env + state.HFLAGS) & state.HF_LMA:
            problem = delivery.deliver(block, env, vector & 0xFF, 0, delivery.INTERRUPT, 0)
            if problem:
                fault(block, problem & 0xFF, shr(problem, 8), 0)
        else:
            call3(load64(slots() + Functions.do_interrupt_x86_hardirq), env, vector & 0xFF, 1)
        store64(block + CpuBlock.delivering, 0)
    return 1
