"""The registers of the local APIC as the guest reads and writes them: in a page of memory, or as MSRs (x2APIC).

Source: vlapic_reg_write, vlapic_mmio_read and guest_rdmsr_x2apic with their like, and guest_wrmsr_apic_base, in
xen/arch/x86/hvm/vlapic.c.
"""

from __future__ import annotations

from euxen.abi.xen import VcpuInfo
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import load8, load64, native, shr, store64, ult
from euxen.hypervisor.hvm.lapic_state import (
    APIC_BASE_ENABLE,
    APIC_BASE_EXTD,
    APIC_CMCI,
    APIC_DFR,
    APIC_EOI,
    APIC_ESR,
    APIC_ICR,
    APIC_ICR2,
    APIC_ID,
    APIC_IRR,
    APIC_ISR,
    APIC_LDR,
    APIC_LVR,
    APIC_LVT0,
    APIC_LVT1,
    APIC_LVT_MASKED,
    APIC_LVTERR,
    APIC_LVTPC,
    APIC_LVTT,
    APIC_LVTTHMR,
    APIC_PROCPRI,
    APIC_SELF_IPI,
    APIC_SPIV,
    APIC_TASKPRI,
    APIC_TDCR,
    APIC_TMCCT,
    APIC_TMICT,
    APIC_TMR,
    APIC_VECTOR_MASK,
    get_ppr,
    get_reg,
    hvm_of,
    set_reg,
    x2apic_mode,
)
from euxen.hypervisor.hvm.records import VLAPIC_HW_DISABLED, VLAPIC_SW_DISABLED, HvmVcpuRecord
from euxen.hypervisor.hvm.vlapic import (
    APIC_DEFAULT_PHYS_BASE,
    DEST_LOGICAL,
    DEST_SELF,
    DM_MASK,
    INT_ASSERT,
    INT_LEVELTRIG,
    SHORT_MASK,
    VLAPIC_LVT_NUM,
    look_again,
    set_tdcr,
    vlapic_eoi_set,
    vlapic_ipi,
    vlapic_reset,
    vlapic_set_irq,
)
from euxen.hypervisor.hvm.vlapic_timer import (
    MODE_MASK,
    MODE_TSC_DEADLINE,
    counts,
    get_tmcct,
    may_unmask,
    timer_mode,
    update_timer,
)
from euxen.hypervisor.records import VcpuRecord
from euxen.hypervisor.time import retick

LOW = 0xFFFF_FFFF
APIC_BASE_ADDRESS = ~0xFFF
SEND_PENDING, ICR_BUSY = 1 << 12, 1 << 12
SPIV_ENABLED, SPIV_FOCUS_DISABLED = 1 << 8, 1 << 9
DFR_ONES, LDR_MASK, ICR2_MASK = 0x0FFF_FFFF, 0xFF00_0000, 0xFF00_0000
LVT_MASK = APIC_LVT_MASKED | SEND_PENDING | APIC_VECTOR_MASK
LINT_MASK = LVT_MASK | DM_MASK | 1 << 13 | 1 << 14 | 1 << 15
"""With polarity, the remote IRR and the trigger mode."""
ICR_MASK = APIC_VECTOR_MASK | DM_MASK | DEST_LOGICAL | INT_ASSERT | INT_LEVELTRIG | SHORT_MASK
MSR_X2APIC_FIRST = 0x800
GP = 13
"""What is answered where the guest gets #GP."""
OKAY = 0


def _readable() -> int:
    """A bit for each register that RDMSR reads, by its number in the MSRs."""
    single = (
        *(APIC_ID, APIC_LVR, APIC_TASKPRI, APIC_PROCPRI, APIC_LDR, APIC_SPIV, APIC_ESR, APIC_ICR, APIC_CMCI),
        *(APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC, APIC_LVT0, APIC_LVT1, APIC_LVTERR, APIC_TMICT, APIC_TMCCT, APIC_TDCR),
    )
    blocks = (first + 16 * number for first in (APIC_ISR, APIC_TMR, APIC_IRR) for number in range(8))
    return sum(1 << (register >> 4) for register in (*single, *blocks))


READABLE = _readable()
assert READABLE < 1 << 63


@native
def _lvt_mask(register: int) -> int:
    """The bits of an entry of the local vector table that can be set."""
    if register == APIC_LVTT:
        return LVT_MASK | MODE_MASK
    if register == APIC_LVTTHMR or register == APIC_LVTPC:
        return LVT_MASK | DM_MASK
    return LVT_MASK if register == APIC_LVTERR else LINT_MASK


@native
def read_register(vcpu: int, register: int) -> int:
    """A register, by its offset in the page (vlapic_read_aligned)."""
    hvm = hvm_of(vcpu)
    if register == APIC_PROCPRI:
        return get_ppr(hvm)
    if register == APIC_TMCCT:
        return get_tmcct(vcpu) if counts(timer_mode(hvm)) else 0
    if register == APIC_TMICT and not counts(timer_mode(hvm)):
        return 0
    return get_reg(hvm, register)


