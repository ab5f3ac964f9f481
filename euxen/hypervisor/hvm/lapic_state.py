"""The local APIC's registers: what is pending in them. Source: xen/arch/x86/hvm/vlapic.c and irq.c.

Only looks. ``vlapic`` changes them, and wakes whom that concerns.
"""

from __future__ import annotations

from euxen.abi.xen import VcpuInfo
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import and64, load8, load32, load64, native, or64, shr, store32
from euxen.hypervisor.hvm.records import HvmDomainRecord, HVMIRQ_callback_vector, HvmVcpuRecord
from euxen.hypervisor.records import DomainRecord, VcpuRecord

APIC_ID, APIC_LVR, APIC_TASKPRI, APIC_PROCPRI, APIC_EOI = 0x20, 0x30, 0x80, 0xA0, 0xB0
APIC_LDR, APIC_DFR, APIC_SPIV, APIC_ISR, APIC_TMR, APIC_IRR = 0xD0, 0xE0, 0xF0, 0x100, 0x180, 0x200
APIC_ESR, APIC_CMCI, APIC_ICR, APIC_ICR2 = 0x280, 0x2F0, 0x300, 0x310
APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC, APIC_LVT0, APIC_LVT1, APIC_LVTERR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
APIC_TMICT, APIC_TMCCT, APIC_TDCR, APIC_SELF_IPI = 0x380, 0x390, 0x3E0, 0x3F0

APIC_VECTOR_MASK = 0xFF
APIC_LVT_MASKED = 1 << 16
APIC_BASE_BSP, APIC_BASE_EXTD, APIC_BASE_ENABLE = 1 << 8, 1 << 10, 1 << 11
VECTOR_WORDS = 8
NONE = -1


@native
def hvm_of(vcpu: int) -> int:
    """The HvmVcpuRecord of a vCPU, 0 for a PV one."""
    return load64(vcpu + VcpuRecord.hvm)


@native
def get_reg(hvm: int, register: int) -> int:
    """A register of the local APIC, by its offset in the page (vlapic_get_reg)."""
    return load32(load64(hvm + HvmVcpuRecord.vlapic_regs) + register)


@native
def set_reg(hvm: int, register: int, value: int) -> int:
    """Set one, and nothing else (vlapic_set_reg)."""
    store32(load64(hvm + HvmVcpuRecord.vlapic_regs) + register, value)
    return 0


@native
def _word_of(hvm: int, bitmap: int, vector: int) -> int:
    """Where the bit of a vector is: one 32-bit word in four holds bits, so it is in the low half of a 64-bit one."""
    return load64(hvm + HvmVcpuRecord.vlapic_regs) + bitmap + ((vector >> 5) << 4)


@native
def test_and_set_vector(hvm: int, bitmap: int, vector: int) -> int:
    """Set the bit of a vector in IRR, ISR or TMR; whether it was set. From any thread."""
    return shr(or64(_word_of(hvm, bitmap, vector), 1 << (vector & 31)), vector & 31) & 1


@native
def clear_vector(hvm: int, bitmap: int, vector: int) -> int:
    """Clear it."""
    and64(_word_of(hvm, bitmap, vector), ~(1 << (vector & 31)))
    return 0


@native
def find_highest_vector(hvm: int, bitmap: int) -> int:
    """The highest vector whose bit is set, or NONE (vlapic_find_highest_vector)."""
    number = VECTOR_WORDS - 1
    while number >= 0:
        word = get_reg(hvm, bitmap + (number << 4))
        if word:
            bit = 31
            while not shr(word, bit) & 1:
                bit -= 1
            return (number << 5) + bit
        number -= 1
    return NONE


@native
def vlapic_enabled(hvm: int) -> int:
    """Whether neither the MSR nor the spurious vector's register disables it."""
    return 0 if load64(hvm + HvmVcpuRecord.disabled) else 1


@native
def x2apic_mode(hvm: int) -> int:
    """Whether the registers are MSRs (vlapic_x2apic_mode)."""
    both = APIC_BASE_EXTD | APIC_BASE_ENABLE
    return 1 if load64(hvm + HvmVcpuRecord.apic_base_msr) & both == both else 0


@native
def get_ppr(hvm: int) -> int:
    """The priority at which the vCPU works (vlapic_get_ppr)."""
    task = get_reg(hvm, APIC_TASKPRI)
    in_service = max(find_highest_vector(hvm, APIC_ISR), 0)
    return task & 0xFF if task & 0xF0 >= in_service & 0xF0 else in_service & 0xF0


@native
def vlapic_has_pending_irq(hvm: int) -> int:
    """The vector that the local APIC has for its vCPU, or NONE. The task's priority is not looked at."""
    if not vlapic_enabled(hvm):
        return NONE
    requested = find_highest_vector(hvm, APIC_IRR)
    if requested == NONE:
        return NONE
    in_service = find_highest_vector(hvm, APIC_ISR)
    return NONE if in_service >= 0 and requested & 0xF0 <= in_service & 0xF0 else requested


@native
def deliverable_irq(hvm: int) -> int:
    """The same, and NONE where the task's priority is too high for it (hvm_interrupt_blocked)."""
    vector = vlapic_has_pending_irq(hvm)
    if vector != NONE and get_reg(hvm, APIC_TASKPRI) & 0xF0 >= vector & 0xF0:
        return NONE
    return vector


@native
def callback_pending(vcpu: int) -> int:
    """The vector by which events that are pending reach all vCPUs alike, or NONE."""
    domain = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.hvm)
    if load64(domain + HvmDomainRecord.callback_type) != HVMIRQ_callback_vector:
        return NONE
    if not load8(load64(vcpu + VcpuRecord.vcpu_info) + VcpuInfo.evtchn_upcall_pending):
        return NONE
    return load64(domain + HvmDomainRecord.callback_vector)


@native
def local_events_need_delivery(vcpu: int) -> int:
    """Whether there is an interrupt that the vCPU would take now (hvm_local_events_need_delivery)."""
    if load64(vcpu + VcpuRecord.nmi_pending):
        return 1
    block = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.block)
    if not state.rflags(block) & state.IF:
        return 0
    if callback_pending(vcpu) != NONE or deliverable_irq(hvm_of(vcpu)) != NONE:
        return 1
    return 0


@native
def guest_of(block: int) -> int:
    """The HvmVcpuRecord of the vCPU that runs."""
    return load64(load64(block + CpuBlock.vcpu) + VcpuRecord.hvm)
