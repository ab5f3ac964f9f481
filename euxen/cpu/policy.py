"""The default CPUID policies: the CPU that a 64-bit PV guest sees, that of an HVM guest, and Xen's own leaves.

The CPU is the one that Xen 4.17 shows to PV guests on QEMU's qemu64, an AMD of family 15 that Linux
needs no costly mitigations on, plus the instructions that the translator really has. Xen hides from
PV guests what their kernels cannot use (PSE, PGE, MTRR, VME, SEP on AMD, ...): see the 'A' features of
xen/include/public/arch-x86/cpufeatureset.h, calculate_pv_def_policy and recalculate_misc in
xen/arch/x86/cpu-policy.c, and cpuid_hypervisor_leaves in xen/arch/x86/traps.c.

Not offered though the translator could: ERMS (its ``rep movsb`` goes byte by byte), 3DNow! (AMD gave it up),
RDRAND (its numbers are not random).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from euxen.abi import cpufeatureset as cpu
from euxen.abi.cpufeatureset import FEATURESET_WORDS
from euxen.abi.cpuid import (
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD,
    XEN_CPUID_LEAF,
    XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX,
    XEN_CPUID_SIGNATURE_ECX,
    XEN_CPUID_SIGNATURE_EDX,
    XEN_HVM_CPUID_DOMID_PRESENT,
    XEN_HVM_CPUID_IOMMU_MAPPINGS,
    XEN_HVM_CPUID_UPCALL_VECTOR,
    XEN_HVM_CPUID_VCPU_ID_PRESENT,
)
from euxen.cpu.cpuid import ANY_SUBLEAF, Leaf

PV_FEATURES = frozenset(
    {
        cpu.XEN_X86_FEATURE_FPU,
        cpu.XEN_X86_FEATURE_DE,
        cpu.XEN_X86_FEATURE_TSC,
        cpu.XEN_X86_FEATURE_MSR,
        cpu.XEN_X86_FEATURE_PAE,
        cpu.XEN_X86_FEATURE_MCE,
        cpu.XEN_X86_FEATURE_CX8,
        cpu.XEN_X86_FEATURE_APIC,
        cpu.XEN_X86_FEATURE_MCA,
        cpu.XEN_X86_FEATURE_CMOV,
        cpu.XEN_X86_FEATURE_PAT,
        cpu.XEN_X86_FEATURE_CLFLUSH,
        cpu.XEN_X86_FEATURE_MMX,
        cpu.XEN_X86_FEATURE_FXSR,
        cpu.XEN_X86_FEATURE_SSE,
        cpu.XEN_X86_FEATURE_SSE2,
        cpu.XEN_X86_FEATURE_SSE3,
        cpu.XEN_X86_FEATURE_PCLMULQDQ,
        cpu.XEN_X86_FEATURE_SSSE3,
        cpu.XEN_X86_FEATURE_CX16,
        cpu.XEN_X86_FEATURE_SSE4_1,
        cpu.XEN_X86_FEATURE_SSE4_2,
        cpu.XEN_X86_FEATURE_MOVBE,
        cpu.XEN_X86_FEATURE_POPCNT,
        cpu.XEN_X86_FEATURE_AESNI,
        cpu.XEN_X86_FEATURE_HYPERVISOR,
        cpu.XEN_X86_FEATURE_SYSCALL,
        cpu.XEN_X86_FEATURE_NX,
        cpu.XEN_X86_FEATURE_MMXEXT,
        cpu.XEN_X86_FEATURE_RDTSCP,
        cpu.XEN_X86_FEATURE_LM,
        cpu.XEN_X86_FEATURE_LAHF_LM,
        cpu.XEN_X86_FEATURE_ABM,
        cpu.XEN_X86_FEATURE_SSE4A,
        cpu.XEN_X86_FEATURE_3DNOWPREFETCH,
        cpu.XEN_X86_FEATURE_FSGSBASE,
        cpu.XEN_X86_FEATURE_BMI1,
        cpu.XEN_X86_FEATURE_BMI2,
        cpu.XEN_X86_FEATURE_ADX,
        cpu.XEN_X86_FEATURE_CLFLUSHOPT,
        cpu.XEN_X86_FEATURE_CLWB,
        # Properties of the engine rather than instructions: its LFENCE orders everything, and loading a null
        # selector clears the base. (RSTR_FP_ERR_PTRS is none: its FXRSTOR leaves the pointers as they were.)
        cpu.XEN_X86_FEATURE_LFENCE_DISPATCH,
        cpu.XEN_X86_FEATURE_NSCB,
    }
)
"""What a PV guest is offered by default: numbers of ``euxen.abi.cpufeatureset``."""

HVM_FEATURES = PV_FEATURES | {
    cpu.XEN_X86_FEATURE_PSE,
    cpu.XEN_X86_FEATURE_PGE,
    cpu.XEN_X86_FEATURE_SEP,
    cpu.XEN_X86_FEATURE_MTRR,
    cpu.XEN_X86_FEATURE_PAGE1GB,
    # Xen's own local APIC has these on any host.
    cpu.XEN_X86_FEATURE_X2APIC,
    cpu.XEN_X86_FEATURE_TSC_DEADLINE,
}
"""What an HVM guest is offered by default: also what its kernel has in ring 0."""

VENDOR = b"AuthenticAMD"
BRAND = b"euxen Virtual CPU"
FAMILY_MODEL_STEPPING = 0x0006_0FB1
CLFLUSH_LINES_OF_64_BYTES = 8 << 8
COMMON_1D_FEATURES = 0x0183_F3FF
"""What AMD repeats in leaf 0x80000001's EDX from leaf 1's."""

MAX_BASIC_LEAF, MAX_EXTENDED_LEAF = 0xD, 0x8000_0021
PHYSICAL_ADDRESS_BITS, LINEAR_ADDRESS_BITS = 40, 48

# Caches and TLBs as AMD describes them: 64 KiB of L1, 512 KiB of L2, 16 MiB of L3 (leaves 0x80000005 and 6).
L1_TLB, L1_CACHE, L2_TLB, L2_CACHE, L3_CACHE = 0x01FF_01FF, 0x4002_0140, 0x4200_4200, 0x0200_8140, 0x0080_8140

XEN_VERSION = 4 << 16 | 17
HYPERCALL_PAGES = 1
XEN_MSR_BASE = 0x4000_0000
PAGE_SHIFT = 12
XEN_HVM_FLAGS = (
    XEN_HVM_CPUID_IOMMU_MAPPINGS
    | XEN_HVM_CPUID_VCPU_ID_PRESENT
    | XEN_HVM_CPUID_DOMID_PRESENT
    | XEN_HVM_CPUID_UPCALL_VECTOR
)


@dataclass(frozen=True)
class Tsc:
    """The time stamp counter as Xen's leaf 3 describes it (tsc_set_info, xen/arch/x86/time.c)."""

    khz: int
    to_system_mul: int
    """ns = ticks << shift (or >> -shift) * to_system_mul >> 32, as in struct vcpu_time_info."""
    shift: int
    mode: int = 0
    """XEN_CPUID_TSC_MODE_*: 0 is the default."""
    offset: int = 0
    """What system time has to be added, in ns."""
    incarnation: int = 1
    """How often the guest has found itself on another host, counted from 1."""
    emulated: bool = False
    """Whether every RDTSC is trapped."""


