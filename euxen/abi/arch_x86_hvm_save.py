"""Records of an HVM or PVH domain's saved state: XEN_DOMCTL_gethvmcontext and sethvmcontext.

xen/include/public/hvm/save.h and xen/include/public/arch-x86/hvm/save.h

Each record follows a HvmSaveDescriptor. The first is HEADER, the last END, which is empty. Here are the
records of a vCPU and all typecodes (HVM_SAVE_CODE(x) in C); those of emulated devices belong with the devices.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, chars, nested, u16, u32, u64


class HvmSaveDescriptor(Structure):
    """struct hvm_save_descriptor. xen/include/public/hvm/save.h"""

    typecode: int = u16()  # HVM_SAVE_CODE_*
    instance: int = u16()  # the vCPU, for its records
    length: int = u32()  # of the record that follows, in bytes


HVM_SAVE_CODE_END = 0
HVM_SAVE_CODE_HEADER = 1
HVM_SAVE_CODE_CPU = 2
HVM_SAVE_CODE_PIC = 3
HVM_SAVE_CODE_IOAPIC = 4
HVM_SAVE_CODE_LAPIC = 5
HVM_SAVE_CODE_LAPIC_REGS = 6
HVM_SAVE_CODE_PCI_IRQ = 7
HVM_SAVE_CODE_ISA_IRQ = 8
HVM_SAVE_CODE_PCI_LINK = 9
HVM_SAVE_CODE_PIT = 10
HVM_SAVE_CODE_RTC = 11
HVM_SAVE_CODE_HPET = 12
HVM_SAVE_CODE_PMTIMER = 13
HVM_SAVE_CODE_MTRR = 14
HVM_SAVE_CODE_VIRIDIAN_DOMAIN = 15
CPU_XSAVE_CODE = 16
HVM_SAVE_CODE_VIRIDIAN_VCPU = 17
HVM_SAVE_CODE_VMCE_VCPU = 18
HVM_SAVE_CODE_TSC_ADJUST = 19
CPU_MSR_CODE = 20
HVM_SAVE_CODE_MAX = 20

HVM_FILE_MAGIC = 0x54381286
HVM_FILE_VERSION = 0x00000001


class HvmSaveHeader(Structure):
    """struct hvm_save_header. xen/include/public/arch-x86/hvm/save.h"""

    magic: int = u32(default=HVM_FILE_MAGIC)
    version: int = u32(default=HVM_FILE_VERSION)
    changeset: int = u64()
    cpuid: int = u32()  # EAX of CPUID leaf 1 of the host that saved
    gtsc_khz: int = u32()  # the guest's TSC frequency in kHz


XEN_X86_FPU_INITIALISED = 1 << 0


class HvmHwCpu(Structure):
    """struct hvm_hw_cpu. xen/include/public/arch-x86/hvm/save.h"""

    fpu_regs: bytes = chars(512)  # an FXSAVE image
    rax: int = u64()
    rbx: int = u64()
    rcx: int = u64()
    rdx: int = u64()
    rbp: int = u64()
    rsi: int = u64()
    rdi: int = u64()
    rsp: int = u64()
    r8: int = u64()
    r9: int = u64()
    r10: int = u64()
    r11: int = u64()
    r12: int = u64()
    r13: int = u64()
    r14: int = u64()
    r15: int = u64()
    rip: int = u64()
    rflags: int = u64()
    cr0: int = u64()
    cr2: int = u64()
    cr3: int = u64()
    cr4: int = u64()
    dr0: int = u64()
    dr1: int = u64()
    dr2: int = u64()
    dr3: int = u64()
    dr6: int = u64()
    dr7: int = u64()
    cs_sel: int = u32()
    ds_sel: int = u32()
    es_sel: int = u32()
    fs_sel: int = u32()
    gs_sel: int = u32()
    ss_sel: int = u32()
    tr_sel: int = u32()
    ldtr_sel: int = u32()
    cs_limit: int = u32()
    ds_limit: int = u32()
    es_limit: int = u32()
    fs_limit: int = u32()
    gs_limit: int = u32()
    ss_limit: int = u32()
    tr_limit: int = u32()
    ldtr_limit: int = u32()
    idtr_limit: int = u32()
    gdtr_limit: int = u32()
    cs_base: int = u64()
    ds_base: int = u64()
    es_base: int = u64()
    fs_base: int = u64()
    gs_base: int = u64()
    ss_base: int = u64()
    tr_base: int = u64()
    ldtr_base: int = u64()
    idtr_base: int = u64()
    gdtr_base: int = u64()
    cs_arbytes: int = u32()  # attributes, as in VcpuHvmX8632
    ds_arbytes: int = u32()
    es_arbytes: int = u32()
    fs_arbytes: int = u32()
    gs_arbytes: int = u32()
    ss_arbytes: int = u32()
    tr_arbytes: int = u32()
    ldtr_arbytes: int = u32()
    sysenter_cs: int = u64()
    sysenter_esp: int = u64()
    sysenter_eip: int = u64()
    shadow_gs: int = u64()
    msr_flags: int = u64()  # obsolete
    msr_lstar: int = u64()
    msr_star: int = u64()
    msr_cstar: int = u64()
    msr_syscall_mask: int = u64()
    msr_efer: int = u64()
    msr_tsc_aux: int = u64()
    tsc: int = u64()  # as RDTSC would give it
    pending_event: int = u32()  # bits 7:0 vector, 10:8 type, 11 error code valid, 31 valid
    error_code: int = u32()  # of the pending event
    flags: int = u32()  # XEN_X86_FPU_INITIALISED
    pad0: int = u32()


class HvmHwLapic(Structure):
    """struct hvm_hw_lapic. xen/include/public/arch-x86/hvm/save.h"""

    apic_base_msr: int = u64()
    disabled: int = u32()  # bit 0: by software; bit 1: by the MSR
    timer_divisor: int = u32()
    tdt_msr: int = u64()


class HvmHwLapicRegs(Structure):
    """struct hvm_hw_lapic_regs. xen/include/public/arch-x86/hvm/save.h"""

    data: bytes = chars(1024)


MTRR_VCNT = 8
NUM_FIXED_MSR = 11


class HvmHwMtrr(Structure):
    """struct hvm_hw_mtrr. xen/include/public/arch-x86/hvm/save.h"""

    msr_pat_cr: int = u64()
    msr_mtrr_var: tuple[int, ...] = array(u64(), MTRR_VCNT * 2)  # pairs of base and mask
    msr_mtrr_fixed: tuple[int, ...] = array(u64(), NUM_FIXED_MSR)
    msr_mtrr_cap: int = u64()
    msr_mtrr_def_type: int = u64()


class HvmHwCpuXsaveHdr(Structure):
    """struct hvm_hw_cpu_xsave_hdr. xen/include/public/arch-x86/hvm/save.h"""

    xstate_bv: int = u64()
    xcomp_bv: int = u64()
    reserved: tuple[int, ...] = array(u64(), 6)


class HvmHwCpuXsaveSaveArea(Structure):
    """save_area of struct hvm_hw_cpu_xsave. xen/include/public/arch-x86/hvm/save.h

    Further state components follow.
    """

    fpu_sse: bytes = chars(512)  # an FXSAVE image
    xsave_hdr: HvmHwCpuXsaveHdr = nested(HvmHwCpuXsaveHdr)


class HvmHwCpuXsave(Structure):
    """struct hvm_hw_cpu_xsave. xen/include/public/arch-x86/hvm/save.h"""

    xfeature_mask: int = u64()  # ignored
    xcr0: int = u64()
    xcr0_accum: int = u64()  # all that XCR0 ever had
    save_area: HvmHwCpuXsaveSaveArea = nested(HvmHwCpuXsaveSaveArea)


class HvmVmceVcpu(Structure):
    """struct hvm_vmce_vcpu. xen/include/public/arch-x86/hvm/save.h"""

    caps: int = u64()
    mci_ctl2_bank0: int = u64()
    mci_ctl2_bank1: int = u64()
    mcg_ext_ctl: int = u64()


class HvmTscAdjust(Structure):
    """struct hvm_tsc_adjust. xen/include/public/arch-x86/hvm/save.h"""

    tsc_adjust: int = u64()


class HvmOneMsr(Structure):
    """struct hvm_one_msr. xen/include/public/arch-x86/hvm/save.h"""

    index: int = u32()
    _rsvd: int = u32()
    val: int = u64()


class HvmMsr(Structure):
    """struct hvm_msr. xen/include/public/arch-x86/hvm/save.h"""

    count: int = u32()
    msr: tuple[HvmOneMsr, ...] = array(nested(HvmOneMsr), 0)  # ``count`` of them