@native
def _write_spiv(vcpu: int, hvm: int, value: int) -> int:
    """The spurious vector's register: the local APIC is enabled or disabled by it."""
    set_reg(hvm, APIC_SPIV, value & 0x3FF)
    disabled = load64(hvm + HvmVcpuRecord.disabled)
    if not value & SPIV_ENABLED:
        store64(hvm + HvmVcpuRecord.disabled, disabled | VLAPIC_SW_DISABLED)
        for number in range(VLAPIC_LVT_NUM):
            register = APIC_LVTT + 16 * number
            set_reg(hvm, register, get_reg(hvm, register) | APIC_LVT_MASKED)
        return 0
    store64(hvm + HvmVcpuRecord.disabled, disabled & ~VLAPIC_SW_DISABLED)
    may_unmask(vcpu)
    vector = load64(hvm + HvmVcpuRecord.evtchn_upcall_vector)
    if vector and load8(load64(vcpu + VcpuRecord.vcpu_info) + VcpuInfo.evtchn_upcall_pending):
        vlapic_set_irq(vcpu, vector)
    return look_again(vcpu)


@native
def _write_lvt(vcpu: int, hvm: int, register: int, value: int) -> int:
    """An entry of the local vector table."""
    if register == APIC_LVTT:
        deadline = 1 if value & MODE_MASK == MODE_TSC_DEADLINE else 0
        if deadline != (1 if timer_mode(hvm) == MODE_TSC_DEADLINE else 0):
            set_reg(hvm, APIC_TMICT, 0)
            store64(hvm + HvmVcpuRecord.tdt_msr, 0)
        store64(hvm + HvmVcpuRecord.timer_vector, value & APIC_VECTOR_MASK)
        update_timer(vcpu, value, 0, load64(hvm + HvmVcpuRecord.timer_divisor))
    if load64(hvm + HvmVcpuRecord.disabled) & VLAPIC_SW_DISABLED:
        value |= APIC_LVT_MASKED
    value &= _lvt_mask(register)
    set_reg(hvm, register, value)
    if register == APIC_LVTT and not value & APIC_LVT_MASKED:
        may_unmask(vcpu)
    return 0


@native
def write_register(block: int, vcpu: int, register: int, value: int) -> int:
    """Write a register, by its offset in the page (vlapic_reg_write). What is read-only stays what it is."""
    hvm = hvm_of(vcpu)
    if register == APIC_EOI:
        return vlapic_eoi_set(vcpu)
    if register == APIC_ICR:
        value &= ~ICR_BUSY
        vlapic_ipi(vcpu, value, get_reg(hvm, APIC_ICR2))
        return set_reg(hvm, APIC_ICR, value)
    if register == APIC_TASKPRI:
        set_reg(hvm, APIC_TASKPRI, value & 0xFF)
        return look_again(vcpu)
    if register == APIC_ICR2:
        return set_reg(hvm, APIC_ICR2, value & ICR2_MASK)
    if register == APIC_TMICT:
        if counts(timer_mode(hvm)):
            set_reg(hvm, APIC_TMICT, value)
            update_timer(vcpu, get_reg(hvm, APIC_LVTT), 1, load64(hvm + HvmVcpuRecord.timer_divisor))
        return retick(block)
    if register == APIC_TDCR:
        old = load64(hvm + HvmVcpuRecord.timer_divisor)
        set_tdcr(hvm, value)
        update_timer(vcpu, get_reg(hvm, APIC_LVTT), 0, old)
        return retick(block)
    if register >= APIC_LVTT and register <= APIC_LVTERR:
        _write_lvt(vcpu, hvm, register, value)
        return retick(block)
    if register == APIC_SPIV:
        return _write_spiv(vcpu, hvm, value)
    if register == APIC_ID:
        return set_reg(hvm, APIC_ID, value)
    if register == APIC_LDR:
        return set_reg(hvm, APIC_LDR, value & LDR_MASK)
    if register == APIC_DFR:
        return set_reg(hvm, APIC_DFR, value | DFR_ONES)
    return 0


# The page.


@native
def in_page(hvm: int, address: int) -> int:
    """Whether a guest-physical address is in the local APIC's page (vlapic_range)."""
    if load64(hvm + HvmVcpuRecord.disabled) & VLAPIC_HW_DISABLED or x2apic_mode(hvm):
        return 0
    return 1 if (address ^ load64(hvm + HvmVcpuRecord.apic_base_msr)) & APIC_BASE_ADDRESS == 0 else 0


@native
def mmio_read(vcpu: int, address: int, size: int) -> int:
    """Read from the page; 0 where no register is, or not the whole access in one."""
    offset = address & ~APIC_BASE_ADDRESS
    inside = offset & 15
    if inside + size > 4 or offset > APIC_TDCR + 3:
        return 0
    return (read_register(vcpu, offset & ~15) >> 8 * inside) & ((1 << 8 * size) - 1)


