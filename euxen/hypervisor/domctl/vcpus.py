"""A domain's vCPUs. Source: xen/common/domctl.c, xen/arch/x86/domctl.c, and xen/common/sched/core.c."""

from __future__ import annotations

from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.abi.domctl import (
    XEN_DOMCTL_SENDTRIGGER_NMI,
    XEN_DOMCTL_SENDTRIGGER_POWER,
    XEN_DOMCTL_SENDTRIGGER_SLEEP,
    XEN_VCPUAFFINITY_HARD,
    XEN_VCPUAFFINITY_SOFT,
    XEN_DOMCTL_SCHEDOP_getvcpuinfo,
    XenDomctlExtVcpucontext,
    XenDomctlGetvcpuinfo,
    XenDomctlMaxVcpus,
    XenDomctlSchedulerOp,
    XenDomctlSendtrigger,
    XenDomctlVcpuaffinity,
    XenDomctlVcpucontext,
    XenDomctlVcpuextstate,
)
from euxen.abi.errno import XEN_EINVAL, XEN_ENODATA, XEN_ENOSYS, XEN_ESRCH
from euxen.abi.vcpu import RUNSTATE_running
from euxen.hypervisor import sched
from euxen.hypervisor.domctl.request import Domctl, read_bitmap, write_bitmap
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.guest_context import canonical
from euxen.hypervisor.machine import SCHEDULER_ID
from euxen.hypervisor.vcpu_context import get_context

EXTENDED_FROM = XenDomctlExtVcpucontext.offsetof("vmce")
"""Where what a caller may leave out begins."""
XSAVE_HEADER = 16
"""XCR0, and all that was ever in it. There is no XSAVE, so both are 0, and no area follows."""


def max_vcpus(request: Domctl) -> None:
    """XEN_DOMCTL_max_vcpus: make the vCPUs that createdomain promised."""
    domain = request.other
    if request.load(XenDomctlMaxVcpus).max != domain.max_vcpus:
        raise XenError(XEN_EINVAL)
    domain.create_vcpus()


def setvcpucontext(request: Domctl) -> None:
    """XEN_DOMCTL_setvcpucontext: give a vCPU its first state, or take its state away."""
    op = request.load(XenDomctlVcpucontext)
    domain = request.other
    vcpu = request.vcpu(op.vcpu, XEN_EINVAL, XEN_EINVAL)
    if not op.ctxt:
        domain.reset_vcpu(vcpu)
        return
    if domain.is_dying or domain.engine is None:
        raise XenError(XEN_EINVAL)
    context = VcpuGuestContext.unpack_from(request.caller.read(op.ctxt, VcpuGuestContext.size))
    with domain.paused():
        vcpu.set_context(context)


def getvcpucontext(request: Domctl) -> None:
    """XEN_DOMCTL_getvcpucontext."""
    op = request.load(XenDomctlVcpucontext)
    vcpu = request.vcpu(op.vcpu, XEN_EINVAL, XEN_EINVAL)
    if vcpu is request.caller:
        raise XenError(XEN_EINVAL)
    if not vcpu.is_initialised:
        raise XenError(XEN_ENODATA)
    with request.domain.paused():
        context = vcpu.hvm.context() if vcpu.hvm is not None else get_context(vcpu)
    request.caller.write(op.ctxt, bytes(context))


def get_ext_vcpucontext(request: Domctl) -> None:
    """XEN_DOMCTL_get_ext_vcpucontext: how 32-bit programs enter the kernel. There are no machine checks."""
    op = request.load(XenDomctlExtVcpucontext)
    vcpu = request.vcpu(op.vcpu)
    if vcpu is request.caller:
        raise XenError(XEN_ESRCH)
    op.size_ = XenDomctlExtVcpucontext.size
    # HVM guests' own CPUs know: theirs are 0.
    for call in ("sysenter", "syscall32"):
        setattr(op, f"{call}_callback_cs", 0)
        setattr(op, f"{call}_callback_eip", vcpu.record[f"{call}_callback"])
        setattr(op, f"{call}_disables_events", vcpu.record[f"{call}_disables_events"])
    request.store(op)


def set_ext_vcpucontext(request: Domctl) -> None:
    """XEN_DOMCTL_set_ext_vcpucontext."""
    op = request.load(XenDomctlExtVcpucontext)
    vcpu = request.vcpu(op.vcpu)
    if request.domain is request.caller.domain:
        raise XenError(XEN_ESRCH)
    if op.size_ < EXTENDED_FROM or not canonical(op.sysenter_callback_eip) or not canonical(op.syscall32_callback_eip):
        raise XenError(XEN_EINVAL)
    if request.domain.is_hvm and _means_something(op):
        raise XenError(XEN_EINVAL)
    with request.domain.paused():
        for call in ("sysenter", "syscall32"):
            vcpu.record[f"{call}_callback"] = getattr(op, f"{call}_callback_eip")
            vcpu.record[f"{call}_disables_events"] = int(bool(getattr(op, f"{call}_disables_events")))