def default_policy(tsc: Tsc, max_mfn: int, *, invariant_tsc: bool = False) -> list[Leaf]:
    """What CPUID tells a PV guest. ``max_mfn`` is the highest machine frame number there is.

    ``invariant_tsc`` is for a guest that will not migrate (cpuid="host:itsc=1", nomigrate).
    """
    features = PV_FEATURES | ({cpu.XEN_X86_FEATURE_ITSC} if invariant_tsc else frozenset())
    return [*cpu_leaves(features), *xen_leaves(tsc, max_mfn, rdtscp=cpu.XEN_X86_FEATURE_RDTSCP in features)]


def default_hvm_policy(tsc: Tsc, domid: int, *, invariant_tsc: bool = False) -> list[Leaf]:
    """What CPUID tells an HVM guest with one vCPU."""
    features = HVM_FEATURES | ({cpu.XEN_X86_FEATURE_ITSC} if invariant_tsc else frozenset())
    return [*cpu_leaves(features), *xen_hvm_leaves(tsc, domid)]


def xen_hvm_leaves(tsc: Tsc, domid: int) -> list[Leaf]:
    """Xen's leaves for an HVM guest: as a PV guest's, but for what HVM guests alone have, or have not."""
    leaves = {leaf.leaf - XEN_CPUID_LEAF(0): leaf for leaf in xen_leaves(tsc, 0, rdtscp=True)}
    time = [leaf for leaf in xen_leaves(tsc, 0, rdtscp=True) if leaf.leaf == XEN_CPUID_LEAF(3)]
    return [
        leaves[0],
        leaves[1],
        Leaf(XEN_CPUID_LEAF(2), HYPERCALL_PAGES, XEN_MSR_BASE),
        *time,
        Leaf(XEN_CPUID_LEAF(4), XEN_HVM_FLAGS, 0, domid, subleaf=0),
    ]


