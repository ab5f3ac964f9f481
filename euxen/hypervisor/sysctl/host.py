"""The machine: its CPUs, its memory, its domains, its console.

It has one NUMA node, one socket and one CPU pool, under a scheduler that gives each vCPU a CPU of its own.
"""

from __future__ import annotations

import struct

from euxen.abi.cpufeatureset import FEATURESET_WORDS
from euxen.abi.errno import XEN_EINVAL, XEN_ENOBUFS, XEN_ENOENT, XEN_ENOSYS, XEN_ESRCH
from euxen.abi.sysctl import (
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
    XEN_SYSCTL_CPUPOOL_OP_INFO,
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
    XEN_SYSCTL_CPUPOOL_PAR_ANY,
    XEN_SYSCTL_cpu_featureset_pv,
    XEN_SYSCTL_cpu_featureset_pv_max,
    XEN_SYSCTL_cpu_policy_pv_default,
    XEN_SYSCTL_cpu_policy_pv_max,
    XEN_SYSCTL_PHYSCAP_gnttab_v1,
    XEN_SYSCTL_PHYSCAP_hap,
    XEN_SYSCTL_PHYSCAP_hvm,
    XEN_SYSCTL_PHYSCAP_pv,
    XenSysctlAvailheap,
    XenSysctlCpuFeatureset,
    XenSysctlCpuinfo,
    XenSysctlCpuPolicy,
    XenSysctlCpupoolOp,
    XenSysctlCputopo,
    XenSysctlCputopoinfo,
    XenSysctlDebugKeys,
    XenSysctlGetcpuinfo,
    XenSysctlGetdomaininfolist,
    XenSysctlMeminfo,
    XenSysctlNumainfo,
    XenSysctlPhysinfo,
    XenSysctlReadconsole,
    XenSysctlSchedId,
    XenSysctlSchedulerOp,
)
from euxen.cpu.policy import HVM_FEATURES, PV_FEATURES, cpu_leaves
from euxen.hypervisor import cpu_policy, xsm
from euxen.hypervisor.domctl.domains import info_of
from euxen.hypervisor.domctl.request import write_bitmap
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hypervisor import CPUPOOL_0
from euxen.hypervisor.machine import PAGE_SIZE, SCHEDULER_ID
from euxen.hypervisor.sysctl.request import Sysctl

HARDWARE_WORDS = 8
MAX_NUMNODES = 64
LOCAL_DISTANCE = 10
ADDRESS_BITS = 64
POLICIES = 6
PV_FEATURESETS = {XEN_SYSCTL_cpu_featureset_pv, XEN_SYSCTL_cpu_featureset_pv_max}
PV_POLICIES = {XEN_SYSCTL_cpu_policy_pv_default, XEN_SYSCTL_cpu_policy_pv_max}
CAPABILITIES = XEN_SYSCTL_PHYSCAP_hvm | XEN_SYSCTL_PHYSCAP_pv | XEN_SYSCTL_PHYSCAP_hap | XEN_SYSCTL_PHYSCAP_gnttab_v1
MAX_KEYS = 64


def readconsole(request: Sysctl) -> None:
    """XEN_SYSCTL_readconsole."""
    op = request.load(XenSysctlReadconsole)
    start = op.index if op.incremental else None
    console = request.hypervisor.machine.console
    data, _end = console.read(op.count, start, False)
    if data:
        request.caller.write(op.buffer, data)
    _data, op.index = console.read(op.count, start, bool(op.clear))
    op.count = len(data)
    request.store(op)


def debug_keys(request: Sysctl) -> None:
    """XEN_SYSCTL_debug_keys: no key does anything but say so, and the first few are as good as all."""
    op = request.load(XenSysctlDebugKeys)
    for key in request.caller.read(op.keys, min(op.nr_keys, MAX_KEYS)):
        shown = chr(key) if 0x20 < key < 0x7F else f"{key:#04x}"
        request.hypervisor.machine.printk(f"'{shown}' pressed -> nothing is bound to it")


