"""Model-specific registers of an HVM guest: those that are accessed now and then. What is not named is not there: #GP.

The CPU is an AMD of family 15 (``cpu.policy``). Source: guest_rdmsr and guest_wrmsr in xen/arch/x86/msr.c,
hvm_msr_read_intercept in xen/arch/x86/hvm/hvm.c, svm_msr_read_intercept in xen/arch/x86/hvm/svm/svm.c, vmce.c, and
guest_rdmsr_xen in xen/arch/x86/traps.c, each with what is beside it for writing.
"""

from __future__ import annotations

from euxen.abi import cpufeatureset as cpu
from euxen.abi.arch_x86_xen import XEN_X86_MSR_RELAXED
from euxen.cpu.native.language import signed
from euxen.cpu.policy import has_feature
from euxen.cpu.registers import MASK, Registers
from euxen.hypervisor import msr as pv
from euxen.hypervisor.hvm import hypercall_page, mtrr
from euxen.hypervisor.hvm.cpu_state import SYSENTER_CS
from euxen.hypervisor.hvm.vcpu import HvmVcpu
from euxen.hypervisor.machine import PAGE_SIZE
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.pagetable import put_page_and_type
from euxen.hypervisor.vcpu import Vcpu

MSR_IA32_TSC, MSR_IA32_TSC_ADJUST = 0x10, 0x3B
MSR_AMD_PATCHLOADER = 0xC001_0020
MSR_K8_ENABLE_C1E = 0xC001_0055
MSR_K8_SYSCFG, MSR_K8_TOP_MEM1, MSR_K8_TOP_MEM2 = 0xC001_0010, 0xC001_001A, 0xC001_001D
MSR_K8_VM_CR, MSR_K8_VM_HSAVE_PA = 0xC001_0114, 0xC001_0117
MSR_AMD64_EX_CFG, MSR_F10_BU_CFG = 0xC001_102C, 0xC001_1023
MSR_SYSENTER_CS = 0x174
MSR_IA32_DEBUGCTL, MSR_IA32_EBC_FREQUENCY_ID = 0x1D9, 0x2C
LAST_BRANCH_MSRS = set(range(0x1DB, 0x1DF))
MC4_MISC_MSRS = set(range(0xC000_0408, 0xC000_040B))
MC4_MISC_LOCKED = 1 << 61
BU_CFG_RESET = 0x1020_0020
HIGHEST_HSAVE = 0xFD_0000_0000
READ_AS_ZERO = {
    *(pv.MSR_P5_MC_ADDR, pv.MSR_P5_MC_TYPE, pv.MSR_IA32_MCG_CTL, pv.MSR_INTEL_PLATFORM_INFO),
    *(pv.MSR_INTEL_MISC_FEATURES_ENABLES, pv.MSR_K8_HWCR, pv.MSR_AMD64_NB_CFG, pv.XEN_MSR_FIRST, MSR_K8_ENABLE_C1E),
    *(MSR_K8_SYSCFG, MSR_K8_TOP_MEM1, MSR_K8_TOP_MEM2, MSR_K8_VM_CR, MSR_AMD64_EX_CFG, MSR_IA32_EBC_FREQUENCY_ID),
    *pv.MC_CTL2_MSRS,
    *pv.PMU_MSRS,
}
WRITES_DISCARDED = {
    *(pv.MSR_IA32_MCG_CAP, pv.MSR_IA32_MCG_CTL, pv.MSR_AMD64_NB_CFG, pv.MSR_AMD64_DE_CFG, MSR_AMD_PATCHLOADER),
    *(MSR_K8_SYSCFG, MSR_K8_TOP_MEM1, MSR_K8_TOP_MEM2, MSR_K8_VM_CR, MSR_AMD64_EX_CFG, MSR_F10_BU_CFG),
    *pv.MC_CTL2_MSRS,
    *pv.PMU_MSRS,
    *MC4_MISC_MSRS,
}
CONSTANTS = {
    pv.MSR_AMD_PATCHLEVEL: pv.PATCH_LEVEL,
    pv.MSR_IA32_MCG_CAP: pv.GUEST_MC_BANKS,
    pv.MSR_AMD64_DE_CFG: pv.AMD64_DE_CFG_LFENCE_SERIALISE,
    MSR_F10_BU_CFG: BU_CFG_RESET,
    **dict.fromkeys(MC4_MISC_MSRS, MC4_MISC_LOCKED),
}
KEPT = {MSR_IA32_DEBUGCTL, MSR_K8_VM_HSAVE_PA, *LAST_BRANCH_MSRS}
"""Registers that hold what was written, and do nothing: there are no branch records, and no guests of a guest's."""


OF_THE_MACHINE = pv.READ_AS_ZERO | pv.WRITES_DISCARDED | pv.CONSTANTS.keys()
"""What the machine's CPU has, were it Xen that asks."""


