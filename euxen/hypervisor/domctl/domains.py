"""Domains as a whole: creating, pausing, ending, and telling of them. Source: xen/common/domctl.c and domain.c."""

from __future__ import annotations

from uuid import UUID

from euxen.abi.arch_x86_xen import XenArchDomainconfig
from euxen.abi.domctl import (
    XEN_INVALID_MAX_VCPU_ID,
    XEN_DOMCTL_CDF_xs_domain,
    XEN_DOMINF_blocked,
    XEN_DOMINF_debugged,
    XEN_DOMINF_dying,
    XEN_DOMINF_hap,
    XEN_DOMINF_hvm_guest,
    XEN_DOMINF_paused,
    XEN_DOMINF_running,
    XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownshift,
    XEN_DOMINF_xs_domain,
    XenDomctlCreatedomain,
    XenDomctlGetdomaininfo,
    XenDomctlNodeaffinity,
    XenDomctlSetdebugging,
    XenDomctlSetdomainhandle,
    XenDomctlSetTarget,
    XenDomctlSetVirqHandler,
    XenDomctlSubscribe,
)
from euxen.abi.errno import XEN_EINVAL, XEN_EOPNOTSUPP, XEN_ESRCH
from euxen.abi.vcpu import RUNSTATE_running
from euxen.abi.xen import DOMID_FIRST_RESERVED
from euxen.hypervisor import xsm
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.domctl.request import Domctl, read_bitmap, write_bitmap
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.records import DOMDYING_dead

SHUTDOWN_CODE_INVALID = 0xFFFF_FFFF
MAX_NUMNODES = 64
ONLINE_NODES = 1
"""A bit map: one node has all CPUs and all memory."""


def createdomain(request: Domctl) -> None:
    """XEN_DOMCTL_createdomain."""
    config = request.load(XenDomctlCreatedomain)
    domain = request.hypervisor.create(request.domid, config)
    request.store(config, domain.domid)


def destroydomain(request: Domctl) -> None:
    """XEN_DOMCTL_destroydomain."""
    if not request.hypervisor.kill(request.other, request.caller.hypercall_preempt_check):
        raise Continuation(request.address)


def pausedomain(request: Domctl) -> None:
    """XEN_DOMCTL_pausedomain."""
    request.other.pause_by_systemcontroller()


def unpausedomain(request: Domctl) -> None:
    """XEN_DOMCTL_unpausedomain."""
    request.domain.unpause_by_systemcontroller()


def resumedomain(request: Domctl) -> None:
    """XEN_DOMCTL_resumedomain."""
    request.other.resume()


def getdomaininfo(request: Domctl) -> None:
    """XEN_DOMCTL_getdomaininfo: of the domain, or of the next one that there is."""
    domain = request.found
    if domain is None:
        if request.domid >= DOMID_FIRST_RESERVED:
            raise XenError(XEN_EINVAL)
        domain = next((domain for domain in request.hypervisor.domains if domain.domid >= request.domid), None)
    if domain is None:
        raise XenError(XEN_ESRCH)
    xsm.getdomaininfo(request.caller.domain, domain)
    request.store(info_of(domain), domain.domid)


def info_of(domain: Domain) -> XenDomctlGetdomaininfo:
    """What is told of a domain (getdomaininfo)."""
    record = domain.record
    online = [vcpu for vcpu in domain.vcpus if vcpu.record["online"]]
    shutdown_code = SHUTDOWN_CODE_INVALID if domain.shutdown_code is None else domain.shutdown_code
    flags = {
        XEN_DOMINF_blocked: bool(online) and all(vcpu.is_blocked for vcpu in online),
        XEN_DOMINF_running: any(vcpu.record["runstate"] == RUNSTATE_running for vcpu in online),
        XEN_DOMINF_hvm_guest: domain.is_hvm,
        XEN_DOMINF_hap: domain.is_hvm,
        XEN_DOMINF_dying: record["is_dying"] == DOMDYING_dead,
        XEN_DOMINF_shutdown: domain.is_shut_down,
        XEN_DOMINF_paused: domain.controller_pause_count > 0,
        XEN_DOMINF_debugged: domain.debugger_attached,
        XEN_DOMINF_xs_domain: bool(domain.config.flags & XEN_DOMCTL_CDF_xs_domain),
    }
    return XenDomctlGetdomaininfo(
        domain=domain.domid,
        flags=(sum(flag for flag, holds in flags.items() if holds) | shutdown_code << XEN_DOMINF_shutdownshift)
        & 0xFFFF_FFFF,
        tot_pages=record["tot_pages"],
        max_pages=record["max_pages"],
        outstanding_pages=record["outstanding_pages"],
        shared_info_frame=domain.gfn_of(domain.shared_info_frame),
        cpu_time=sum(vcpu.cpu_time for vcpu in domain.vcpus),
        nr_online_vcpus=len(online),
        max_vcpu_id=len(domain.vcpus) - 1 if domain.vcpus else XEN_INVALID_MAX_VCPU_ID,
        handle=domain.handle.bytes,
        cpupool=domain.config.cpupool_id,
        arch_config=XenArchDomainconfig(emulation_flags=domain.config.arch.emulation_flags),
    )


def setdomainhandle(request: Domctl) -> None:
    """XEN_DOMCTL_setdomainhandle."""
    request.domain.handle = UUID(bytes=request.load(XenDomctlSetdomainhandle).handle)


def setdebugging(request: Domctl) -> None:
    """XEN_DOMCTL_setdebugging: whether a debugger wants to see the guest's breakpoints."""
    request.other.debugger_attached = bool(request.load(XenDomctlSetdebugging).enable)


def set_target(request: Domctl) -> None:
    """XEN_DOMCTL_set_target, which is for the device models of HVM guests."""
    target = request.hypervisor.find(request.load(XenDomctlSetTarget).target)
    if target is None:
        raise XenError(XEN_ESRCH)
    raise XenError(XEN_EINVAL if target is request.domain else XEN_EOPNOTSUPP)


def subscribe(request: Domctl) -> None:
    """XEN_DOMCTL_subscribe."""
    request.domain.suspend_evtchn = request.load(XenDomctlSubscribe).port


def set_virq_handler(request: Domctl) -> None:
    """XEN_DOMCTL_set_virq_handler."""
    request.hypervisor.set_global_virq_handler(request.domain, request.load(XenDomctlSetVirqHandler).virq)


def setnodeaffinity(request: Domctl) -> None:
    """XEN_DOMCTL_setnodeaffinity: stored and told; there is one node."""
    nodes = read_bitmap(request.caller, request.load(XenDomctlNodeaffinity).nodemap, MAX_NUMNODES)
    if not nodes & ONLINE_NODES:
        raise XenError(XEN_EINVAL)
    request.domain.node_affinity = None if nodes == (1 << MAX_NUMNODES) - 1 else nodes


def getnodeaffinity(request: Domctl) -> None:
    """XEN_DOMCTL_getnodeaffinity: that, or by itself where the vCPUs may run, once there are any."""
    domain = request.domain
    nodes = domain.node_affinity
    if nodes is None:
        nodes = ONLINE_NODES if domain.vcpus else (1 << MAX_NUMNODES) - 1
    write_bitmap(request.caller, request.load(XenDomctlNodeaffinity).nodemap, nodes, MAX_NUMNODES)
