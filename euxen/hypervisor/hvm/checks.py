"""What a guest's CPU may be set to, by its CPUID policy. Source: hvm_efer_valid, hvm_cr4_guest_valid_bits and
hvm_load_cpu_ctxt in xen/arch/x86/hvm/hvm.c.
"""

from __future__ import annotations

from euxen.abi import cpufeatureset as cpu
from euxen.abi.arch_x86_hvm_save import XEN_X86_FPU_INITIALISED, HvmHwCpu
from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.cpuid import Leaf
from euxen.cpu.policy import PHYSICAL_ADDRESS_BITS, has_feature
from euxen.hypervisor.errors import XenError

EVENT_TYPE, EVENT_TYPE_RESERVED, EVENT_SOFTWARE_INTERRUPT = 7 << 8, 1 << 8, 4 << 8
EVENT_RESERVED, EVENT_VALID = 0x7FFF_F000, 1 << 31
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = (1 << bit for bit in range(6))
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR0_GUEST_BITS = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG
CR4_PAE, CR4_MCE, CR4_PCE = 1 << 5, 1 << 6, 1 << 8
CR4_BITS = {
    1 << 0 | 1 << 1: cpu.XEN_X86_FEATURE_VME,
    1 << 2: cpu.XEN_X86_FEATURE_TSC,
    1 << 3: cpu.XEN_X86_FEATURE_DE,
    1 << 4: cpu.XEN_X86_FEATURE_PSE,
    CR4_PAE: cpu.XEN_X86_FEATURE_PAE,
    1 << 7: cpu.XEN_X86_FEATURE_PGE,
    1 << 9: cpu.XEN_X86_FEATURE_FXSR,
    1 << 10: cpu.XEN_X86_FEATURE_SSE,
    1 << 11: cpu.XEN_X86_FEATURE_UMIP,
    1 << 16: cpu.XEN_X86_FEATURE_FSGSBASE,
    1 << 17: cpu.XEN_X86_FEATURE_PCID,
    1 << 18: cpu.XEN_X86_FEATURE_XSAVE,
    1 << 20: cpu.XEN_X86_FEATURE_SMEP,
    1 << 21: cpu.XEN_X86_FEATURE_SMAP,
}
"""Bits of CR4 by the feature that they need. MCE needs one of two, and PCE none."""
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_FFXSE = 1 << 0, 1 << 8, 1 << 10, 1 << 11, 1 << 14
EFER_BITS = {
    EFER_SCE: cpu.XEN_X86_FEATURE_SYSCALL,
    EFER_LME | EFER_LMA: cpu.XEN_X86_FEATURE_LM,
    EFER_NXE: cpu.XEN_X86_FEATURE_NX,
    EFER_FFXSE: cpu.XEN_X86_FEATURE_FFXSR,
}
APIC_BASE_ADDRESSES = (1 << 52) - 1 - 0xFFF
APIC_BASE_FLAGS, APIC_BASE_EXTD = 1 << 8 | 1 << 11, 1 << 10


def cr4_valid(policy: list[Leaf]) -> int:
    """The bits of CR4 that a guest may set."""
    machine_checks = has_feature(policy, cpu.XEN_X86_FEATURE_MCE) or has_feature(policy, cpu.XEN_X86_FEATURE_MCA)
    bits = sum(bit for bit, feature in CR4_BITS.items() if has_feature(policy, feature))
    return bits | CR4_PCE | (CR4_MCE if machine_checks else 0)


def efer_valid(policy: list[Leaf]) -> int:
    """The bits of EFER that a guest may set."""
    return sum(bit for bit, feature in EFER_BITS.items() if has_feature(policy, feature))


def apic_base_valid(policy: list[Leaf]) -> int:
    """The bits of MSR_APIC_BASE that there are."""
    extended = has_feature(policy, cpu.XEN_X86_FEATURE_X2APIC)
    return APIC_BASE_ADDRESSES | APIC_BASE_FLAGS | (APIC_BASE_EXTD if extended else 0)


def check_efer(policy: list[Leaf], value: int, paging: bool) -> None:
    """Raises XenError for a value of EFER that cannot be."""
    long_mode = value & EFER_LMA and not (value & EFER_LME and paging)
    if value & ~efer_valid(policy) or long_mode:
        raise XenError(XEN_EINVAL)


def check_cpu(policy: list[Leaf], state: HvmHwCpu) -> None:
    """Raises XenError for a state that no guest can be in."""
    wrong = (
        state.pad0
        or state.cr0 & ~CR0_GUEST_BITS
        or not state.cr0 & CR0_ET
        or state.cr0 & (CR0_PE | CR0_PG) == CR0_PG
        or state.cr4 & ~cr4_valid(policy)
        or (state.dr6 | state.dr7 | state.msr_tsc_aux) >> 32
        or state.cr3 >> PHYSICAL_ADDRESS_BITS
        or state.flags & ~XEN_X86_FPU_INITIALISED
    )
    if wrong:
        raise XenError(XEN_EINVAL)
    kind = state.pending_event & EVENT_TYPE
    if state.pending_event & EVENT_VALID and (
        kind == EVENT_TYPE_RESERVED or kind > EVENT_SOFTWARE_INTERRUPT or state.pending_event & EVENT_RESERVED
    ):
        raise XenError(XEN_EINVAL)
    check_efer(policy, state.msr_efer, bool(state.cr0 & CR0_PG))
