"""HYPERVISOR_domctl: every command and who answers it. Source: do_domctl and arch_do_domctl in Xen's domctl.c."""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi import domctl as abi
from euxen.abi.errno import XEN_EACCES, XEN_ENOSYS, XEN_ESRCH
from euxen.hypervisor import xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domctl import devices, domains, hvm, pages, platform, vcpus
from euxen.hypervisor.domctl.request import HEADER, Domctl
from euxen.hypervisor.errors import XenError

OPERATIONS: dict[int, Callable[[Domctl], None]] = {
    abi.XEN_DOMCTL_createdomain: domains.createdomain,
    abi.XEN_DOMCTL_destroydomain: domains.destroydomain,
    abi.XEN_DOMCTL_pausedomain: domains.pausedomain,
    abi.XEN_DOMCTL_unpausedomain: domains.unpausedomain,
    abi.XEN_DOMCTL_resumedomain: domains.resumedomain,
    abi.XEN_DOMCTL_getdomaininfo: domains.getdomaininfo,
    abi.XEN_DOMCTL_setdomainhandle: domains.setdomainhandle,
    abi.XEN_DOMCTL_setdebugging: domains.setdebugging,
    abi.XEN_DOMCTL_set_target: domains.set_target,
    abi.XEN_DOMCTL_subscribe: domains.subscribe,
    abi.XEN_DOMCTL_set_virq_handler: domains.set_virq_handler,
    abi.XEN_DOMCTL_setnodeaffinity: domains.setnodeaffinity,
    abi.XEN_DOMCTL_getnodeaffinity: domains.getnodeaffinity,
    abi.XEN_DOMCTL_max_vcpus: vcpus.max_vcpus,
    abi.XEN_DOMCTL_setvcpucontext: vcpus.setvcpucontext,
    abi.XEN_DOMCTL_getvcpucontext: vcpus.getvcpucontext,
    abi.XEN_DOMCTL_set_ext_vcpucontext: vcpus.set_ext_vcpucontext,
    abi.XEN_DOMCTL_get_ext_vcpucontext: vcpus.get_ext_vcpucontext,
    abi.XEN_DOMCTL_setvcpuextstate: vcpus.setvcpuextstate,
    abi.XEN_DOMCTL_getvcpuextstate: vcpus.getvcpuextstate,
    abi.XEN_DOMCTL_getvcpuinfo: vcpus.getvcpuinfo,
    abi.XEN_DOMCTL_setvcpuaffinity: vcpus.setvcpuaffinity,
    abi.XEN_DOMCTL_getvcpuaffinity: vcpus.getvcpuaffinity,
    abi.XEN_DOMCTL_scheduler_op: vcpus.scheduler_op,
    abi.XEN_DOMCTL_sendtrigger: vcpus.sendtrigger,
    abi.XEN_DOMCTL_max_mem: pages.max_mem,
    abi.XEN_DOMCTL_getpageframeinfo3: pages.getpageframeinfo3,
    abi.XEN_DOMCTL_hypercall_init: pages.hypercall_init,
    abi.XEN_DOMCTL_shadow_op: hvm.shadow_op,
    abi.XEN_DOMCTL_set_address_size: platform.set_address_size,
    abi.XEN_DOMCTL_get_address_size: platform.get_address_size,
    abi.XEN_DOMCTL_settimeoffset: platform.settimeoffset,
    abi.XEN_DOMCTL_settscinfo: platform.settscinfo,
    abi.XEN_DOMCTL_gettscinfo: platform.gettscinfo,
    abi.XEN_DOMCTL_set_cpu_policy: platform.set_cpu_policy,
    abi.XEN_DOMCTL_get_cpu_policy: platform.get_cpu_policy,
    abi.XEN_DOMCTL_irq_permission: devices.irq_permission,
    abi.XEN_DOMCTL_iomem_permission: devices.iomem_permission,
    abi.XEN_DOMCTL_ioport_permission: devices.ioport_permission,
    abi.XEN_DOMCTL_memory_mapping: devices.memory_mapping,
    abi.XEN_DOMCTL_ioport_mapping: devices.ioport_mapping,
    abi.XEN_DOMCTL_gethvmcontext: hvm.gethvmcontext,
    abi.XEN_DOMCTL_sethvmcontext: hvm.sethvmcontext,
    abi.XEN_DOMCTL_gethvmcontext_partial: hvm.gethvmcontext_partial,
    abi.XEN_DOMCTL_bind_pt_irq: devices.pt_irq,
    abi.XEN_DOMCTL_unbind_pt_irq: devices.pt_irq,
    abi.XEN_DOMCTL_get_paging_mempool_size: hvm.get_paging_mempool_size,
    abi.XEN_DOMCTL_set_paging_mempool_size: hvm.set_paging_mempool_size,
    abi.XEN_DOMCTL_psr_cmt_op: devices.no_monitoring,
    abi.XEN_DOMCTL_psr_alloc: devices.no_allocation,
    abi.XEN_DOMCTL_assign_device: devices.no_iommu,
    abi.XEN_DOMCTL_deassign_device: devices.no_iommu,
    abi.XEN_DOMCTL_test_assign_device: devices.no_iommu,
    abi.XEN_DOMCTL_get_device_group: devices.no_iommu,
}

WITHOUT_A_DOMAIN = {abi.XEN_DOMCTL_createdomain, abi.XEN_DOMCTL_getdomaininfo}
"""The commands for which there need be no domain with the number that is given."""


def do_domctl(caller: Caller, address: int, *_rest: int) -> int:
    """HYPERVISOR_domctl, with the structure at an address of the caller's. Raises XenError and Continuation."""
    data = caller.read(address, abi.XenDomctl.size)
    command, version, domid = HEADER.unpack_from(data)
    if version != abi.XEN_DOMCTL_INTERFACE_VERSION:
        raise XenError(XEN_EACCES)
    hypervisor = caller.domain.hypervisor
    with hypervisor.machine.lock:
        domain = None if command == abi.XEN_DOMCTL_createdomain else hypervisor.find(domid)
        if domain is None and command not in WITHOUT_A_DOMAIN:
            raise XenError(XEN_ESRCH)
        xsm.domctl(caller.domain, domain, command)
        operation = OPERATIONS.get(command)
        if operation is None:
            raise XenError(XEN_ENOSYS)
        with hypervisor.managing(caller, address):
            operation(Domctl(caller, address, data, command, domid, domain))
    return 0