@native
def mmio_write(block: int, vcpu: int, address: int, size: int, value: int) -> int:
    """Write to the page."""
    offset = address & ~APIC_BASE_ADDRESS
    inside = offset & 15
    register = offset & ~15
    if inside + size > 4 or register > APIC_TDCR:
        return 0
    if size < 4:
        mask = ((1 << 8 * size) - 1) << 8 * inside
        value = (read_register(vcpu, register) & ~mask) | (value << 8 * inside & mask)
    return write_register(block, vcpu, register, value & LOW)


# The MSRs.


@native
def rdmsr_x2apic(vcpu: int, msr: int) -> int:
    """A register as an MSR, or -1 for #GP (guest_rdmsr_x2apic). No register is all ones."""
    hvm = hvm_of(vcpu)
    number = msr - MSR_X2APIC_FIRST
    if not x2apic_mode(hvm) or not ult(number, 63) or not shr(READABLE, number) & 1:
        return -1
    value = read_register(vcpu, number << 4)
    if number << 4 == APIC_ICR:
        value |= get_reg(hvm, APIC_ICR2) << 32
    return value


@native
def _forbidden(register: int, value: int) -> int:
    """The bits of a value that WRMSR may not write to a register; -1 for one that it may not write."""
    if register == APIC_EOI or register == APIC_ESR:
        return value
    if register == APIC_TASKPRI:
        return value & ~0xFF
    if register == APIC_ICR:
        return value & LOW & ~ICR_MASK
    if register == APIC_SELF_IPI:
        return value & ~APIC_VECTOR_MASK
    if register == APIC_TMICT:
        return 0
    if register == APIC_SPIV:
        return value & ~(APIC_VECTOR_MASK | SPIV_ENABLED | SPIV_FOCUS_DISABLED)
    if register == APIC_TDCR:
        return value & ~0xB
    if register == APIC_CMCI:
        return value & ~(LVT_MASK | DM_MASK)
    if register >= APIC_LVTT and register <= APIC_LVTERR:
        return value & ~_lvt_mask(register)
    return -1


@native
def wrmsr_x2apic(block: int, vcpu: int, msr: int, value: int) -> int:
    """Write a register as an MSR: OKAY or GP (guest_wrmsr_x2apic)."""
    hvm = hvm_of(vcpu)
    register = (msr - MSR_X2APIC_FIRST) << 4
    if not x2apic_mode(hvm) or _forbidden(register, value):
        return GP
    if register == APIC_ICR:
        set_reg(hvm, APIC_ICR2, shr(value, 32))
    elif register == APIC_SELF_IPI:
        register = APIC_ICR
        value = DEST_SELF | (value & APIC_VECTOR_MASK)
    write_register(block, vcpu, register, value & LOW)
    return OKAY


@native
def _set_x2apic_id(vcpu: int, hvm: int) -> int:
    """In x2APIC mode number and logical destination follow from the vCPU's number."""
    number = load64(vcpu + VcpuRecord.vcpu_id) * 2
    set_reg(hvm, APIC_ID, number)
    return set_reg(hvm, APIC_LDR, (number & ~15) << 12 | 1 << (number & 15))


@native
def wrmsr_apic_base(vcpu: int, value: int) -> int:
    """MSR_APIC_BASE: OKAY or GP (guest_wrmsr_apic_base)."""
    hvm = hvm_of(vcpu)
    old = load64(hvm + HvmVcpuRecord.apic_base_msr)
    if value & ~load64(hvm + HvmVcpuRecord.apic_base_valid):
        return GP
    as_page = value & (APIC_BASE_EXTD | APIC_BASE_ENABLE) == APIC_BASE_ENABLE
    if as_page and (value ^ APIC_DEFAULT_PHYS_BASE) & APIC_BASE_ADDRESS:
        return GP
    if (old ^ value) & APIC_BASE_ENABLE:
        if value & APIC_BASE_EXTD:
            return GP
        if value & APIC_BASE_ENABLE:
            vlapic_reset(vcpu)
            disabled = load64(hvm + HvmVcpuRecord.disabled)
            store64(hvm + HvmVcpuRecord.disabled, disabled & ~VLAPIC_HW_DISABLED)
        else:
            store64(hvm + HvmVcpuRecord.disabled, load64(hvm + HvmVcpuRecord.disabled) | VLAPIC_HW_DISABLED)
    elif (old ^ value) & APIC_BASE_EXTD and old & (APIC_BASE_EXTD | APIC_BASE_ENABLE) != APIC_BASE_ENABLE:
        return GP
    store64(hvm + HvmVcpuRecord.apic_base_msr, value)
    if x2apic_mode(hvm):
        _set_x2apic_id(vcpu, hvm)
    return OKAY


@native
def write_cr8(block: int, value: int) -> int:
    """CR8 is the upper half of the task's priority."""
    vcpu = load64(block + CpuBlock.vcpu)
    set_reg(hvm_of(vcpu), APIC_TASKPRI, (value & 15) << 4)
    return look_again(vcpu)


@native
def read_cr8(block: int) -> int:
    """``CpuBlock.on_cr8_read``."""
    return get_reg(hvm_of(load64(block + CpuBlock.vcpu)), APIC_TASKPRI) >> 4 & 15
