"""Hypercalls, virtual interrupts, MMU operations, shared and start-of-day data. xen/include/public/xen.h

With the interface version of xen/include/public/xen-compat.h.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import XEN_LEGACY_MAX_VCPUS, ArchSharedInfo, ArchVcpuInfo
from euxen.abi.structure import Structure, Union, array, chars, nested, s8, u8, u16, u32, u64

XEN_LATEST_INTERFACE_VERSION = 0x00040E00

# Hypercall numbers: __HYPERVISOR_* in C.

HYPERVISOR_set_trap_table = 0
HYPERVISOR_mmu_update = 1
HYPERVISOR_set_gdt = 2
HYPERVISOR_stack_switch = 3
HYPERVISOR_set_callbacks = 4
HYPERVISOR_fpu_taskswitch = 5
HYPERVISOR_sched_op_compat = 6
HYPERVISOR_platform_op = 7
HYPERVISOR_set_debugreg = 8
HYPERVISOR_get_debugreg = 9
HYPERVISOR_update_descriptor = 10
HYPERVISOR_memory_op = 12
HYPERVISOR_multicall = 13
HYPERVISOR_update_va_mapping = 14
HYPERVISOR_set_timer_op = 15
HYPERVISOR_event_channel_op_compat = 16
HYPERVISOR_xen_version = 17
HYPERVISOR_console_io = 18
HYPERVISOR_physdev_op_compat = 19
HYPERVISOR_grant_table_op = 20
HYPERVISOR_vm_assist = 21
HYPERVISOR_update_va_mapping_otherdomain = 22
HYPERVISOR_iret = 23
HYPERVISOR_vcpu_op = 24
HYPERVISOR_set_segment_base = 25
HYPERVISOR_mmuext_op = 26
HYPERVISOR_xsm_op = 27
HYPERVISOR_nmi_op = 28
HYPERVISOR_sched_op = 29
HYPERVISOR_callback_op = 30
HYPERVISOR_xenoprof_op = 31
HYPERVISOR_event_channel_op = 32
HYPERVISOR_physdev_op = 33
HYPERVISOR_hvm_op = 34
HYPERVISOR_sysctl = 35
HYPERVISOR_domctl = 36
HYPERVISOR_kexec_op = 37
HYPERVISOR_tmem_op = 38
HYPERVISOR_argo_op = 39
HYPERVISOR_xenpmu_op = 40
HYPERVISOR_dm_op = 41
HYPERVISOR_hypfs_op = 42

HYPERVISOR_arch_0 = 48
HYPERVISOR_arch_1 = 49
HYPERVISOR_arch_2 = 50
HYPERVISOR_arch_3 = 51
HYPERVISOR_arch_4 = 52
HYPERVISOR_arch_5 = 53
HYPERVISOR_arch_6 = 54
HYPERVISOR_arch_7 = 55

# Virtual interrupts. V: one per vCPU, bound once. G: one per guest, first bound on vCPU 0, may be moved.

VIRQ_TIMER = 0  # V: a timeout that was asked for, or the timebase changed
VIRQ_DEBUG = 1  # V: dump debugging information
VIRQ_CONSOLE = 2  # G, Domain 0: input on the emergency console
VIRQ_DOM_EXC = 3  # G, Domain 0: something happened to a domain
VIRQ_TBUF = 4  # G, Domain 0: the trace buffer has records
VIRQ_DEBUGGER = 6  # G, Domain 0: a domain was paused for debugging
VIRQ_XENOPROF = 7  # V: a new XenOprofile sample
VIRQ_CON_RING = 8  # G, Domain 0: output on the console ring
VIRQ_PCPU_STATE = 9  # G, Domain 0: a pCPU came or went
VIRQ_MEM_EVENT = 10  # G, Domain 0: a memory event
VIRQ_ARGO = 11  # G: an Argo message came
VIRQ_ENOMEM = 12  # G, Domain 0: Xen's heap runs low
VIRQ_XENPMU = 13  # V: a performance counter's interrupt
VIRQ_ARCH_0 = 16
VIRQ_ARCH_1 = 17
VIRQ_ARCH_2 = 18
VIRQ_ARCH_3 = 19
VIRQ_ARCH_4 = 20
VIRQ_ARCH_5 = 21
VIRQ_ARCH_6 = 22
VIRQ_ARCH_7 = 23
NR_VIRQS = 24

# HYPERVISOR_mmu_update(reqs, count, done_out, foreigndom): the low two bits of each MmuUpdate.ptr.
# foreigndom[15:0] owns the pages mapped; foreigndom[31:16], less one unless 0 for the caller, owns the page tables.

MMU_NORMAL_PT_UPDATE = 0  # write a checked entry
MMU_MACHPHYS_UPDATE = 1  # write an entry of the machine-to-physical table
MMU_PT_UPDATE_PRESERVE_AD = 2  # write a checked entry, but keep the accessed and dirty bits it has
MMU_PT_UPDATE_NO_TRANSLATE = 3  # write a checked entry that holds an mfn even for a translated guest


class MmuUpdate(Structure):
    """struct mmu_update. xen/include/public/xen.h"""

    ptr: int = u64()  # machine address of the entry, or for MMU_MACHPHYS_UPDATE of the frame, ORed with MMU_*
    val: int = u64()  # the new entry, or for MMU_MACHPHYS_UPDATE the pfn


# HYPERVISOR_mmuext_op(uops, count, done_out, foreigndom): MmuextOp.cmd.

MMUEXT_PIN_L1_TABLE = 0
MMUEXT_PIN_L2_TABLE = 1
MMUEXT_PIN_L3_TABLE = 2
MMUEXT_PIN_L4_TABLE = 3
MMUEXT_UNPIN_TABLE = 4
MMUEXT_NEW_BASEPTR = 5
MMUEXT_TLB_FLUSH_LOCAL = 6
MMUEXT_INVLPG_LOCAL = 7
MMUEXT_TLB_FLUSH_MULTI = 8
MMUEXT_INVLPG_MULTI = 9
MMUEXT_TLB_FLUSH_ALL = 10
MMUEXT_INVLPG_ALL = 11
MMUEXT_FLUSH_CACHE = 12
MMUEXT_SET_LDT = 13
MMUEXT_NEW_USER_BASEPTR = 15
MMUEXT_CLEAR_PAGE = 16
MMUEXT_COPY_PAGE = 17
MMUEXT_FLUSH_CACHE_GLOBAL = 18
MMUEXT_MARK_SUPER = 19
MMUEXT_UNMARK_SUPER = 20


class MmuextOpArg1(Union):
    """arg1 of struct mmuext_op. xen/include/public/xen.h"""

    mfn: int = u64()  # [UN]PIN, NEW_BASEPTR, NEW_USER_BASEPTR, CLEAR_PAGE, COPY_PAGE (destination), [UN]MARK_SUPER
    linear_addr: int = u64()  # INVLPG_*; SET_LDT, page-aligned


class MmuextOpArg2(Union):
    """arg2 of struct mmuext_op. xen/include/public/xen.h"""

    nr_ents: int = u32()  # SET_LDT: descriptors in the table
    vcpumask: int = u64()  # *_MULTI: guest pointer to a bit map of vCPUs
    src_mfn: int = u64()  # COPY_PAGE


class MmuextOp(Structure):
    """struct mmuext_op. xen/include/public/xen.h"""

    cmd: int = u32()  # MMUEXT_*
    arg1: MmuextOpArg1 = nested(MmuextOpArg1)
    arg2: MmuextOpArg2 = nested(MmuextOpArg2)


# HYPERVISOR_update_va_mapping(va, val, flags): one kind of flush, ORed with whose TLBs.

UVMF_NONE = 0 << 0  # flush nothing
UVMF_TLB_FLUSH = 1 << 0  # flush everything
UVMF_INVLPG = 2 << 0  # flush the one entry
UVMF_FLUSHTYPE_MASK = 3 << 0
UVMF_MULTI = 0 << 2  # of the vCPUs in a bit map, to which flags also point
UVMF_LOCAL = 0 << 2  # of this vCPU: UVMF_MULTI without a bit map
UVMF_ALL = 1 << 2  # of all vCPUs

# HYPERVISOR_console_io(cmd, count, buffer)

CONSOLEIO_write = 0
CONSOLEIO_read = 1  # returns the number of characters read

# HYPERVISOR_vm_assist(cmd, type)

VMASST_CMD_enable = 0
VMASST_CMD_disable = 1

VMASST_TYPE_4gb_segments = 0  # 32-bit: as if segments reached 4 GiB
VMASST_TYPE_4gb_segments_notify = 1  # 32-bit: trap 15 whenever that was needed
VMASST_TYPE_writable_pagetables = 2  # emulate writes to level 1 page tables
VMASST_TYPE_pae_extended_cr3 = 3  # PAE: page directories above 4 GiB
VMASST_TYPE_architectural_iopl = 4  # virtual IOPL is kept in the guest's EFLAGS, kernel at level 0
VMASST_TYPE_runstate_update_flag = 5  # XEN_RUNSTATE_UPDATE marks updates of vcpu_runstate_info
VMASST_TYPE_m2p_strict = 32  # hide the machine-to-physical table from user page tables

# Domain ids: domid_t (uint16_t).

DOMID_FIRST_RESERVED = 0x7FF0  # ordinary domains lie below
DOMID_SELF = 0x7FF0  # the caller
DOMID_IO = 0x7FF1  # owner of I/O memory
DOMID_XEN = 0x7FF2  # owner of those pages of Xen that privileged domains may map
DOMID_COW = 0x7FF3  # owner of shared pages
DOMID_INVALID = 0x7FF4  # owner unknown
DOMID_IDLE = 0x7FFF
DOMID_MASK = 0x7FFF


class MulticallEntry(Structure):
    """struct multicall_entry. xen/include/public/xen.h"""

    op: int = u64()  # HYPERVISOR_*
    result: int = u64()  # OUT
    args: tuple[int, ...] = array(u64(), 6)


# vcpu_time_info.flags
XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0  # time is the same on all vCPUs
XEN_PVCLOCK_GUEST_STOPPED = 1 << 1  # the guest was paused by its host


class VcpuTimeInfo(Structure):
    """struct vcpu_time_info. xen/include/public/xen.h

    System time in ns is ``system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32)``;
    a negative ``tsc_shift`` shifts right.
    """

    version: int = u32()  # incremented before and after an update: odd during one
    pad0: int = u32()
    tsc_timestamp: int = u64()  # TSC at the last update
    system_time: int = u64()  # ns since boot at the last update
    tsc_to_system_mul: int = u32()
    tsc_shift: int = s8()
    flags: int = u8()  # XEN_PVCLOCK_*
    pad1: tuple[int, ...] = array(u8(), 2)


class VcpuInfo(Structure):
    """struct vcpu_info. xen/include/public/xen.h"""

    evtchn_upcall_pending: int = u8()  # Xen sets it, the guest clears it before it looks for events
    evtchn_upcall_mask: int = u8()  # while not 0, no upcall is made; the guest's, and cleared when it blocks
    evtchn_pending_sel: int = u64()  # bit n: a word n of evtchn_pending has news
    arch: ArchVcpuInfo = nested(ArchVcpuInfo)
    time: VcpuTimeInfo = nested(VcpuTimeInfo)


class SharedInfo(Structure):
    """struct shared_info. xen/include/public/xen.h

    Alone on a page that Xen and the guest share.
    """

    vcpu_info: tuple[VcpuInfo, ...] = array(nested(VcpuInfo), XEN_LEGACY_MAX_VCPUS)
    evtchn_pending: tuple[int, ...] = array(u64(), 64)  # a bit per port; set by Xen, cleared by the guest
    evtchn_mask: tuple[int, ...] = array(u64(), 64)  # a bit per port; the guest's
    wc_version: int = u32()  # as VcpuTimeInfo.version
    wc_sec: int = u32()  # wall clock at system time 0, in seconds since 1970
    wc_nsec: int = u32()
    wc_sec_hi: int = u32()
    arch: ArchSharedInfo = nested(ArchSharedInfo)


MAX_GUEST_CMDLINE = 1024  # bytes, with the final NUL


class StartInfoConsoleDomU(Structure):
    """console.domU of struct start_info. xen/include/public/xen.h"""

    mfn: int = u64()  # machine frame of the console ring
    evtchn: int = u32()


class StartInfoConsoleDom0(Structure):
    """console.dom0 of struct start_info. xen/include/public/xen.h"""

    info_off: int = u32()  # offset of Dom0VgaConsoleInfo from the start_info, in bytes
    info_size: int = u32()


class StartInfoConsole(Union):
    """console of struct start_info. xen/include/public/xen.h"""

    domU: StartInfoConsoleDomU = nested(StartInfoConsoleDomU)
    dom0: StartInfoConsoleDom0 = nested(StartInfoConsoleDom0)


class StartInfo(Structure):
    """struct start_info. xen/include/public/xen.h

    RSI points to it when a PV kernel starts. After resume only the fields up to ``console`` are filled in.
    """

    magic: bytes = chars(32)  # "xen-<version>-<platform>"
    nr_pages: int = u64()  # pages of the domain
    shared_info: int = u64()  # machine address of SharedInfo
    flags: int = u32()  # SIF_*
    store_mfn: int = u64()  # machine frame of the xenstore ring
    store_evtchn: int = u32()
    console: StartInfoConsole = nested(StartInfoConsole)
    pt_base: int = u64()  # virtual address of the top page table
    nr_pt_frames: int = u64()  # number of page-table frames made for the start
    mfn_list: int = u64()  # virtual address of the initial p2m
    mod_start: int = u64()  # virtual address of the ramdisk, or its pfn where SIF_MOD_START_PFN is set
    mod_len: int = u64()  # in bytes
    cmd_line: bytes = chars(MAX_GUEST_CMDLINE)
    first_p2m_pfn: int = u64()  # the frames of the initial p2m, where XEN_ELFNOTE_INIT_P2M placed it
    nr_p2m_frames: int = u64()


SIF_PRIVILEGED = 1 << 0  # the domain is privileged
SIF_INITDOMAIN = 1 << 1  # it is Domain 0
SIF_MULTIBOOT_MOD = 1 << 2  # mod_start is a list of XenMultibootModList
SIF_MOD_START_PFN = 1 << 3  # mod_start is a pfn
SIF_VIRT_P2M_4TOOLS = 1 << 4  # tools understand arch_shared_info.p2m_vaddr
SIF_PM_MASK = 0xFF << 8  # power management options


class XenMultibootModList(Structure):
    """struct xen_multiboot_mod_list. xen/include/public/xen.h

    Addresses count from the module's start. An entry with ``mod_start`` 0 ends the list.
    """

    mod_start: int = u32()
    mod_end: int = u32()  # address of the last byte
    cmdline: int = u32()
    pad: int = u32()


# dom0_vga_console_info.video_type
XEN_VGATYPE_TEXT_MODE_3 = 0x03
XEN_VGATYPE_VESA_LFB = 0x23
XEN_VGATYPE_EFI_LFB = 0x70


class Dom0VgaConsoleInfoTextMode3(Structure):
    """u.text_mode_3 of struct dom0_vga_console_info. xen/include/public/xen.h"""

    font_height: int = u16()  # in pixels
    cursor_x: int = u16()
    cursor_y: int = u16()
    rows: int = u16()
    columns: int = u16()


class Dom0VgaConsoleInfoVesaLfb(Structure):
    """u.vesa_lfb of struct dom0_vga_console_info. xen/include/public/xen.h"""

    width: int = u16()  # in pixels
    height: int = u16()
    bytes_per_line: int = u16()
    bits_per_pixel: int = u16()
    lfb_base: int = u32()  # physical address, its low 32 bits
    lfb_size: int = u32()  # in units of 64 KiB
    red_pos: int = u8()
    red_size: int = u8()
    green_pos: int = u8()
    green_size: int = u8()
    blue_pos: int = u8()
    blue_size: int = u8()
    rsvd_pos: int = u8()
    rsvd_size: int = u8()
    gbl_caps: int = u32()
    mode_attrs: int = u16()
    pad: int = u16()
    ext_lfb_base: int = u32()  # physical address, its high 32 bits


class Dom0VgaConsoleInfoU(Union):
    """u of struct dom0_vga_console_info. xen/include/public/xen.h"""

    text_mode_3: Dom0VgaConsoleInfoTextMode3 = nested(Dom0VgaConsoleInfoTextMode3)
    vesa_lfb: Dom0VgaConsoleInfoVesaLfb = nested(Dom0VgaConsoleInfoVesaLfb)


class Dom0VgaConsoleInfo(Structure):
    """struct dom0_vga_console_info. xen/include/public/xen.h"""

    video_type: int = u8()  # XEN_VGATYPE_*
    u: Dom0VgaConsoleInfoU = nested(Dom0VgaConsoleInfoU)


class XenctlBitmap(Structure):
    """struct xenctl_bitmap. xen/include/public/xen.h"""

    bitmap: int = u64()  # guest pointer to bytes
    nr_bits: int = u32()
