"""HYPERVISOR_domctl: what the toolstack does to a domain. xen/include/public/domctl.h

Every command has its number here; those that euxen knows have their structure. Commands marked with
an arrow take the structure named; others take none.
"""

from __future__ import annotations

from euxen.abi.arch_x86_hvm_save import HvmVmceVcpu
from euxen.abi.arch_x86_xen import XenArchDomainconfig
from euxen.abi.structure import Structure, Union, array, chars, nested, s32, s64, u8, u16, u32, u64
from euxen.abi.xen import XenctlBitmap

XEN_DOMCTL_INTERFACE_VERSION = 0x00000015

XEN_DOMCTL_createdomain = 1  # -> createdomain
XEN_DOMCTL_destroydomain = 2
XEN_DOMCTL_pausedomain = 3
XEN_DOMCTL_unpausedomain = 4
XEN_DOMCTL_getdomaininfo = 5  # -> getdomaininfo
XEN_DOMCTL_setvcpuaffinity = 9  # -> vcpuaffinity
XEN_DOMCTL_shadow_op = 10  # -> shadow_op
XEN_DOMCTL_max_mem = 11  # -> max_mem
XEN_DOMCTL_setvcpucontext = 12  # -> vcpucontext
XEN_DOMCTL_getvcpucontext = 13  # -> vcpucontext
XEN_DOMCTL_getvcpuinfo = 14  # -> getvcpuinfo
XEN_DOMCTL_max_vcpus = 15  # -> max_vcpus
XEN_DOMCTL_scheduler_op = 16  # -> scheduler_op
XEN_DOMCTL_setdomainhandle = 17  # -> setdomainhandle
XEN_DOMCTL_setdebugging = 18  # -> setdebugging
XEN_DOMCTL_irq_permission = 19  # -> irq_permission
XEN_DOMCTL_iomem_permission = 20  # -> iomem_permission
XEN_DOMCTL_ioport_permission = 21  # -> ioport_permission
XEN_DOMCTL_hypercall_init = 22  # -> hypercall_init
XEN_DOMCTL_settimeoffset = 24  # -> settimeoffset
XEN_DOMCTL_getvcpuaffinity = 25  # -> vcpuaffinity
XEN_DOMCTL_real_mode_area = 26
XEN_DOMCTL_resumedomain = 27
XEN_DOMCTL_sendtrigger = 28  # -> sendtrigger
XEN_DOMCTL_subscribe = 29  # -> subscribe
XEN_DOMCTL_gethvmcontext = 33  # -> hvmcontext
XEN_DOMCTL_sethvmcontext = 34  # -> hvmcontext
XEN_DOMCTL_set_address_size = 35  # -> address_size
XEN_DOMCTL_get_address_size = 36  # -> address_size
XEN_DOMCTL_assign_device = 37
XEN_DOMCTL_bind_pt_irq = 38
XEN_DOMCTL_memory_mapping = 39
XEN_DOMCTL_ioport_mapping = 40
XEN_DOMCTL_set_ext_vcpucontext = 42  # -> ext_vcpucontext
XEN_DOMCTL_get_ext_vcpucontext = 43  # -> ext_vcpucontext
XEN_DOMCTL_set_opt_feature = 44
XEN_DOMCTL_test_assign_device = 45
XEN_DOMCTL_set_target = 46  # -> set_target
XEN_DOMCTL_deassign_device = 47
XEN_DOMCTL_unbind_pt_irq = 48
XEN_DOMCTL_get_device_group = 50
XEN_DOMCTL_debug_op = 54  # -> debug_op
XEN_DOMCTL_gethvmcontext_partial = 55  # -> hvmcontext_partial
XEN_DOMCTL_vm_event_op = 56
XEN_DOMCTL_mem_sharing_op = 57
XEN_DOMCTL_gettscinfo = 59  # -> tsc_info
XEN_DOMCTL_settscinfo = 60  # -> tsc_info
XEN_DOMCTL_getpageframeinfo3 = 61  # -> getpageframeinfo3
XEN_DOMCTL_setvcpuextstate = 62  # -> vcpuextstate
XEN_DOMCTL_getvcpuextstate = 63  # -> vcpuextstate
XEN_DOMCTL_set_access_required = 64
XEN_DOMCTL_audit_p2m = 65
XEN_DOMCTL_set_virq_handler = 66  # -> set_virq_handler
XEN_DOMCTL_set_broken_page_p2m = 67
XEN_DOMCTL_setnodeaffinity = 68  # -> nodeaffinity
XEN_DOMCTL_getnodeaffinity = 69  # -> nodeaffinity
XEN_DOMCTL_cacheflush = 71  # -> cacheflush
XEN_DOMCTL_get_vcpu_msrs = 72  # -> vcpu_msrs
XEN_DOMCTL_set_vcpu_msrs = 73  # -> vcpu_msrs
XEN_DOMCTL_setvnumainfo = 74  # -> vnuma
XEN_DOMCTL_psr_cmt_op = 75
XEN_DOMCTL_monitor_op = 77
XEN_DOMCTL_psr_alloc = 78
XEN_DOMCTL_soft_reset = 79
XEN_DOMCTL_vuart_op = 81
XEN_DOMCTL_get_cpu_policy = 82  # -> cpu_policy
XEN_DOMCTL_set_cpu_policy = 83  # -> cpu_policy
XEN_DOMCTL_vmtrace_op = 84
XEN_DOMCTL_get_paging_mempool_size = 85  # -> paging_mempool
XEN_DOMCTL_set_paging_mempool_size = 86  # -> paging_mempool
XEN_DOMCTL_gdbsx_guestmemio = 1000
XEN_DOMCTL_gdbsx_pausevcpu = 1001
XEN_DOMCTL_gdbsx_unpausevcpu = 1002
XEN_DOMCTL_gdbsx_domstatus = 1003

