"""The x86-64 part of the interface: registers, descriptors, address space.

xen/include/public/arch-x86/xen.h and xen/include/public/arch-x86/xen-x86_64.h

A hypercall takes its number in RAX, arguments in RDI, RSI, RDX, R10 and R8, and returns in RAX. It
is made by calling the hypercall page at 32 bytes times its number. Argument registers are clobbered.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, chars, nested, u8, u16, u32, u64

XEN_LEGACY_MAX_VCPUS = 32  # vCPUs that have their vcpu_info in shared_info

# Segment descriptor tables. Xen keeps the last pages of every GDT for itself.

FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_BYTE = FIRST_RESERVED_GDT_PAGE * 4096
FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_BYTE // 8

# Flat segments in Xen's part of every GDT. A 64-bit guest's kernel runs in ring 3, like its programs.

FLAT_RING3_CS32 = 0xE023
FLAT_RING3_CS64 = 0xE033
FLAT_RING3_DS32 = 0xE02B
FLAT_RING3_DS64 = 0x0000
FLAT_RING3_SS32 = 0xE02B
FLAT_RING3_SS64 = 0xE02B

FLAT_KERNEL_DS64 = FLAT_RING3_DS64
FLAT_KERNEL_DS32 = FLAT_RING3_DS32
FLAT_KERNEL_DS = FLAT_KERNEL_DS64
FLAT_KERNEL_CS64 = FLAT_RING3_CS64
FLAT_KERNEL_CS32 = FLAT_RING3_CS32
FLAT_KERNEL_CS = FLAT_KERNEL_CS64
FLAT_KERNEL_SS64 = FLAT_RING3_SS64
FLAT_KERNEL_SS32 = FLAT_RING3_SS32
FLAT_KERNEL_SS = FLAT_KERNEL_SS64

FLAT_USER_DS64 = FLAT_RING3_DS64
FLAT_USER_DS32 = FLAT_RING3_DS32
FLAT_USER_DS = FLAT_USER_DS64
FLAT_USER_CS64 = FLAT_RING3_CS64
FLAT_USER_CS32 = FLAT_RING3_CS32
FLAT_USER_CS = FLAT_USER_CS64
FLAT_USER_SS64 = FLAT_RING3_SS64
FLAT_USER_SS32 = FLAT_RING3_SS32
FLAT_USER_SS = FLAT_USER_SS64

# Virtual addresses that a PV guest leaves to Xen. The machine-to-physical table is readable there.

HYPERVISOR_VIRT_START = 0xFFFF800000000000
HYPERVISOR_VIRT_END = 0xFFFF880000000000
MACH2PHYS_VIRT_START = 0xFFFF800000000000
MACH2PHYS_VIRT_END = 0xFFFF804000000000
MACH2PHYS_NR_ENTRIES = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3

# HYPERVISOR_set_segment_base(which, base)

SEGBASE_FS = 0
SEGBASE_GS_USER = 1
SEGBASE_GS_KERNEL = 2
SEGBASE_GS_USER_SEL = 3  # load user GS with the selector in base[15:0]


def xen_pfn_to_cr3(pfn: int) -> int:
    """The CR3 value for a page table in frame ``pfn``."""
    return pfn << 12


def xen_cr3_to_pfn(cr3: int) -> int:
    """The frame that holds the page table of ``cr3``."""
    return cr3 >> 12


class TrapInfo(Structure):
    """struct trap_info. xen/include/public/arch-x86/xen.h

    An entry of a PV guest's virtual IDT. HYPERVISOR_set_trap_table takes an array of these that ends
    with an ``address`` of 0.
    """

    vector: int = u8()
    flags: int = u8()  # bits 0-1: privilege that INT needs (3: programs too); bit 2: mask events on entry
    cs: int = u16()
    address: int = u64()


class IretContext(Structure):
    """struct iret_context. xen/include/public/arch-x86/xen-x86_64.h

    What HYPERVISOR_iret takes from the kernel's stack, lowest address first. The RPL of ``cs`` says
    whether to return to the kernel (0 to 2) or to a program (3).
    """

    rax: int = u64()
    r11: int = u64()
    rcx: int = u64()
    flags: int = u64()  # VGCF_in_syscall: restore rax, rip, rflags, rsp; discard r11, rcx, cs, ss
    rip: int = u64()
    cs: int = u64()
    rflags: int = u64()
    rsp: int = u64()
    ss: int = u64()


class CpuUserRegs(Structure):
    """struct cpu_user_regs. xen/include/public/arch-x86/xen-x86_64.h"""

    r15: int = u64()
    r14: int = u64()
    r13: int = u64()
    r12: int = u64()
    rbp: int = u64()
    rbx: int = u64()
    r11: int = u64()
    r10: int = u64()
    r9: int = u64()
    r8: int = u64()
    rax: int = u64()
    rcx: int = u64()
    rdx: int = u64()
    rsi: int = u64()
    rdi: int = u64()
    error_code: int = u32()  # Xen's own
    entry_vector: int = u32()  # Xen's own
    rip: int = u64()
    cs: int = u16()
    _pad0: tuple[int, ...] = array(u16(), 1)
    saved_upcall_mask: int = u8()  # evtchn_upcall_mask of the interrupted code; rflags.IF is its inverse
    _pad1: tuple[int, ...] = array(u8(), 3)
    rflags: int = u64()
    rsp: int = u64()
    ss: int = u16()
    _pad2: tuple[int, ...] = array(u16(), 3)
    es: int = u16()
    _pad3: tuple[int, ...] = array(u16(), 3)
    ds: int = u16()
    _pad4: tuple[int, ...] = array(u16(), 3)
    fs: int = u16()
    _pad5: tuple[int, ...] = array(u16(), 3)
    gs: int = u16()
    _pad6: tuple[int, ...] = array(u16(), 3)


# vcpu_guest_context.flags
VGCF_i387_valid = 1 << 0  # fpu_ctxt holds something
VGCF_in_kernel = 1 << 2  # the vCPU is in kernel mode
VGCF_failsafe_disables_events = 1 << 3
VGCF_syscall_disables_events = 1 << 4
VGCF_online = 1 << 5  # the vCPU is up
VGCF_I387_VALID = VGCF_i387_valid
VGCF_IN_KERNEL = VGCF_in_kernel

# iret_context.flags
VGCF_in_syscall = 1 << 8
VGCF_IN_SYSCALL = VGCF_in_syscall


class VcpuGuestContext(Structure):
    """struct vcpu_guest_context. xen/include/public/arch-x86/xen.h

    The whole state of a PV vCPU. Of an HVM one only ``fpu_ctxt``, ``flags``, ``user_regs`` and
    ``debugreg`` are used.
    """

    fpu_ctxt: bytes = chars(512)  # an FXSAVE image
    flags: int = u64()  # VGCF_*
    user_regs: CpuUserRegs = nested(CpuUserRegs)
    trap_ctxt: tuple[TrapInfo, ...] = array(nested(TrapInfo), 256)
    ldt_base: int = u64()  # virtual address
    ldt_ents: int = u64()
    gdt_frames: tuple[int, ...] = array(u64(), 16)  # machine frames
    gdt_ents: int = u64()
    kernel_ss: int = u64()
    kernel_sp: int = u64()
    ctrlreg: tuple[int, ...] = array(u64(), 8)  # CR0 to CR7; [1] is the page table of user mode, as a CR3 value
    debugreg: tuple[int, ...] = array(u64(), 8)
    event_callback_eip: int = u64()
    failsafe_callback_eip: int = u64()
    syscall_callback_eip: int = u64()
    vm_assist: int = u64()  # bit map of VMASST_TYPE_*
    fs_base: int = u64()
    gs_base_kernel: int = u64()
    gs_base_user: int = u64()


class ArchVcpuInfo(Structure):
    """struct arch_vcpu_info. xen/include/public/arch-x86/xen-x86_64.h"""

    cr2: int = u64()  # the address of the last page fault
    pad: int = u64()


class ArchSharedInfo(Structure):
    """struct arch_shared_info. xen/include/public/arch-x86/xen.h

    Where the guest tells tools how to find its p2m. The three p2m_* fields count where p2m_cr3 is not 0.
    """

    max_pfn: int = u64()  # number of valid entries in the p2m
    pfn_to_mfn_frame_list_list: int = u64()  # mfn of the p2m tree's root; 0: not yet there, ~0: never
    nmi_reason: int = u64()  # XEN_NMIREASON_*
    p2m_cr3: int = u64()  # the address space in which p2m_vaddr lies
    p2m_vaddr: int = u64()  # virtual address of the linear p2m
    p2m_generation: int = u64()  # counts changes; odd during one


# xen_arch_domainconfig.emulation_flags
XEN_X86_EMU_LAPIC = 1 << 0
XEN_X86_EMU_HPET = 1 << 1
XEN_X86_EMU_PM = 1 << 2
XEN_X86_EMU_RTC = 1 << 3
XEN_X86_EMU_IOAPIC = 1 << 4
XEN_X86_EMU_PIC = 1 << 5
XEN_X86_EMU_VGA = 1 << 6
XEN_X86_EMU_IOMMU = 1 << 7
XEN_X86_EMU_PIT = 1 << 8
XEN_X86_EMU_USE_PIRQ = 1 << 9
XEN_X86_EMU_VPCI = 1 << 10
XEN_X86_EMU_ALL = (1 << 11) - 1

# xen_arch_domainconfig.misc_flags
XEN_X86_MSR_RELAXED = 1 << 0  # unhandled MSRs read as zero or ignore writes, where Xen would raise #GP
XEN_X86_MISC_FLAGS_MAX = XEN_X86_MSR_RELAXED


class XenArchDomainconfig(Structure):
    """struct xen_arch_domainconfig. xen/include/public/arch-x86/xen.h"""

    emulation_flags: int = u32()  # XEN_X86_EMU_*
    misc_flags: int = u32()  # XEN_X86_MSR_RELAXED


XEN_CPUID_NO_SUBLEAF = 0xFFFFFFFF


class XenCpuidLeaf(Structure):
    """struct xen_cpuid_leaf. xen/include/public/arch-x86/xen.h"""

    leaf: int = u32()
    subleaf: int = u32()  # XEN_CPUID_NO_SUBLEAF where the leaf has none
    a: int = u32()
    b: int = u32()
    c: int = u32()
    d: int = u32()


class XenMsrEntry(Structure):
    """struct xen_msr_entry. xen/include/public/arch-x86/xen.h"""

    idx: int = u32()
    flags: int = u32()  # must be 0
    val: int = u64()


XEN_EMULATE_PREFIX = bytes.fromhex("0f 0b 78 65 6e")  # UD2 "xen": Xen emulates the CPUID that follows

XEN_HVM_DEBUGCONS_IOPORT = 0xE9  # characters written there appear on Xen's console
