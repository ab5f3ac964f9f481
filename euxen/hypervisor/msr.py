"""Model-specific registers as a PV guest sees them.

The CPU is an AMD of family 15 (``cpu.policy``), the domain one without devices, so what Xen does for other
vendors and for a hardware domain is not here. What is not named is not there: #GP.
Source: xen/arch/x86/msr.c, read_msr and write_msr in xen/arch/x86/pv/emul-priv-op.c, guest_rdmsr_xen and
guest_wrmsr_xen in xen/arch/x86/traps.c, xen/arch/x86/cpu/mcheck/vmce.c, vpmu_do_msr in xen/arch/x86/cpu/vpmu.c.
"""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi import cpufeatureset as cpu
from euxen.cpu import state
from euxen.cpu.native.language import signed
from euxen.cpu.policy import has_feature
from euxen.cpu.registers import Registers
from euxen.hypervisor import hypercall_page, time, traps
from euxen.hypervisor.emul_fast import base_of_msr, canonical
from euxen.hypervisor.fault import Fault
from euxen.hypervisor.machine import PAGE_SIZE
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm import pagetable
from euxen.hypervisor.records import TRAP_ENTRY_SIZE, VcpuRecord
from euxen.hypervisor.vcpu import Vcpu

# Intel's names, and AMD's from 0xc0000080; xen/arch/x86/include/asm/msr-index.h
MSR_P5_MC_ADDR, MSR_P5_MC_TYPE = 0x0, 0x1
MSR_IA32_TSC = 0x10
MSR_APIC_BASE = 0x1B
MSR_AMD_PATCHLEVEL = 0x8B
MSR_INTEL_PLATFORM_INFO = 0xCE
MSR_IA32_MPERF, MSR_IA32_APERF = 0xE7, 0xE8
MSR_INTEL_MISC_FEATURES_ENABLES = 0x140
MSR_IA32_MCG_CAP, MSR_IA32_MCG_STATUS, MSR_IA32_MCG_CTL = 0x179, 0x17A, 0x17B
MSR_IA32_CR_PAT = 0x277
MSR_IA32_MC0_CTL2 = 0x280
MSR_IA32_PERF_CAPABILITIES = 0x345
MSR_IA32_MC0_CTL = 0x400
MSR_EFER = 0xC000_0080
MSR_TSC_AUX = 0xC000_0103
MSR_K7_EVNTSEL0, MSR_K7_PERFCTR3 = 0xC001_0000, 0xC001_0007
MSR_K8_HWCR = 0xC001_0015
MSR_K7_FID_VID_CTL, MSR_K7_FID_VID_STATUS = 0xC001_0041, 0xC001_0042
MSR_K8_PSTATE_LIMIT, MSR_K8_PSTATE7 = 0xC001_0061, 0xC001_006B
MSR_AMD_FAM15H_EVNTSEL0, MSR_AMD_FAM15H_PERFCTR5 = 0xC001_0200, 0xC001_020B
MSR_AMD64_NB_CFG = 0xC001_001F
MSR_AMD64_DE_CFG = 0xC001_1029
XEN_MSR_FIRST, XEN_MSR_LAST = 0x4000_0000, 0x4000_02FF

APIC_BASE = 0xFEE0_0000 | 1 << 11
APIC_BASE_BSP = 1 << 8
XEN_MSR_PAT = 0x0000_0501_0007_0406
EFER_SHOWN = 0xD01
"""SCE, LME, LMA and NXE."""
PATCH_LEVEL = 0x0100_0065
AMD64_DE_CFG_LFENCE_SERIALISE = 1 << 1
GUEST_MC_BANKS = 2
MC_REGISTERS_PER_BANK = 4
ALL_ONES = (1 << 64) - 1

MCG_STATUS = 4912
"""Where the CPU's state has it."""

MC_BANK_MSRS = range(MSR_IA32_MC0_CTL, MSR_IA32_MC0_CTL + 32 * MC_REGISTERS_PER_BANK)
MC_CTL2_MSRS = range(MSR_IA32_MC0_CTL2, MSR_IA32_MC0_CTL2 + 32)
PSTATE_MSRS = {MSR_K7_FID_VID_CTL, MSR_K7_FID_VID_STATUS, *range(MSR_K8_PSTATE_LIMIT, MSR_K8_PSTATE7 + 1)}
PMU_MSRS = {
    *range(MSR_K7_EVNTSEL0, MSR_K7_PERFCTR3 + 1),
    *range(MSR_AMD_FAM15H_EVNTSEL0, MSR_AMD_FAM15H_PERFCTR5 + 1),
}
READ_AS_ZERO = {
    MSR_P5_MC_ADDR,
    MSR_P5_MC_TYPE,
    MSR_IA32_MCG_CTL,
    MSR_INTEL_PLATFORM_INFO,
    MSR_INTEL_MISC_FEATURES_ENABLES,
    MSR_IA32_PERF_CAPABILITIES,
    MSR_K8_HWCR,
    MSR_AMD64_NB_CFG,
    XEN_MSR_FIRST,
    *MC_CTL2_MSRS,
    *PSTATE_MSRS,
    *PMU_MSRS,
}
WRITES_DISCARDED = {
    MSR_IA32_MPERF,
    MSR_IA32_APERF,
    MSR_IA32_MCG_CAP,
    MSR_IA32_MCG_CTL,
    MSR_K8_HWCR,
    MSR_AMD64_NB_CFG,
    MSR_AMD64_DE_CFG,
    *MC_CTL2_MSRS,
    *PSTATE_MSRS,
    *PMU_MSRS,
}
CONSTANTS = {
    MSR_AMD_PATCHLEVEL: PATCH_LEVEL,
    MSR_IA32_MCG_CAP: GUEST_MC_BANKS,
    MSR_IA32_CR_PAT: XEN_MSR_PAT,
    MSR_AMD64_DE_CFG: AMD64_DE_CFG_LFENCE_SERIALISE,
}

