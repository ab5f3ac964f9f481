"""Model-specific registers of an HVM guest: those that kernels use all the time. ``msr_rare`` has the others.

Source: hvm_msr_read_intercept and hvm_msr_write_intercept in xen/arch/x86/hvm/hvm.c, svm_msr_read_intercept and its
like in xen/arch/x86/hvm/svm/svm.c.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import Answer, CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import load64, native, shr, store64
from euxen.hypervisor import time
from euxen.hypervisor.emul_fast import canonical
from euxen.hypervisor.hvm.cpu_state import SYSENTER_CS, SYSENTER_EIP, SYSENTER_ESP
from euxen.hypervisor.hvm.cr import set_efer
from euxen.hypervisor.hvm.lapic_state import guest_of
from euxen.hypervisor.hvm.records import VLAPIC_HW_DISABLED, HvmVcpuRecord
from euxen.hypervisor.hvm.vlapic_regs import GP, rdmsr_x2apic, wrmsr_apic_base, wrmsr_x2apic
from euxen.hypervisor.hvm.vlapic_timer import MODE_TSC_DEADLINE, set_tdt, timer_mode
from euxen.hypervisor.time import retick

DONE, EXIT = int(Answer.DONE), int(Answer.EXIT)
EXIT_EMULATE = int(ExitReason.EMULATE)
LOW = 0xFFFF_FFFF
READ, WRITE = 0, 1
"""What ``exit_info`` says of an access that Python handles; the register is in ``exit_detail``."""

MSR_IA32_TSC, MSR_APIC_BASE, MSR_IA32_TSC_DEADLINE = 0x10, 0x1B, 0x6E0
MSR_X2APIC_FIRST, MSR_X2APIC_LAST = 0x800, 0x8FF
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP = 0x174, 0x175, 0x176
MSR_EFER, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SYSCALL_MASK = 0xC000_0080, *range(0xC000_0081, 0xC000_0085)
MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE, MSR_TSC_AUX = range(0xC000_0100, 0xC000_0104)


@native
def tsc(block: int) -> int:
    """``CpuBlock.on_tsc``: the guest's counter (hvm_get_guest_tsc)."""
    return time.tsc(block) + load64(guest_of(block) + HvmVcpuRecord.tsc_offset)


@native
def _place_of(msr: int) -> int:
    """Where the CPU's state has a register that is no more than 64 bits of it; 0 for others."""
    if msr == MSR_FS_BASE:
        return state.FS + state.BASE
    if msr == MSR_GS_BASE:
        return state.GS + state.BASE
    if msr == MSR_SHADOW_GS_BASE:
        return state.KERNEL_GS_BASE
    if msr == MSR_LSTAR:
        return state.LSTAR
    if msr == MSR_CSTAR:
        return state.CSTAR
    if msr == MSR_STAR:
        return state.STAR
    if msr == MSR_SYSCALL_MASK:
        return state.FMASK
    if msr == MSR_SYSENTER_ESP:
        return SYSENTER_ESP
    return SYSENTER_EIP if msr == MSR_SYSENTER_EIP else 0


@native
def _is_address(msr: int) -> int:
    """Whether such a register takes canonical addresses alone."""
    return 0 if msr == MSR_STAR or msr == MSR_SYSCALL_MASK else 1


@native
def _answer(env: int, value: int) -> int:
    store64(env + state.RAX, value & LOW)
    store64(env + state.RDX, shr(value, 32))
    return DONE


@native
def _defer(block: int, msr: int, kind: int) -> int:
    """Have Python do it."""
    store64(block + CpuBlock.exit_detail, msr)
    request_exit(block, EXIT_EMULATE, kind)
    return EXIT


@native
def on_rdmsr(block: int, msr: int) -> int:
    """``CpuBlock.on_rdmsr``."""
    env = load64(block + CpuBlock.env)
    vcpu = load64(block + CpuBlock.vcpu)
    hvm = guest_of(block)
    place = _place_of(msr)
    if place:
        return _answer(env, load64(env + place))
    if msr >= MSR_X2APIC_FIRST and msr <= MSR_X2APIC_LAST:
        value = rdmsr_x2apic(vcpu, msr)
        return GP if value == -1 else _answer(env, value)
    if msr == MSR_IA32_TSC:
        return _answer(env, tsc(block))
    if msr == MSR_IA32_TSC_DEADLINE:
        armed = timer_mode(hvm) == MODE_TSC_DEADLINE
        return _answer(env, load64(hvm + HvmVcpuRecord.tdt_msr) if armed else 0)
    if msr == MSR_EFER:
        return _answer(env, load64(env + state.EFER))
    if msr == MSR_APIC_BASE:
        return _answer(env, load64(hvm + HvmVcpuRecord.apic_base_msr))
    if msr == MSR_SYSENTER_CS:
        return _answer(env, load64(env + SYSENTER_CS) & LOW)
    if msr == MSR_TSC_AUX and load64(hvm + HvmVcpuRecord.has_rdtscp):
        return _answer(env, load64(env + state.TSC_AUX))
    return _defer(block, msr, READ)


@native
def _write_tdt(block: int, vcpu: int, hvm: int, value: int) -> int:
    """MSR_IA32_TSC_DEADLINE (vlapic_tdt_msr_set)."""
    if load64(hvm + HvmVcpuRecord.disabled) & VLAPIC_HW_DISABLED or timer_mode(hvm) != MODE_TSC_DEADLINE:
        return DONE
    set_tdt(vcpu, value, tsc(block))
    retick(block)
    return DONE


@native
def on_wrmsr(block: int, msr: int, value: int) -> int:
    """``CpuBlock.on_wrmsr``."""
    env = load64(block + CpuBlock.env)
    vcpu = load64(block + CpuBlock.vcpu)
    place = _place_of(msr)
    if place:
        if _is_address(msr) and not canonical(value):
            return GP
        store64(env + place, value)
        return DONE
    if msr >= MSR_X2APIC_FIRST and msr <= MSR_X2APIC_LAST:
        return wrmsr_x2apic(block, vcpu, msr, value)
    if msr == MSR_IA32_TSC_DEADLINE:
        return _write_tdt(block, vcpu, guest_of(block), value)
    if msr == MSR_EFER:
        return set_efer(block, value)
    if msr == MSR_APIC_BASE:
        return wrmsr_apic_base(vcpu, value)
    if msr == MSR_TSC_AUX and load64(guest_of(block) + HvmVcpuRecord.has_rdtscp):
        if shr(value, 32):
            return GP
        store64(env + state.TSC_AUX, value)
        return DONE
    return _defer(block, msr, WRITE)