def _means_something(op: XenDomctlExtVcpucontext) -> bool:
    """Whether it says anything else than that 32-bit programs enter no kernel of Xen's."""
    selectors = (op.sysenter_callback_cs | op.syscall32_callback_cs) & ~3
    addresses = op.sysenter_callback_eip | op.syscall32_callback_eip
    return bool(selectors | addresses | op.sysenter_disables_events | op.syscall32_disables_events)


def getvcpuextstate(request: Domctl) -> None:
    """XEN_DOMCTL_getvcpuextstate."""
    op = request.load(XenDomctlVcpuextstate)
    if request.vcpu(op.vcpu) is request.caller:
        raise XenError(XEN_EINVAL)
    if op.buffer and (op.size_ or op.xfeature_mask):
        if op.size_ < XSAVE_HEADER or op.xfeature_mask:
            raise XenError(XEN_EINVAL)
        request.caller.write(op.buffer, bytes(XSAVE_HEADER))
    op.xfeature_mask, op.size_ = 0, XSAVE_HEADER
    request.store(op)


def setvcpuextstate(request: Domctl) -> None:
    """XEN_DOMCTL_setvcpuextstate."""
    op = request.load(XenDomctlVcpuextstate)
    if request.vcpu(op.vcpu) is request.caller or op.size_ != XSAVE_HEADER:
        raise XenError(XEN_EINVAL)
    if any(request.caller.read(op.buffer, XSAVE_HEADER)):
        raise XenError(XEN_EINVAL)


def getvcpuinfo(request: Domctl) -> None:
    """XEN_DOMCTL_getvcpuinfo."""
    op = request.load(XenDomctlGetvcpuinfo)
    vcpu = request.vcpu(op.vcpu, XEN_EINVAL)
    op.online = vcpu.record["online"]
    op.blocked = int(vcpu.is_blocked)
    op.running = int(vcpu.record["runstate"] == RUNSTATE_running)
    op.cpu_time = vcpu.cpu_time
    op.cpu = 0
    request.store(op)


def getvcpuaffinity(request: Domctl) -> None:
    """XEN_DOMCTL_getvcpuaffinity."""
    op = request.load(XenDomctlVcpuaffinity)
    vcpu = request.vcpu(op.vcpu, XEN_EINVAL)
    _check_affinity(op)
    cpus = request.hypervisor.machine.pcpus
    if op.flags & XEN_VCPUAFFINITY_HARD:
        write_bitmap(request.caller, op.cpumap_hard, vcpu.hard_affinity, cpus)
    if op.flags & XEN_VCPUAFFINITY_SOFT:
        write_bitmap(request.caller, op.cpumap_soft, vcpu.soft_affinity, cpus)


def setvcpuaffinity(request: Domctl) -> None:
    """XEN_DOMCTL_setvcpuaffinity: both are stored, and told with what is left of them."""
    op = request.load(XenDomctlVcpuaffinity)
    vcpu = request.vcpu(op.vcpu, XEN_EINVAL)
    _check_affinity(op)
    cpus = request.hypervisor.machine.pcpus
    if op.flags & XEN_VCPUAFFINITY_HARD:
        hard = read_bitmap(request.caller, op.cpumap_hard, cpus)
        if not hard:
            raise XenError(XEN_EINVAL)
        if op.flags & XEN_VCPUAFFINITY_SOFT:
            read_bitmap(request.caller, op.cpumap_soft, cpus)  # if that fails, nothing has changed
        vcpu.hard_affinity = hard
        write_bitmap(request.caller, op.cpumap_hard, hard, cpus)
    if op.flags & XEN_VCPUAFFINITY_SOFT:
        vcpu.soft_affinity = read_bitmap(request.caller, op.cpumap_soft, cpus)
        write_bitmap(request.caller, op.cpumap_soft, vcpu.soft_affinity & vcpu.hard_affinity, cpus)


def _check_affinity(op: XenDomctlVcpuaffinity) -> None:
    hard, soft = op.flags & XEN_VCPUAFFINITY_HARD, op.flags & XEN_VCPUAFFINITY_SOFT
    if not op.flags or (hard and not op.cpumap_hard.bitmap) or (soft and not op.cpumap_soft.bitmap):
        raise XenError(XEN_EINVAL)


def scheduler_op(request: Domctl) -> None:
    """XEN_DOMCTL_scheduler_op: the null scheduler has nothing to adjust (sched_adjust)."""
    op = request.load(XenDomctlSchedulerOp)
    if op.sched_id != SCHEDULER_ID or op.cmd > XEN_DOMCTL_SCHEDOP_getvcpuinfo:
        raise XenError(XEN_EINVAL)


def sendtrigger(request: Domctl) -> None:
    """XEN_DOMCTL_sendtrigger: an NMI. Nobody has buttons; to press those of an HVM guest in vain is no error."""
    op = request.load(XenDomctlSendtrigger)
    vcpu = request.vcpu(op.vcpu)
    if op.trigger in (XEN_DOMCTL_SENDTRIGGER_POWER, XEN_DOMCTL_SENDTRIGGER_SLEEP):
        if not request.domain.is_hvm:
            raise XenError(XEN_EINVAL)
        return
    if op.trigger != XEN_DOMCTL_SENDTRIGGER_NMI:
        raise XenError(XEN_ENOSYS)
    vcpu.record["nmi_pending"] = 1
    sched.vcpu_kick(vcpu.record.address)