def physinfo(request: Sysctl) -> None:
    """XEN_SYSCTL_physinfo."""
    request.hypervisor.forget_gone()
    machine = request.hypervisor.machine
    record = machine.record
    features = _featureset(HVM_FEATURES)
    request.store(
        XenSysctlPhysinfo(
            threads_per_core=1,
            cores_per_socket=machine.pcpus,
            nr_cpus=machine.pcpus,
            max_cpu_id=machine.pcpus - 1,
            nr_nodes=1,
            max_node_id=MAX_NUMNODES - 1,
            cpu_khz=machine.tsc_khz,
            capabilities=CAPABILITIES,
            total_pages=machine.frames,
            free_pages=record["free_pages"],
            outstanding_pages=record["outstanding_claims"],
            max_mfn=machine.frames - 1,
            hw_cap=tuple(features[:HARDWARE_WORDS]),
        )
    )


def getdomaininfolist(request: Sysctl) -> None:
    """XEN_SYSCTL_getdomaininfolist."""
    op = request.load(XenSysctlGetdomaininfolist)
    op.num_domains, address = 0, op.buffer
    for domain in request.hypervisor.domains:
        if domain.domid < op.first_domain:
            continue
        if op.num_domains == op.max_domains:
            break
        xsm.getdomaininfo(request.caller.domain, domain)
        info = info_of(domain)
        request.caller.write(address, bytes(info))
        op.num_domains, address = op.num_domains + 1, address + info.size
    request.store(op)