# xen_domctl_createdomain.flags
XEN_DOMCTL_CDF_hvm = 1 << 0  # HVM or PVH, not PV
XEN_DOMCTL_CDF_hap = 1 << 1  # hardware-assisted paging
XEN_DOMCTL_CDF_s3_integrity = 1 << 2
XEN_DOMCTL_CDF_oos_off = 1 << 3  # no out-of-sync shadow page tables
XEN_DOMCTL_CDF_xs_domain = 1 << 4  # this is a xenstore domain
XEN_DOMCTL_CDF_iommu = 1 << 5
XEN_DOMCTL_CDF_nested_virt = 1 << 6
XEN_DOMCTL_CDF_vpmu = 1 << 7
XEN_DOMCTL_CDF_MAX = XEN_DOMCTL_CDF_vpmu

# xen_domctl_createdomain.iommu_opts
XEN_DOMCTL_IOMMU_no_sharept = 1 << 0
XEN_DOMCTL_IOMMU_MAX = XEN_DOMCTL_IOMMU_no_sharept

XEN_DOMCTL_GRANT_version_mask = 0xF


def XEN_DOMCTL_GRANT_version(grant_opts: int) -> int:
    """The highest version of grant tables in ``grant_opts``. xen/include/public/domctl.h"""
    return grant_opts & XEN_DOMCTL_GRANT_version_mask


class XenDomctlCreatedomain(Structure):
    """struct xen_domctl_createdomain. xen/include/public/domctl.h

    xen_domctl.domain is the id wanted, or 0 or one not below DOMID_FIRST_RESERVED for any; OUT, the id.
    """

    ssidref: int = u32()
    handle: bytes = chars(16)  # UUID
    flags: int = u32()  # XEN_DOMCTL_CDF_*
    iommu_opts: int = u32()  # XEN_DOMCTL_IOMMU_*
    max_vcpus: int = u32()
    max_evtchn_port: int = u32()
    max_grant_frames: int = s32()  # negative for Xen's default
    max_maptrack_frames: int = s32()  # negative for Xen's default
    grant_opts: int = u32()  # see XEN_DOMCTL_GRANT_version
    vmtrace_size: int = u32()  # bytes for each vCPU; 0 for none
    cpupool_id: int = u32()
    arch: XenArchDomainconfig = nested(XenArchDomainconfig)


# xen_domctl_getdomaininfo.flags
XEN_DOMINF_dying = 1 << 0
XEN_DOMINF_hvm_guest = 1 << 1
XEN_DOMINF_shutdown = 1 << 2
XEN_DOMINF_paused = 1 << 3  # by the toolstack
XEN_DOMINF_blocked = 1 << 4
XEN_DOMINF_running = 1 << 5
XEN_DOMINF_debugged = 1 << 6
XEN_DOMINF_xs_domain = 1 << 7
XEN_DOMINF_hap = 1 << 8
XEN_DOMINF_shutdownmask = 255  # of SHUTDOWN_*, once shifted down
XEN_DOMINF_shutdownshift = 16