Read = Callable[[Vcpu, Registers], int]
Write = Callable[[Vcpu, Registers, int], None]


def read_msr(vcpu: Vcpu, registers: Registers, index: int) -> int:
    """RDMSR from the guest's kernel. Raises Fault for a register that it does not have."""
    try:
        return _read(vcpu, registers, index)
    except Fault:
        # A kernel that cannot take #GP yet reads zero instead of dying of it.
        if _handler(vcpu, traps.TRAP_gp_fault) or index >> 16 == XEN_MSR_FIRST >> 16:
            raise
        return 0


def _handler(vcpu: Vcpu, vector: int) -> int:
    record = vcpu.record
    start = record.address - record.memory.address + VcpuRecord.offsetof("traps") + vector * TRAP_ENTRY_SIZE
    return int.from_bytes(record.memory.view[start : start + 8], "little")


def _read(vcpu: Vcpu, registers: Registers, index: int) -> int:
    if index in CONSTANTS:
        return CONSTANTS[index]
    if index in READ_AS_ZERO:
        return 0
    if base := base_of_msr(index):
        return registers.word(base)
    if index in MC_BANK_MSRS:
        return read_mc_bank(index)
    if index in READS:
        return READS[index](vcpu, registers)
    raise Fault


def read_mc_bank(index: int) -> int:
    """No machine check was ever injected: only MCi_CTL of a bank that is there reads as other than zero."""
    bank, register = divmod(index - MSR_IA32_MC0_CTL, MC_REGISTERS_PER_BANK)
    return ALL_ONES if register == 0 and bank < GUEST_MC_BANKS else 0


def _read_apic_base(vcpu: Vcpu, _registers: Registers) -> int:
    return APIC_BASE | (APIC_BASE_BSP if vcpu.vcpu_id == 0 else 0)


def _read_tsc_aux(vcpu: Vcpu, registers: Registers) -> int:
    _need(vcpu, cpu.XEN_X86_FEATURE_RDTSCP)
    return registers.word(state.TSC_AUX)


READS: dict[int, Read] = {
    MSR_IA32_TSC: lambda vcpu, _: time.tsc(vcpu.block) & ALL_ONES,
    MSR_APIC_BASE: _read_apic_base,
    MSR_IA32_MCG_STATUS: lambda _, registers: registers.word(MCG_STATUS),
    MSR_EFER: lambda _, registers: registers.word(state.EFER) & EFER_SHOWN,
    MSR_TSC_AUX: _read_tsc_aux,
}


def write_msr(vcpu: Vcpu, registers: Registers, index: int, value: int) -> None:
    """WRMSR from the guest's kernel. Raises Fault."""
    if index in WRITES_DISCARDED:
        return
    if base := base_of_msr(index):
        if not canonical(signed(value)):
            raise Fault
        registers.set_word(base, value)
    elif index in MC_BANK_MSRS:
        if not mc_bank_accepts(index, value):
            raise Fault
    elif index in WRITES:
        WRITES[index](vcpu, registers, value)
    else:
        raise Fault


def mc_bank_accepts(index: int, value: int) -> bool:
    """MCi_CTL is stuck at all ones; the others may only be cleared."""
    bank, register = divmod(index - MSR_IA32_MC0_CTL, MC_REGISTERS_PER_BANK)
    return not register or not value or bank >= GUEST_MC_BANKS


def _write_back(index: int) -> Write:
    """A register that may be written with what it holds."""

    def write(vcpu: Vcpu, registers: Registers, value: int) -> None:
        if value != _read(vcpu, registers, index):
            raise Fault

    return write


def _write_mcg_status(_vcpu: Vcpu, registers: Registers, value: int) -> None:
    registers.set_word(MCG_STATUS, value)


def _write_tsc_aux(vcpu: Vcpu, registers: Registers, value: int) -> None:
    _need(vcpu, cpu.XEN_X86_FEATURE_RDTSCP)
    if value >> 32:
        raise Fault
    registers.set_word(state.TSC_AUX, value)


def _write_hypercall_page(vcpu: Vcpu, _registers: Registers, value: int) -> None:
    """Xen's first MSR: fill the guest's frame with hypercall stubs; the bits below it name the page, 0."""
    frame, page_index = divmod(value, PAGE_SIZE)
    domain = vcpu.domain
    if page_index or frame >= domain.machine.frames:
        raise Fault
    if pagetable.get_page_and_type_from_mfn(domain.record.address, frame, pg.PGT_writable_page):
        raise Fault
    domain.machine.frame(frame)[:] = hypercall_page.pv_page()
    if domain.engine is not None:
        domain.engine.invalidate_code(frame * PAGE_SIZE, PAGE_SIZE)
    pagetable.put_page_and_type(pg.page_of(domain.machine.record.address, frame))


WRITES: dict[int, Write] = {
    # CPUID faulting, the one bit that there could be, is not offered.
    MSR_INTEL_MISC_FEATURES_ENABLES: _write_back(MSR_INTEL_MISC_FEATURES_ENABLES),
    MSR_EFER: _write_back(MSR_EFER),
    MSR_IA32_MCG_STATUS: _write_mcg_status,
    MSR_TSC_AUX: _write_tsc_aux,
    XEN_MSR_FIRST: _write_hypercall_page,
}


def _need(vcpu: Vcpu, feature: int) -> None:
    if not has_feature(vcpu.domain.cpuid, feature):
        raise Fault
