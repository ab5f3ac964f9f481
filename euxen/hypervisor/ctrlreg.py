"""Control registers as a PV guest sees them. Source: read_cr and write_cr in xen/arch/x86/pv/emul-priv-op.c,
pv_fixup_guest_cr4 and pv_make_cr4 in xen/arch/x86/pv/domain.c.
"""

from __future__ import annotations

import ctypes

from euxen.abi import cpufeatureset as cpu
from euxen.abi.arch_x86_xen import xen_cr3_to_pfn, xen_pfn_to_cr3
from euxen.abi.xen import VcpuInfo
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.policy import has_feature
from euxen.cpu.registers import Registers
from euxen.hypervisor import traps
from euxen.hypervisor.fault import Fault, Retry
from euxen.hypervisor.mm import mmuext
from euxen.hypervisor.mm.page import ERESTART
from euxen.hypervisor.records import VcpuRecord
from euxen.hypervisor.vcpu import Vcpu

XEN_CR0 = 0x8005_0033
"""PG, AM, WP, NE, ET, MP and PE: what Xen itself runs with. Of all CR0, only TS is a guest's to choose."""

CR4_TSD, CR4_DE, CR4_FSGSBASE, CR4_OSXSAVE = 1 << 2, 1 << 3, 1 << 16, 1 << 18
PV_CR4_GUEST_VISIBLE = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10
"""PAE, MCE, OSFXSR and OSXMMEXCPT: set by Xen, and shown to guests."""
PV_CR4_GUEST_BITS = {
    CR4_TSD: cpu.XEN_X86_FEATURE_TSC,
    CR4_DE: cpu.XEN_X86_FEATURE_DE,
    CR4_FSGSBASE: cpu.XEN_X86_FEATURE_FSGSBASE,
    CR4_OSXSAVE: cpu.XEN_X86_FEATURE_XSAVE,
}
"""What a guest may change, and the feature that it takes."""
CR4_OF_THE_CPU = CR4_TSD | CR4_FSGSBASE
"""The guest's choices that the CPU itself follows while the guest runs."""

CR2 = VcpuInfo.offsetof("arch.cr2")


def _words(vcpu: Vcpu) -> memoryview:
    record = vcpu.record
    start = record.address - record.memory.address + VcpuRecord.offsetof("ctrlreg")
    return record.memory.view[start : start + 8 * 8].cast("Q")


def env_of(vcpu: Vcpu) -> int:
    """The address of the registers, for native functions that take it."""
    return ctypes.c_uint64.from_address(vcpu.block + CpuBlock.offsetof("env")).value


def guest_cr4(vcpu: Vcpu, value: int) -> int:
    """What CR4 holds after a guest wrote ``value`` (pv_fixup_guest_cr4)."""
    policy = vcpu.domain.cpuid
    chosen = sum(bit for bit, feature in PV_CR4_GUEST_BITS.items() if value & bit and has_feature(policy, feature))
    return chosen | PV_CR4_GUEST_VISIBLE


def read_cr(vcpu: Vcpu, number: int) -> int:
    """MOV from a control register. Raises Fault for one that a PV guest does not have."""
    if number == 0:
        return XEN_CR0 | _words(vcpu)[0] & traps.CR0_TS
    if number == 2:
        return int(_words(vcpu)[2])
    if number == 3:
        return xen_pfn_to_cr3(vcpu.record["guest_table"])
    if number == 4:
        return guest_cr4(vcpu, _words(vcpu)[4])
    raise Fault


def write_cr(vcpu: Vcpu, registers: Registers, number: int, value: int) -> None:
    """MOV to a control register. Raises Fault, or Retry."""
    words = _words(vcpu)
    if number == 0:
        if (value ^ XEN_CR0) & ~traps.CR0_TS:
            raise Fault
        words[0] = XEN_CR0 | value & traps.CR0_TS
        traps.set_task_switched(env_of(vcpu), value & traps.CR0_TS)
    elif number == 2:
        words[2] = value
        registers.set_word(state.CR2, value)
        ctypes.c_uint64.from_address(vcpu.record["vcpu_info"] + CR2).value = value
    elif number == 3:
        error = mmuext.new_guest_cr3(vcpu.block, xen_cr3_to_pfn(value))
        if error == -ERESTART:
            raise Retry
        if error:
            raise Fault
    elif number == 4:
        words[4] = guest_cr4(vcpu, value)
        of_the_cpu = words[4] & CR4_OF_THE_CPU
        registers.set_word(state.CR4, registers.word(state.CR4) & ~CR4_OF_THE_CPU | of_the_cpu)
    else:
        raise Fault