XEN_INVALID_MAX_VCPU_ID = 0xFFFFFFFF  # max_vcpu_id of a domain without vCPUs


class XenDomctlGetdomaininfo(Structure):
    """struct xen_domctl_getdomaininfo. xen/include/public/domctl.h"""

    domain: int = u16()
    pad1: int = u16()
    flags: int = u32()  # XEN_DOMINF_*
    tot_pages: int = u64()
    max_pages: int = u64()
    outstanding_pages: int = u64()  # claimed and not yet allocated
    shr_pages: int = u64()
    paged_pages: int = u64()
    shared_info_frame: int = u64()  # GMFN
    cpu_time: int = u64()  # in ns
    nr_online_vcpus: int = u32()
    max_vcpu_id: int = u32()  # highest in use, or XEN_INVALID_MAX_VCPU_ID
    ssidref: int = u32()
    handle: bytes = chars(16)  # UUID
    cpupool: int = u32()
    gpaddr_bits: int = u8()  # width of guest physical addresses
    pad2: tuple[int, ...] = array(u8(), 7)
    arch_config: XenArchDomainconfig = nested(XenArchDomainconfig)


# What XEN_DOMCTL_getpageframeinfo3 says of a frame: the type of page it has.
XEN_DOMCTL_PFINFO_LTAB_SHIFT = 28
XEN_DOMCTL_PFINFO_NOTAB = 0x0 << 28
XEN_DOMCTL_PFINFO_L1TAB = 0x1 << 28
XEN_DOMCTL_PFINFO_L2TAB = 0x2 << 28
XEN_DOMCTL_PFINFO_L3TAB = 0x3 << 28
XEN_DOMCTL_PFINFO_L4TAB = 0x4 << 28
XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 0x7 << 28
XEN_DOMCTL_PFINFO_LPINTAB = 0x1 << 31  # pinned
XEN_DOMCTL_PFINFO_BROKEN = 0xD << 28
XEN_DOMCTL_PFINFO_XALLOC = 0xE << 28  # to be allocated only
XEN_DOMCTL_PFINFO_XTAB = 0xF << 28  # no page there
XEN_DOMCTL_PFINFO_LTAB_MASK = 0xF << 28


class XenDomctlGetpageframeinfo3(Structure):
    """struct xen_domctl_getpageframeinfo3. xen/include/public/domctl.h"""

    num: int = u64()
    array: int = u64()  # guest pointer to xen_pfn_t[num]: IN, GMFN; OUT, XEN_DOMCTL_PFINFO_*


# xen_domctl_shadow_op.op
XEN_DOMCTL_SHADOW_OP_OFF = 0
XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1
XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2  # record which pages the guest writes
XEN_DOMCTL_SHADOW_OP_CLEAN = 11  # give the bit map of them and start anew
XEN_DOMCTL_SHADOW_OP_PEEK = 12  # give the bit map of them
XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30
XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31
XEN_DOMCTL_SHADOW_OP_ENABLE = 32

# xen_domctl_shadow_op.mode, of XEN_DOMCTL_SHADOW_OP_ENABLE
XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = 1 << 1
XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = 1 << 2
XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = 1 << 3
XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = 1 << 4

# xen_domctl_shadow_op.mode, of XEN_DOMCTL_SHADOW_OP_CLEAN and XEN_DOMCTL_SHADOW_OP_PEEK
XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = 1 << 0  # the last round: count pages that Xen holds writable


class XenDomctlShadowOpStats(Structure):
    """struct xen_domctl_shadow_op_stats. xen/include/public/domctl.h"""

    fault_count: int = u32()
    dirty_count: int = u32()


class XenDomctlShadowOp(Structure):
    """struct xen_domctl_shadow_op. xen/include/public/domctl.h"""

    op: int = u32()  # XEN_DOMCTL_SHADOW_OP_*
    mode: int = u32()
    mb: int = u32()  # GET_ALLOCATION, SET_ALLOCATION: MiB
    dirty_bitmap: int = u64()  # CLEAN, PEEK: guest pointer to a bit for each pfn; 0 for no bit map
    pages: int = u64()  # IN: bits in it; OUT: bits written
    stats: XenDomctlShadowOpStats = nested(XenDomctlShadowOpStats)


