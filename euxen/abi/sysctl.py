"""HYPERVISOR_sysctl: what the toolstack asks about the host. xen/include/public/sysctl.h

Every command has its number here; those that euxen knows have their structure, named after the arrow.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, chars, nested, s32, u8, u16, u32, u64
from euxen.abi.xen import XenctlBitmap

XEN_SYSCTL_INTERFACE_VERSION = 0x00000015

XEN_SYSCTL_readconsole = 1  # -> readconsole
XEN_SYSCTL_tbuf_op = 2
XEN_SYSCTL_physinfo = 3  # -> physinfo
XEN_SYSCTL_sched_id = 4  # -> sched_id
XEN_SYSCTL_perfc_op = 5
XEN_SYSCTL_getdomaininfolist = 6  # -> getdomaininfolist
XEN_SYSCTL_debug_keys = 7  # -> debug_keys
XEN_SYSCTL_getcpuinfo = 8  # -> getcpuinfo
XEN_SYSCTL_availheap = 9  # -> availheap
XEN_SYSCTL_get_pmstat = 10
XEN_SYSCTL_cpu_hotplug = 11
XEN_SYSCTL_pm_op = 12
XEN_SYSCTL_page_offline_op = 14
XEN_SYSCTL_lockprof_op = 15
XEN_SYSCTL_cputopoinfo = 16  # -> cputopoinfo
XEN_SYSCTL_numainfo = 17  # -> numainfo
XEN_SYSCTL_cpupool_op = 18  # -> cpupool_op
XEN_SYSCTL_scheduler_op = 19  # -> scheduler_op
XEN_SYSCTL_coverage_op = 20
XEN_SYSCTL_psr_cmt_op = 21
XEN_SYSCTL_pcitopoinfo = 22
XEN_SYSCTL_psr_alloc = 23
XEN_SYSCTL_get_cpu_levelling_caps = 25
XEN_SYSCTL_get_cpu_featureset = 26  # -> cpu_featureset
XEN_SYSCTL_livepatch_op = 27
XEN_SYSCTL_get_cpu_policy = 29  # -> cpu_policy


class XenSysctlReadconsole(Structure):
    """struct xen_sysctl_readconsole. xen/include/public/sysctl.h"""

    clear: int = u8()  # not 0: forget what was read
    incremental: int = u8()  # not 0: begin at index
    pad0: int = u8()
    pad1: int = u8()
    index: int = u32()  # OUT: where the next read begins
    buffer: int = u64()  # guest pointer to char[count]: OUT
    count: int = u32()  # OUT: bytes written


# xen_sysctl_physinfo.capabilities
XEN_SYSCTL_PHYSCAP_hvm = 1 << 0
XEN_SYSCTL_PHYSCAP_pv = 1 << 1
XEN_SYSCTL_PHYSCAP_directio = 1 << 2  # devices can be passed through an IOMMU
XEN_SYSCTL_PHYSCAP_hap = 1 << 3
XEN_SYSCTL_PHYSCAP_shadow = 1 << 4
XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share = 1 << 5
XEN_SYSCTL_PHYSCAP_vmtrace = 1 << 6
XEN_SYSCTL_PHYSCAP_vpmu = 1 << 7
XEN_SYSCTL_PHYSCAP_gnttab_v1 = 1 << 8
XEN_SYSCTL_PHYSCAP_gnttab_v2 = 1 << 9
XEN_SYSCTL_PHYSCAP_MAX = XEN_SYSCTL_PHYSCAP_gnttab_v2


class XenSysctlPhysinfo(Structure):
    """struct xen_sysctl_physinfo. xen/include/public/sysctl.h"""

    threads_per_core: int = u32()
    cores_per_socket: int = u32()
    nr_cpus: int = u32()  # pCPUs online
    max_cpu_id: int = u32()
    nr_nodes: int = u32()  # NUMA nodes online
    max_node_id: int = u32()
    cpu_khz: int = u32()
    capabilities: int = u32()  # XEN_SYSCTL_PHYSCAP_*
    arch_capabilities: int = u32()
    pad: int = u32()
    total_pages: int = u64()
    free_pages: int = u64()
    scrub_pages: int = u64()  # free, but not yet clean
    outstanding_pages: int = u64()  # claimed and not yet allocated
    max_mfn: int = u64()
    hw_cap: tuple[int, ...] = array(u32(), 8)  # CPUID's feature words


class XenSysctlSchedId(Structure):
    """struct xen_sysctl_sched_id. xen/include/public/sysctl.h"""

    sched_id: int = u32()  # OUT: XEN_SCHEDULER_*


class XenSysctlGetdomaininfolist(Structure):
    """struct xen_sysctl_getdomaininfolist. xen/include/public/sysctl.h"""

    first_domain: int = u16()
    max_domains: int = u32()
    buffer: int = u64()  # guest pointer to XenDomctlGetdomaininfo[max_domains]: OUT
    num_domains: int = u32()  # OUT


class XenSysctlDebugKeys(Structure):
    """struct xen_sysctl_debug_keys. xen/include/public/sysctl.h"""

    keys: int = u64()  # guest pointer to char[nr_keys]
    nr_keys: int = u32()


class XenSysctlCpuinfo(Structure):
    """struct xen_sysctl_cpuinfo. xen/include/public/sysctl.h"""

    idletime: int = u64()  # in ns


class XenSysctlGetcpuinfo(Structure):
    """struct xen_sysctl_getcpuinfo. xen/include/public/sysctl.h"""

    max_cpus: int = u32()
    info: int = u64()  # guest pointer to XenSysctlCpuinfo[max_cpus]: OUT
    nr_cpus: int = u32()  # OUT


class XenSysctlAvailheap(Structure):
    """struct xen_sysctl_availheap. xen/include/public/sysctl.h"""

    min_bitwidth: int = u32()  # of addresses; 0 for any
    max_bitwidth: int = u32()  # of addresses; 0 for any
    node: int = s32()  # -1 for all
    avail_bytes: int = u64()  # OUT


XEN_INVALID_CORE_ID = 0xFFFFFFFF
XEN_INVALID_SOCKET_ID = 0xFFFFFFFF
XEN_INVALID_NODE_ID = 0xFFFFFFFF


class XenSysctlCputopo(Structure):
    """struct xen_sysctl_cputopo. xen/include/public/sysctl.h"""

    core: int = u32()
    socket: int = u32()
    node: int = u32()


class XenSysctlCputopoinfo(Structure):
    """struct xen_sysctl_cputopoinfo. xen/include/public/sysctl.h"""

    num_cpus: int = u32()  # IN: room; OUT: entries written, or needed where there is no array or too short a one
    cputopo: int = u64()  # guest pointer to XenSysctlCputopo[num_cpus]: OUT


XEN_INVALID_MEM_SZ = 0xFFFFFFFF
XEN_INVALID_NODE_DIST = 0xFFFFFFFF


class XenSysctlMeminfo(Structure):
    """struct xen_sysctl_meminfo. xen/include/public/sysctl.h"""

    memsize: int = u64()  # in bytes
    memfree: int = u64()  # in bytes


class XenSysctlNumainfo(Structure):
    """struct xen_sysctl_numainfo. xen/include/public/sysctl.h"""

    num_nodes: int = u32()  # as XenSysctlCputopoinfo.num_cpus
    meminfo: int = u64()  # guest pointer to XenSysctlMeminfo[num_nodes]: OUT
    distance: int = u64()  # guest pointer to uint32_t[num_nodes * num_nodes]: OUT


# xen_sysctl_cpupool_op.op
XEN_SYSCTL_CPUPOOL_OP_CREATE = 1
XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2
XEN_SYSCTL_CPUPOOL_OP_INFO = 3
XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4
XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5
XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6
XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7

XEN_SYSCTL_CPUPOOL_PAR_ANY = 0xFFFFFFFF  # as cpupool_id or cpu: whichever


class XenSysctlCpupoolOp(Structure):
    """struct xen_sysctl_cpupool_op. xen/include/public/sysctl.h"""

    op: int = u32()  # XEN_SYSCTL_CPUPOOL_OP_*
    cpupool_id: int = u32()  # IN, not for FREEINFO; OUT for CREATE and INFO (which gives the next pool there is)
    sched_id: int = u32()  # IN for CREATE; OUT for INFO
    domid: int = u32()  # IN for MOVEDOMAIN
    cpu: int = u32()  # IN for ADDCPU and RMCPU
    n_dom: int = u32()  # OUT for INFO: domains in the pool
    cpumap: XenctlBitmap = nested(XenctlBitmap)  # OUT for INFO and FREEINFO


XEN_SYSCTL_SCHED_RATELIMIT_MAX = 500000  # microseconds
XEN_SYSCTL_SCHED_RATELIMIT_MIN = 100  # microseconds
XEN_SYSCTL_CSCHED_TSLICE_MAX = 1000  # milliseconds
XEN_SYSCTL_CSCHED_TSLICE_MIN = 1  # milliseconds
XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US = 100 * 1000


class XenSysctlCreditSchedule(Structure):
    """struct xen_sysctl_credit_schedule. xen/include/public/sysctl.h"""

    tslice_ms: int = u32()
    ratelimit_us: int = u32()
    vcpu_migr_delay_us: int = u32()  # how long a vCPU counts as cache-hot


class XenSysctlCredit2Schedule(Structure):
    """struct xen_sysctl_credit2_schedule. xen/include/public/sysctl.h"""

    ratelimit_us: int = u32()


class XenSysctlSchedArinc653(Structure):
    """struct xen_sysctl_sched_arinc653. xen/include/public/sysctl.h"""

    schedule: int = u64()  # guest pointer to struct xen_sysctl_arinc653_schedule


# xen_sysctl_scheduler_op.cmd
XEN_SYSCTL_SCHEDOP_putinfo = 0
XEN_SYSCTL_SCHEDOP_getinfo = 1


class XenSysctlSchedulerOpU(Union):
    """u of struct xen_sysctl_scheduler_op. xen/include/public/sysctl.h"""

    sched_arinc653: XenSysctlSchedArinc653 = nested(XenSysctlSchedArinc653)
    sched_credit: XenSysctlCreditSchedule = nested(XenSysctlCreditSchedule)
    sched_credit2: XenSysctlCredit2Schedule = nested(XenSysctlCredit2Schedule)


class XenSysctlSchedulerOp(Structure):
    """struct xen_sysctl_scheduler_op. xen/include/public/sysctl.h"""

    cpupool_id: int = u32()
    sched_id: int = u32()  # XEN_SCHEDULER_*
    cmd: int = u32()  # XEN_SYSCTL_SCHEDOP_*
    u: XenSysctlSchedulerOpU = nested(XenSysctlSchedulerOpU)


# xen_sysctl_cpu_featureset.index
XEN_SYSCTL_cpu_featureset_raw = 0
XEN_SYSCTL_cpu_featureset_host = 1
XEN_SYSCTL_cpu_featureset_pv = 2
XEN_SYSCTL_cpu_featureset_hvm = 3
XEN_SYSCTL_cpu_featureset_pv_max = 4
XEN_SYSCTL_cpu_featureset_hvm_max = 5


class XenSysctlCpuFeatureset(Structure):
    """struct xen_sysctl_cpu_featureset. xen/include/public/sysctl.h"""

    index: int = u32()  # XEN_SYSCTL_cpu_featureset_*
    nr_features: int = u32()  # IN: room; OUT: entries written, or there are where there is no array
    features: int = u64()  # guest pointer to uint32_t[nr_features]: OUT


# xen_sysctl_cpu_policy.index
XEN_SYSCTL_cpu_policy_raw = 0
XEN_SYSCTL_cpu_policy_host = 1
XEN_SYSCTL_cpu_policy_pv_max = 2
XEN_SYSCTL_cpu_policy_hvm_max = 3
XEN_SYSCTL_cpu_policy_pv_default = 4
XEN_SYSCTL_cpu_policy_hvm_default = 5


class XenSysctlCpuPolicy(Structure):
    """struct xen_sysctl_cpu_policy. xen/include/public/sysctl.h"""

    index: int = u32()  # XEN_SYSCTL_cpu_policy_*
    nr_leaves: int = u32()  # IN: room; OUT: entries written, or there are where there is no array
    nr_msrs: int = u32()  # likewise
    _rsvd: int = u32()  # must be 0
    leaves: int = u64()  # guest pointer to XenCpuidLeaf[nr_leaves]: OUT
    msrs: int = u64()  # guest pointer to XenMsrEntry[nr_msrs]: OUT


class XenSysctlU(Union):
    """u of struct xen_sysctl. xen/include/public/sysctl.h"""

    readconsole: XenSysctlReadconsole = nested(XenSysctlReadconsole)
    physinfo: XenSysctlPhysinfo = nested(XenSysctlPhysinfo)
    cputopoinfo: XenSysctlCputopoinfo = nested(XenSysctlCputopoinfo)
    numainfo: XenSysctlNumainfo = nested(XenSysctlNumainfo)
    sched_id: XenSysctlSchedId = nested(XenSysctlSchedId)
    getdomaininfolist: XenSysctlGetdomaininfolist = nested(XenSysctlGetdomaininfolist)
    debug_keys: XenSysctlDebugKeys = nested(XenSysctlDebugKeys)
    getcpuinfo: XenSysctlGetcpuinfo = nested(XenSysctlGetcpuinfo)
    availheap: XenSysctlAvailheap = nested(XenSysctlAvailheap)
    cpupool_op: XenSysctlCpupoolOp = nested(XenSysctlCpupoolOp)
    scheduler_op: XenSysctlSchedulerOp = nested(XenSysctlSchedulerOp)
    cpu_featureset: XenSysctlCpuFeatureset = nested(XenSysctlCpuFeatureset)
    cpu_policy: XenSysctlCpuPolicy = nested(XenSysctlCpuPolicy)
    pad: bytes = chars(128)


class XenSysctl(Structure):
    """struct xen_sysctl. xen/include/public/sysctl.h"""

    cmd: int = u32()  # XEN_SYSCTL_*
    interface_version: int = u32(default=XEN_SYSCTL_INTERFACE_VERSION)
    u: XenSysctlU = nested(XenSysctlU)