class NoSuchMsr(Exception):
    """The guest gets #GP."""


def read(vcpu: Vcpu, registers: Registers, index: int) -> int:
    """RDMSR. Raises NoSuchMsr."""
    hvm = _hvm(vcpu)
    if index in CONSTANTS:
        return CONSTANTS[index]
    if index in READ_AS_ZERO:
        return 0
    if index in pv.MC_BANK_MSRS:
        return pv.read_mc_bank(index)
    if index == pv.MSR_IA32_MCG_STATUS:
        return registers.word(pv.MCG_STATUS)
    if index == pv.MSR_IA32_CR_PAT:
        return hvm.mtrr.pat
    if index == MSR_IA32_TSC_ADJUST:
        return hvm.record["tsc_adjust"]
    if index in KEPT:
        return hvm.kept_msrs.get(index, 0)
    value = hvm.mtrr.read(index)
    if value is not None and has_feature(vcpu.domain.cpuid, cpu.XEN_X86_FEATURE_MTRR):
        return value
    if _is_relaxed(vcpu, index):
        return 0
    vcpu.domain.machine.printk(f"{vcpu} RDMSR 0x{index:08x} unimplemented")
    raise NoSuchMsr


def write(vcpu: Vcpu, registers: Registers, index: int, value: int) -> None:
    """WRMSR. Raises NoSuchMsr."""
    hvm = _hvm(vcpu)
    if index in WRITES_DISCARDED:
        return
    if index in pv.MC_BANK_MSRS:
        if not pv.mc_bank_accepts(index, value):
            raise NoSuchMsr
    elif index == pv.MSR_IA32_MCG_STATUS:
        registers.set_word(pv.MCG_STATUS, value)
    elif index == pv.MSR_IA32_CR_PAT:
        if not mtrr.pat_valid(value):
            raise NoSuchMsr
        hvm.mtrr.pat = value
    elif index == MSR_IA32_TSC:
        _set_tsc(vcpu, hvm, value)
    elif index == MSR_IA32_TSC_ADJUST:
        hvm.record["tsc_offset"] += value - hvm.record["tsc_adjust"]
        hvm.record["tsc_adjust"] = value
        vcpu.update_time()
    elif index == MSR_SYSENTER_CS:
        registers.set_word(SYSENTER_CS, registers.word(SYSENTER_CS) & ~0xFFFF_FFFF | value & 0xFFFF_FFFF)
    elif index == pv.MSR_INTEL_MISC_FEATURES_ENABLES:
        if value:  # CPUID faulting, the one bit that there could be, is not offered
            raise NoSuchMsr
    elif index == pv.XEN_MSR_FIRST:
        _write_hypercall_page(vcpu, value)
    elif index in KEPT:
        if index == MSR_K8_VM_HSAVE_PA and (value % PAGE_SIZE or value > HIGHEST_HSAVE):
            raise NoSuchMsr
        hvm.kept_msrs[index] = value
    elif hvm.mtrr.read(index) is not None and has_feature(vcpu.domain.cpuid, cpu.XEN_X86_FEATURE_MTRR):
        if not hvm.mtrr.write(index, value):
            raise NoSuchMsr
    elif not _is_relaxed(vcpu, index):
        vcpu.domain.machine.printk(f"{vcpu} WRMSR 0x{index:08x} val 0x{value:016x} unimplemented")
        raise NoSuchMsr


def _hvm(vcpu: Vcpu) -> HvmVcpu:
    assert vcpu.hvm is not None
    return vcpu.hvm


def _is_relaxed(vcpu: Vcpu, index: int) -> bool:
    """Whether an unknown register reads as zero for this domain, and may be written: one that the machine has."""
    return bool(vcpu.domain.config.arch.misc_flags & XEN_X86_MSR_RELAXED) and index in OF_THE_MACHINE


def _set_tsc(vcpu: Vcpu, hvm: HvmVcpu, value: int) -> None:
    """The counter is set: so is what it is ahead of the machine's (hvm_set_guest_tsc_msr)."""
    offset = value - vcpu.domain.machine.tsc_now() & MASK
    hvm.record["tsc_adjust"] += offset - hvm.record["tsc_offset"]
    hvm.record["tsc_offset"] = offset
    vcpu.update_time()


def _write_hypercall_page(vcpu: Vcpu, value: int) -> None:
    """Xen's first MSR: fill the guest's frame with hypercall stubs; the bits below it name the page, 0."""
    frame, page_index = divmod(value, PAGE_SIZE)
    domain = vcpu.domain
    if page_index:
        raise NoSuchMsr
    page = p2m.get_page_and_type_from_gfn(domain.record.address, signed(frame), pg.PGT_writable_page)
    if not page:
        raise NoSuchMsr
    hypercall_page.install(vcpu, pg.frame_of(domain.machine.record.address, page))
    put_page_and_type(page)