class XenDomctlMaxMem(Structure):
    """struct xen_domctl_max_mem. xen/include/public/domctl.h"""

    max_memkb: int = u64()  # in KiB


class XenDomctlVcpucontext(Structure):
    """struct xen_domctl_vcpucontext. xen/include/public/domctl.h"""

    vcpu: int = u32()
    ctxt: int = u64()  # guest pointer to VcpuGuestContext; 0 to set resets the vCPU


class XenDomctlGetvcpuinfo(Structure):
    """struct xen_domctl_getvcpuinfo. xen/include/public/domctl.h"""

    vcpu: int = u32()
    online: int = u8()  # OUT: is it up?
    blocked: int = u8()  # OUT: does it wait for an event?
    running: int = u8()  # OUT: is it on a pCPU?
    cpu_time: int = u64()  # OUT: in ns
    cpu: int = u32()  # OUT: the pCPU it was last on


class XenDomctlNodeaffinity(Structure):
    """struct xen_domctl_nodeaffinity. xen/include/public/domctl.h"""

    nodemap: XenctlBitmap = nested(XenctlBitmap)


# xen_domctl_vcpuaffinity.flags
XEN_VCPUAFFINITY_HARD = 1 << 0  # where it may run
XEN_VCPUAFFINITY_SOFT = 1 << 1  # where it had better run
XEN_VCPUAFFINITY_FORCE = 1 << 2  # take SCHEDOP_pin_override back


class XenDomctlVcpuaffinity(Structure):
    """struct xen_domctl_vcpuaffinity. xen/include/public/domctl.h

    Setting gives the maps back as they take effect: cut down to the cpupool's pCPUs, soft also to hard.
    """

    vcpu: int = u32()
    flags: int = u32()  # XEN_VCPUAFFINITY_*
    cpumap_hard: XenctlBitmap = nested(XenctlBitmap)
    cpumap_soft: XenctlBitmap = nested(XenctlBitmap)


class XenDomctlMaxVcpus(Structure):
    """struct xen_domctl_max_vcpus. xen/include/public/domctl.h

    Makes the vCPUs that XEN_DOMCTL_createdomain promised.
    """

    max: int = u32()  # the same as createdomain.max_vcpus


# xen_domctl_scheduler_op.sched_id
XEN_SCHEDULER_CREDIT = 5
XEN_SCHEDULER_CREDIT2 = 6
XEN_SCHEDULER_ARINC653 = 7
XEN_SCHEDULER_RTDS = 8
XEN_SCHEDULER_NULL = 9


class XenDomctlSchedCredit(Structure):
    """struct xen_domctl_sched_credit. xen/include/public/domctl.h"""

    weight: int = u16()
    cap: int = u16()  # in per cent of a pCPU; 0 for none


class XenDomctlSchedCredit2(Structure):
    """struct xen_domctl_sched_credit2. xen/include/public/domctl.h"""

    weight: int = u16()
    cap: int = u16()  # in per cent of a pCPU; 0 for none


XEN_DOMCTL_SCHEDRT_extra = 1 << 0  # may use idle time beyond its budget


class XenDomctlSchedRtds(Structure):
    """struct xen_domctl_sched_rtds. xen/include/public/domctl.h"""

    period: int = u32()  # in microseconds
    budget: int = u32()  # in microseconds
    flags: int = u32()  # XEN_DOMCTL_SCHEDRT_extra


class XenDomctlSchedparamVcpuU(Union):
    """u of struct xen_domctl_schedparam_vcpu. xen/include/public/domctl.h"""

    credit: XenDomctlSchedCredit = nested(XenDomctlSchedCredit)
    credit2: XenDomctlSchedCredit2 = nested(XenDomctlSchedCredit2)
    rtds: XenDomctlSchedRtds = nested(XenDomctlSchedRtds)


class XenDomctlSchedparamVcpu(Structure):
    """struct xen_domctl_schedparam_vcpu. xen/include/public/domctl.h"""

    u: XenDomctlSchedparamVcpuU = nested(XenDomctlSchedparamVcpuU)
    vcpuid: int = u32()


