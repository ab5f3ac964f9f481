"""Interrupts for an HVM guest: what is pending, and when the engine may deliver it. Source: xen/arch/x86/hvm/irq.c.

Events are either an interrupt of the local APIC, with a vector that each vCPU has chosen, or one that needs no local
APIC: it has the vector of HVM_PARAM_CALLBACK_IRQ, goes before all others, and is pending for as long as an event is.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, call3, load32, load64, native, store32, store64
from euxen.hypervisor.hvm.lapic_state import NONE, callback_pending, deliverable_irq, hvm_of
from euxen.hypervisor.hvm.vlapic import vlapic_ack_pending_irq
from euxen.hypervisor.records import VcpuRecord
from euxen.hypervisor.time import check_deadlines

TRAP_nmi = 2


@native
def pending_vector(block: int) -> int:
    """``CpuBlock.pending_vector``."""
    vcpu = load64(block + CpuBlock.vcpu)
    vector = callback_pending(vcpu)
    if vector != NONE:
        return vector
    vector = deliverable_irq(hvm_of(vcpu))
    if vector != NONE:
        vlapic_ack_pending_irq(hvm_of(vcpu), vector)
    return vector


@native
def _inject_nmi(block: int) -> int:
    """Deliver an NMI, unless one is being handled; then it waits."""
    vcpu = load64(block + CpuBlock.vcpu)
    env = load64(block + CpuBlock.env)
    flags = load32(env + state.HFLAGS2)
    if load64(vcpu + VcpuRecord.nmi_pending) and not flags & state.HF2_NMI and not load64(block + CpuBlock.injected):
        store64(vcpu + VcpuRecord.nmi_pending, 0)
        store32(env + state.HFLAGS2, flags | state.HF2_NMI)
        call3(load64(block + CpuBlock.inject), block, TRAP_nmi, -1)
    return 0


@native
def settle(block: int) -> int:
    """Before the guest goes on: forget what it must not use any more."""
    if load64(block + CpuBlock.code_pending):
        call1(load64(block + CpuBlock.forget_written_code), block)
    if load64(block + CpuBlock.flush_pending):
        call1(load64(block + CpuBlock.flush_tlb), block)
    return _inject_nmi(block)


@native
def interrupted(block: int) -> int:
    """``CpuBlock.on_interrupt``: somebody kicked. Timers may be due, or interrupts pending."""
    check_deadlines(block)
    return settle(block)


@native
def prepare(block: int) -> int:
    """Before the engine runs: timers and interrupts that came while it did not. Clears the last exit."""
    store64(block + CpuBlock.exit_reason, 0)
    check_deadlines(block)
    settle(block)
    return load64(block + CpuBlock.exit_reason)