def getcpuinfo(request: Sysctl) -> None:
    """XEN_SYSCTL_getcpuinfo: time in which nothing ran, which all CPUs share."""
    op = request.load(XenSysctlGetcpuinfo)
    hypervisor = request.hypervisor
    cpus = hypervisor.machine.pcpus
    busy = sum(vcpu.cpu_time for domain in hypervisor.domains for vcpu in domain.vcpus)
    idle = max(0, hypervisor.machine.now() - busy // cpus)
    op.nr_cpus = min(op.max_cpus, cpus)
    for number in range(op.nr_cpus):
        request.caller.write(op.info + number * XenSysctlCpuinfo.size, bytes(XenSysctlCpuinfo(idletime=idle)))
    request.store(op)


def availheap(request: Sysctl) -> None:
    """XEN_SYSCTL_availheap (avail_domheap_pages_region)."""
    op = request.load(XenSysctlAvailheap)
    request.hypervisor.forget_gone()
    here = op.node in (-1, 0)
    op.avail_bytes = 0
    if here:
        machine = request.hypervisor.machine
        first = _frames_below(op.min_bitwidth) if op.min_bitwidth else 0
        end = _frames_below(op.max_bitwidth) if op.max_bitwidth else machine.frames
        op.avail_bytes = machine.free_frames_between(first, min(end, machine.frames)) * PAGE_SIZE
    request.store(op)


def _frames_below(bits: int) -> int:
    """How many frames have addresses of so many bits."""
    return 1 << max(min(bits, ADDRESS_BITS) - PAGE_SIZE.bit_length() + 1, 0)


def cputopoinfo(request: Sysctl) -> None:
    """XEN_SYSCTL_cputopoinfo: one socket."""
    op = request.load(XenSysctlCputopoinfo)
    cpus = request.hypervisor.machine.pcpus
    if op.cputopo:
        cpus = min(cpus, op.num_cpus)
        for number in range(cpus):
            place = XenSysctlCputopo(core=number, socket=0, node=0)
            request.caller.write(op.cputopo + number * place.size, bytes(place))
    op.num_cpus = cpus
    request.store(op)


def numainfo(request: Sysctl) -> None:
    """XEN_SYSCTL_numainfo: one node."""
    op = request.load(XenSysctlNumainfo)
    nodes = 1
    if op.meminfo or op.distance:
        nodes = min(nodes, op.num_nodes)
        machine = request.hypervisor.machine
        if nodes and op.meminfo:
            free = machine.record["free_pages"] * PAGE_SIZE
            request.caller.write(op.meminfo, bytes(XenSysctlMeminfo(memsize=machine.frames * PAGE_SIZE, memfree=free)))
        if nodes and op.distance:
            request.caller.write(op.distance, LOCAL_DISTANCE.to_bytes(4, "little"))
    op.num_nodes = nodes
    request.store(op)


def sched_id(request: Sysctl) -> None:
    """XEN_SYSCTL_sched_id."""
    request.store(XenSysctlSchedId(sched_id=SCHEDULER_ID))


def scheduler_op(request: Sysctl) -> None:
    """XEN_SYSCTL_scheduler_op: the null scheduler has nothing to adjust (sched_adjust_global)."""
    op = request.load(XenSysctlSchedulerOp)
    if op.cpupool_id != CPUPOOL_0:
        raise XenError(XEN_ESRCH)
    if op.sched_id != SCHEDULER_ID:
        raise XenError(XEN_EINVAL)
    request.store(op)


def cpupool_op(request: Sysctl) -> None:
    """XEN_SYSCTL_cpupool_op: there is one pool, and there can be no other."""
    op = request.load(XenSysctlCpupoolOp)
    hypervisor = request.hypervisor
    cpus = hypervisor.machine.pcpus
    if op.op == XEN_SYSCTL_CPUPOOL_OP_INFO:
        if op.cpupool_id not in (CPUPOOL_0, XEN_SYSCTL_CPUPOOL_PAR_ANY):
            raise XenError(XEN_ENOENT)
        op.cpupool_id, op.sched_id, op.n_dom = CPUPOOL_0, SCHEDULER_ID, len(hypervisor.domains)
        write_bitmap(request.caller, op.cpumap, (1 << cpus) - 1, cpus)
    elif op.op == XEN_SYSCTL_CPUPOOL_OP_FREEINFO:
        write_bitmap(request.caller, op.cpumap, 0, cpus)
    elif op.op == XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN:
        if op.domid == request.caller.domain.domid:
            raise XenError(XEN_EINVAL)
        if hypervisor.find(op.domid) is None:
            raise XenError(XEN_ESRCH)
        if op.cpupool_id != CPUPOOL_0:
            raise XenError(XEN_ENOENT)
    else:
        raise XenError(XEN_ENOSYS)
    request.store(op)


def _featureset(features: frozenset[int]) -> list[int]:
    """Features, by words of the feature set."""
    words = [0] * (max(FEATURESET_WORDS) + 1)
    for feature in features:
        words[feature // 32] |= 1 << feature % 32
    return words


def get_cpu_featureset(request: Sysctl) -> None:
    """XEN_SYSCTL_get_cpu_featureset: what PV guests can have, or all that the CPU has, which HVM guests can have."""
    op = request.load(XenSysctlCpuFeatureset)
    words = _featureset(PV_FEATURES if op.index in PV_FEATURESETS else HVM_FEATURES)
    if not op.features:
        op.nr_features = len(words)
        request.store(op)
        return
    if op.index >= POLICIES:
        raise XenError(XEN_EINVAL)
    op.nr_features = min(op.nr_features, len(words))
    request.caller.write(op.features, struct.pack(f"<{op.nr_features}I", *words[: op.nr_features]))
    request.store(op)
    if op.nr_features < len(words):
        raise XenError(XEN_ENOBUFS)


def get_cpu_policy(request: Sysctl) -> None:
    """XEN_SYSCTL_get_cpu_policy: the same with all else that CPUID tells."""
    op = request.load(XenSysctlCpuPolicy)
    if op._rsvd or op.index >= POLICIES:
        raise XenError(XEN_EINVAL)
    leaves = cpu_leaves(PV_FEATURES if op.index in PV_POLICIES else HVM_FEATURES)
    op.nr_leaves = cpu_policy.copy_to_caller(request.caller, leaves, op.leaves, op.nr_leaves)
    op.nr_msrs = cpu_policy.copy_msrs(request.caller, op.msrs, op.nr_msrs)
    request.store(op)