# xen_domctl_scheduler_op.cmd; the last two for schedulers that know single vCPUs
XEN_DOMCTL_SCHEDOP_putinfo = 0
XEN_DOMCTL_SCHEDOP_getinfo = 1
XEN_DOMCTL_SCHEDOP_putvcpuinfo = 2
XEN_DOMCTL_SCHEDOP_getvcpuinfo = 3


class XenDomctlSchedulerOpV(Structure):
    """u.v of struct xen_domctl_scheduler_op. xen/include/public/domctl.h"""

    vcpus: int = u64()  # guest pointer to XenDomctlSchedparamVcpu[nr_vcpus]
    nr_vcpus: int = u32()  # IN: length of the array; OUT: elements done
    padding: int = u32()


class XenDomctlSchedulerOpU(Union):
    """u of struct xen_domctl_scheduler_op. xen/include/public/domctl.h"""

    credit: XenDomctlSchedCredit = nested(XenDomctlSchedCredit)
    credit2: XenDomctlSchedCredit2 = nested(XenDomctlSchedCredit2)
    rtds: XenDomctlSchedRtds = nested(XenDomctlSchedRtds)
    v: XenDomctlSchedulerOpV = nested(XenDomctlSchedulerOpV)


class XenDomctlSchedulerOp(Structure):
    """struct xen_domctl_scheduler_op. xen/include/public/domctl.h"""

    sched_id: int = u32()  # XEN_SCHEDULER_*
    cmd: int = u32()  # XEN_DOMCTL_SCHEDOP_*
    u: XenDomctlSchedulerOpU = nested(XenDomctlSchedulerOpU)


class XenDomctlSetdomainhandle(Structure):
    """struct xen_domctl_setdomainhandle. xen/include/public/domctl.h"""

    handle: bytes = chars(16)  # UUID


class XenDomctlSetdebugging(Structure):
    """struct xen_domctl_setdebugging. xen/include/public/domctl.h"""

    enable: int = u8()


class XenDomctlIrqPermission(Structure):
    """struct xen_domctl_irq_permission. xen/include/public/domctl.h"""

    pirq: int = u32()
    allow_access: int = u8()
    pad: tuple[int, ...] = array(u8(), 3)


class XenDomctlIomemPermission(Structure):
    """struct xen_domctl_iomem_permission. xen/include/public/domctl.h"""

    first_mfn: int = u64()
    nr_mfns: int = u64()
    allow_access: int = u8()


class XenDomctlIoportPermission(Structure):
    """struct xen_domctl_ioport_permission. xen/include/public/domctl.h"""

    first_port: int = u32()
    nr_ports: int = u32()
    allow_access: int = u8()


class XenDomctlHypercallInit(Structure):
    """struct xen_domctl_hypercall_init. xen/include/public/domctl.h"""

    gmfn: int = u64()  # the frame to fill with hypercall stubs


class XenDomctlSettimeoffset(Structure):
    """struct xen_domctl_settimeoffset. xen/include/public/domctl.h"""

    time_offset_seconds: int = s64()  # added to the domain's wall clock


class XenDomctlHvmcontext(Structure):
    """struct xen_domctl_hvmcontext. xen/include/public/domctl.h"""

    size_: int = u32()  # IN: room in buffer; OUT: bytes filled, or needed where there is no buffer
    buffer: int = u64()  # guest pointer to bytes


class XenDomctlHvmcontextPartial(Structure):
    """struct xen_domctl_hvmcontext_partial. xen/include/public/domctl.h"""

    type: int = u32()  # HVM_SAVE_CODE_*
    instance: int = u32()
    bufsz: int = u64()  # in bytes
    buffer: int = u64()  # guest pointer to bytes: OUT


class XenDomctlAddressSize(Structure):
    """struct xen_domctl_address_size. xen/include/public/domctl.h"""

    size_: int = u32()  # 32 or 64 bits


# xen_domctl_sendtrigger.trigger
XEN_DOMCTL_SENDTRIGGER_NMI = 0
XEN_DOMCTL_SENDTRIGGER_RESET = 1
XEN_DOMCTL_SENDTRIGGER_INIT = 2
XEN_DOMCTL_SENDTRIGGER_POWER = 3
XEN_DOMCTL_SENDTRIGGER_SLEEP = 4


class XenDomctlSendtrigger(Structure):
    """struct xen_domctl_sendtrigger. xen/include/public/domctl.h"""

    trigger: int = u32()  # XEN_DOMCTL_SENDTRIGGER_*
    vcpu: int = u32()