def cpu_leaves(features: Iterable[int]) -> list[Leaf]:
    """The CPU's own leaves for a set of features. Leaves that are all zero are left out."""
    words = dict.fromkeys(FEATURESET_WORDS, 0)
    for feature in features:
        words[feature // 32] |= 1 << feature % 32
    vendor_b, vendor_d, vendor_c = (int.from_bytes(VENDOR[i : i + 4], "little") for i in (0, 4, 8))
    repeated = words[0] & COMMON_1D_FEATURES
    leaves = [
        Leaf(0x0, MAX_BASIC_LEAF, vendor_b, vendor_c, vendor_d),
        Leaf(0x1, FAMILY_MODEL_STEPPING, CLFLUSH_LINES_OF_64_BYTES, words[1], words[0]),
        Leaf(0x7, 0, words[5], words[6], words[9], subleaf=0),
        Leaf(0x8000_0000, MAX_EXTENDED_LEAF, vendor_b, vendor_c, vendor_d),
        Leaf(0x8000_0001, FAMILY_MODEL_STEPPING, 0, words[3], words[2] | repeated),
        *_brand_leaves(),
        Leaf(0x8000_0005, L1_TLB, L1_TLB, L1_CACHE, L1_CACHE),
        Leaf(0x8000_0006, 0, L2_TLB, L2_CACHE, L3_CACHE),
        Leaf(0x8000_0007, edx=words[7]),
        Leaf(0x8000_0008, LINEAR_ADDRESS_BITS << 8 | PHYSICAL_ADDRESS_BITS, words[8]),
        Leaf(0x8000_0021, words[11]),
    ]
    return [leaf for leaf in leaves if leaf.eax | leaf.ebx | leaf.ecx | leaf.edx]


def _brand_leaves() -> list[Leaf]:
    """Leaves 0x80000002 to 4: 48 bytes of text."""
    text = BRAND.ljust(48, b"\0")
    words = [int.from_bytes(text[i : i + 4], "little") for i in range(0, 48, 4)]
    return [Leaf(0x8000_0002 + i, *words[i * 4 : i * 4 + 4]) for i in range(3)]


def xen_leaves(tsc: Tsc, max_mfn: int, *, rdtscp: bool) -> list[Leaf]:
    """Xen's leaves for a PV guest: signature, version, features, time, and the width of machine addresses."""
    first = XEN_CPUID_LEAF(0)
    return [
        Leaf(
            first,
            XEN_CPUID_LEAF(XEN_CPUID_MAX_NUM_LEAVES),
            XEN_CPUID_SIGNATURE_EBX,
            XEN_CPUID_SIGNATURE_ECX,
            XEN_CPUID_SIGNATURE_EDX,
        ),
        Leaf(first + 1, XEN_VERSION),
        Leaf(first + 2, HYPERCALL_PAGES, XEN_MSR_BASE, XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD),
        Leaf(first + 3, tsc.emulated | rdtscp << 2, tsc.mode, tsc.khz, tsc.incarnation, subleaf=0),
        Leaf(
            first + 3,
            tsc.offset & 0xFFFF_FFFF,
            tsc.offset >> 32 & 0xFFFF_FFFF,
            tsc.to_system_mul,
            tsc.shift & 0xFFFF_FFFF,
            subleaf=1,
        ),
        Leaf(first + 3, tsc.khz, subleaf=2),
        Leaf(first + 5, ebx=max_mfn.bit_length() + PAGE_SHIFT, subleaf=0),
    ]


def find(policy: Iterable[Leaf], leaf: int, subleaf: int = 0) -> Leaf:
    """What CPUID answers for a leaf: zeroes for one that is not there."""
    for entry in policy:
        if entry.leaf == leaf and entry.subleaf in (ANY_SUBLEAF, subleaf):
            return entry
    return Leaf(leaf)


def has_feature(policy: Iterable[Leaf], feature: int) -> bool:
    """Whether a policy offers a feature: a number of ``euxen.abi.cpufeatureset`` that CPUID shows."""
    leaf, subleaf, register = FEATURESET_WORDS[feature // 32]
    return bool(getattr(find(policy, leaf, subleaf), register) >> feature % 32 & 1)
