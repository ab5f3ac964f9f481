"""Xen's CPUID leaves. xen/include/public/arch-x86/cpuid.h

They begin at XEN_CPUID_FIRST_LEAF, or 0x100 above for an HVM guest that is shown Hyper-V's leaves first.

leaf + 0   EAX: highest Xen leaf; EBX, ECX, EDX: signature
leaf + 1   EAX: Xen's version, major << 16 | minor
leaf + 2   EAX: number of hypercall pages, 1; EBX: base of Xen's MSRs; ECX: XEN_CPUID_FEAT1_*; EDX: 0
leaf + 3   sub-leaf 0: EAX: 1 TSC emulated, 2 host TSC reliable, 4 RDTSCP; EBX: tsc_mode; ECX: guest TSC in kHz;
           EDX: incarnation. Sub-leaf 1: EAX, EBX: TSC offset; ECX: tsc_to_system_mul; EDX: tsc_shift.
           Sub-leaf 2: EAX: host TSC in kHz
leaf + 4   HVM: EAX: XEN_HVM_CPUID_*; EBX: vCPU id; ECX: domid
leaf + 5   PV: EBX[7:0]: width of machine addresses in bits
"""

XEN_CPUID_FIRST_LEAF = 0x40000000
XEN_CPUID_MAX_NUM_LEAVES = 5  # the highest, counted from the first


def XEN_CPUID_LEAF(i: int) -> int:
    """The number of Xen's i-th leaf."""
    return XEN_CPUID_FIRST_LEAF + i


# "XenVMMXenVMM"
XEN_CPUID_SIGNATURE_EBX = 0x566E6558
XEN_CPUID_SIGNATURE_ECX = 0x65584D4D
XEN_CPUID_SIGNATURE_EDX = 0x4D4D566E

XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1 << 0  # MMU_PT_UPDATE_PRESERVE_AD is there

XEN_HVM_CPUID_APIC_ACCESS_VIRT = 1 << 0  # APIC registers are virtualized in hardware
XEN_HVM_CPUID_X2APIC_VIRT = 1 << 1  # x2APIC accesses are virtualized in hardware
XEN_HVM_CPUID_IOMMU_MAPPINGS = 1 << 2  # the IOMMU also maps memory of other domains
XEN_HVM_CPUID_VCPU_ID_PRESENT = 1 << 3  # EBX holds the vCPU id
XEN_HVM_CPUID_DOMID_PRESENT = 1 << 4  # ECX holds the domid
XEN_HVM_CPUID_EXT_DEST_ID = 1 << 5  # interrupts reach APIC ids of 15 bits
XEN_HVM_CPUID_UPCALL_VECTOR = 1 << 6  # per-vCPU upcalls work with physical interrupts

XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK = 0xFF