class XenDomctlExtVcpucontext(Structure):
    """struct xen_domctl_ext_vcpucontext. xen/include/public/domctl.h

    What a PV vCPU has beside VcpuGuestContext.
    """

    vcpu: int = u32()
    size_: int = u32()  # of this structure in bytes: IN to set, OUT to get
    syscall32_callback_eip: int = u64()
    sysenter_callback_eip: int = u64()
    syscall32_callback_cs: int = u16()
    sysenter_callback_cs: int = u16()
    syscall32_disables_events: int = u8()
    sysenter_disables_events: int = u8()
    vmce: HvmVmceVcpu = nested(HvmVmceVcpu)


class XenDomctlSetTarget(Structure):
    """struct xen_domctl_set_target. xen/include/public/domctl.h"""

    target: int = u16()  # domain over which this one has a device model's rights


class XenDomctlSubscribe(Structure):
    """struct xen_domctl_subscribe. xen/include/public/domctl.h

    Once the domain has shut down to suspend, sends by a port of its own, in place of VIRQ_DOM_EXC to Domain 0.
    """

    port: int = u32()


XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF = 0
XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON = 1


class XenDomctlDebugOp(Structure):
    """struct xen_domctl_debug_op. xen/include/public/domctl.h"""

    op: int = u32()  # XEN_DOMCTL_DEBUG_OP_*
    vcpu: int = u32()


XEN_CPUID_INPUT_UNUSED = 0xFFFFFFFF


class XenDomctlCpuPolicy(Structure):
    """struct xen_domctl_cpu_policy. xen/include/public/domctl.h"""

    nr_leaves: int = u32()  # IN: room or length; OUT: entries written
    nr_msrs: int = u32()  # likewise
    leaves: int = u64()  # guest pointer to XenCpuidLeaf[nr_leaves]
    msrs: int = u64()  # guest pointer to XenMsrEntry[nr_msrs]
    err_leaf: int = u32()  # OUT, where setting fails: what was wrong
    err_subleaf: int = u32()
    err_msr: int = u32()


class XenDomctlVcpuextstate(Structure):
    """struct xen_domctl_vcpuextstate. xen/include/public/domctl.h"""

    vcpu: int = u32()
    xfeature_mask: int = u64()  # to get: OUT, the state components
    size_: int = u64()  # in bytes
    buffer: int = u64()  # guest pointer: XCR0, XCR0 of all time, then the XSAVE area


class XenDomctlVcpuMsr(Structure):
    """struct xen_domctl_vcpu_msr. xen/include/public/domctl.h"""

    index: int = u32()
    reserved: int = u32()
    value: int = u64()


class XenDomctlVcpuMsrs(Structure):
    """struct xen_domctl_vcpu_msrs. xen/include/public/domctl.h"""

    vcpu: int = u32()
    msr_count: int = u32()  # IN and OUT
    msrs: int = u64()  # guest pointer to XenDomctlVcpuMsr[msr_count]


class XenDomctlTscInfo(Structure):
    """struct xen_domctl_tsc_info. xen/include/public/domctl.h"""

    tsc_mode: int = u32()  # 0: emulate where needed; 1: always; 2: never
    gtsc_khz: int = u32()  # the guest's TSC frequency in kHz
    incarnation: int = u32()  # how often the domain was restored
    pad: int = u32()
    elapsed_nsec: int = u64()  # the guest's time in ns


class XenDomctlSetVirqHandler(Structure):
    """struct xen_domctl_set_virq_handler. xen/include/public/domctl.h"""

    virq: int = u32()  # the global VIRQ_* that this domain shall get in place of Domain 0


class XenDomctlCacheflush(Structure):
    """struct xen_domctl_cacheflush. xen/include/public/domctl.h"""

    start_pfn: int = u64()
    nr_pfns: int = u64()


class XenDomctlPagingMempool(Structure):
    """struct xen_domctl_paging_mempool. xen/include/public/domctl.h"""

    size_: int = u64()  # in bytes


