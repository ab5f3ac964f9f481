"""HYPERVISOR_sysctl: every command and who answers it. Source: xen/common/sysctl.c and xen/arch/x86/sysctl.c."""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import sysctl as abi
from euxen.abi.errno import XEN_EACCES, XEN_ENOSYS
from euxen.hypervisor import xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.sysctl import host
from euxen.hypervisor.sysctl.request import Sysctl

HEADER = struct.Struct("<II")
"""The command, and the version of the interface that the caller knows."""

OPERATIONS: dict[int, Callable[[Sysctl], None]] = {
    abi.XEN_SYSCTL_readconsole: host.readconsole,
    abi.XEN_SYSCTL_debug_keys: host.debug_keys,
    abi.XEN_SYSCTL_physinfo: host.physinfo,
    abi.XEN_SYSCTL_getdomaininfolist: host.getdomaininfolist,
    abi.XEN_SYSCTL_getcpuinfo: host.getcpuinfo,
    abi.XEN_SYSCTL_availheap: host.availheap,
    abi.XEN_SYSCTL_cputopoinfo: host.cputopoinfo,
    abi.XEN_SYSCTL_numainfo: host.numainfo,
    abi.XEN_SYSCTL_sched_id: host.sched_id,
    abi.XEN_SYSCTL_scheduler_op: host.scheduler_op,
    abi.XEN_SYSCTL_cpupool_op: host.cpupool_op,
    abi.XEN_SYSCTL_get_cpu_featureset: host.get_cpu_featureset,
    abi.XEN_SYSCTL_get_cpu_policy: host.get_cpu_policy,
}


def do_sysctl(caller: Caller, address: int, *_rest: int) -> int:
    """HYPERVISOR_sysctl, with the structure at an address of the caller's. Raises XenError."""
    data = caller.read(address, abi.XenSysctl.size)
    command, version = HEADER.unpack_from(data)
    if version != abi.XEN_SYSCTL_INTERFACE_VERSION:
        raise XenError(XEN_EACCES)
    xsm.sysctl(caller.domain)
    operation = OPERATIONS.get(command)
    if operation is None:
        raise XenError(XEN_ENOSYS)
    with caller.domain.machine.lock:
        operation(Sysctl(caller, address, data))
    return 0