class XenDomctlVnuma(Structure):
    """struct xen_domctl_vnuma. xen/include/public/domctl.h"""

    nr_vnodes: int = u32()
    nr_vmemranges: int = u32()
    nr_vcpus: int = u32()
    pad: int = u32()  # must be 0
    vdistance: int = u64()  # guest pointer to unsigned int[nr_vnodes * nr_vnodes]
    vcpu_to_vnode: int = u64()  # guest pointer to unsigned int[nr_vcpus]
    vnode_to_pnode: int = u64()  # guest pointer to unsigned int[nr_vnodes]
    vmemrange: int = u64()  # guest pointer to XenVmemrange[nr_vmemranges]


class XenDomctlU(Union):
    """u of struct xen_domctl. xen/include/public/domctl.h"""

    createdomain: XenDomctlCreatedomain = nested(XenDomctlCreatedomain)
    getdomaininfo: XenDomctlGetdomaininfo = nested(XenDomctlGetdomaininfo)
    getpageframeinfo3: XenDomctlGetpageframeinfo3 = nested(XenDomctlGetpageframeinfo3)
    nodeaffinity: XenDomctlNodeaffinity = nested(XenDomctlNodeaffinity)
    vcpuaffinity: XenDomctlVcpuaffinity = nested(XenDomctlVcpuaffinity)
    shadow_op: XenDomctlShadowOp = nested(XenDomctlShadowOp)
    max_mem: XenDomctlMaxMem = nested(XenDomctlMaxMem)
    vcpucontext: XenDomctlVcpucontext = nested(XenDomctlVcpucontext)
    getvcpuinfo: XenDomctlGetvcpuinfo = nested(XenDomctlGetvcpuinfo)
    max_vcpus: XenDomctlMaxVcpus = nested(XenDomctlMaxVcpus)
    scheduler_op: XenDomctlSchedulerOp = nested(XenDomctlSchedulerOp)
    setdomainhandle: XenDomctlSetdomainhandle = nested(XenDomctlSetdomainhandle)
    setdebugging: XenDomctlSetdebugging = nested(XenDomctlSetdebugging)
    irq_permission: XenDomctlIrqPermission = nested(XenDomctlIrqPermission)
    iomem_permission: XenDomctlIomemPermission = nested(XenDomctlIomemPermission)
    ioport_permission: XenDomctlIoportPermission = nested(XenDomctlIoportPermission)
    hypercall_init: XenDomctlHypercallInit = nested(XenDomctlHypercallInit)
    settimeoffset: XenDomctlSettimeoffset = nested(XenDomctlSettimeoffset)
    tsc_info: XenDomctlTscInfo = nested(XenDomctlTscInfo)
    hvmcontext: XenDomctlHvmcontext = nested(XenDomctlHvmcontext)
    hvmcontext_partial: XenDomctlHvmcontextPartial = nested(XenDomctlHvmcontextPartial)
    address_size: XenDomctlAddressSize = nested(XenDomctlAddressSize)
    sendtrigger: XenDomctlSendtrigger = nested(XenDomctlSendtrigger)
    ext_vcpucontext: XenDomctlExtVcpucontext = nested(XenDomctlExtVcpucontext)
    set_target: XenDomctlSetTarget = nested(XenDomctlSetTarget)
    subscribe: XenDomctlSubscribe = nested(XenDomctlSubscribe)
    debug_op: XenDomctlDebugOp = nested(XenDomctlDebugOp)
    cpu_policy: XenDomctlCpuPolicy = nested(XenDomctlCpuPolicy)
    vcpuextstate: XenDomctlVcpuextstate = nested(XenDomctlVcpuextstate)
    vcpu_msrs: XenDomctlVcpuMsrs = nested(XenDomctlVcpuMsrs)
    set_virq_handler: XenDomctlSetVirqHandler = nested(XenDomctlSetVirqHandler)
    cacheflush: XenDomctlCacheflush = nested(XenDomctlCacheflush)
    vnuma: XenDomctlVnuma = nested(XenDomctlVnuma)
    paging_mempool: XenDomctlPagingMempool = nested(XenDomctlPagingMempool)
    pad: bytes = chars(128)


class XenDomctl(Structure):
    """struct xen_domctl. xen/include/public/domctl.h"""

    cmd: int = u32()  # XEN_DOMCTL_*
    interface_version: int = u32(default=XEN_DOMCTL_INTERFACE_VERSION)
    domain: int = u16()
    _pad: tuple[int, ...] = array(u16(), 3)
    u: XenDomctlU = nested(XenDomctlU)
