"""The CPU and the clocks that a domain sees. Source: xen/arch/x86/domctl.c and xen/arch/x86/time.c."""

from __future__ import annotations

from euxen.abi.domctl import (
    XenDomctlAddressSize,
    XenDomctlCpuPolicy,
    XenDomctlSettimeoffset,
    XenDomctlTscInfo,
)
from euxen.abi.errno import XEN_EEXIST, XEN_EINVAL, XEN_EOPNOTSUPP
from euxen.cpu.policy import HVM_FEATURES, PV_FEATURES
from euxen.hypervisor import cpu_policy
from euxen.hypervisor.domctl.request import Domctl
from euxen.hypervisor.errors import XenError

ADDRESS_BITS, OLD_ADDRESS_BITS = 64, 32
TSC_MODE_DEFAULT, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_NEVER_EMULATE = range(3)


def get_address_size(request: Domctl) -> None:
    """XEN_DOMCTL_get_address_size."""
    request.store(XenDomctlAddressSize(size_=ADDRESS_BITS))


def set_address_size(request: Domctl) -> None:
    """XEN_DOMCTL_set_address_size, in a Xen without 32-bit PV guests."""
    size = request.load(XenDomctlAddressSize).size_
    if size != ADDRESS_BITS:
        raise XenError(XEN_EOPNOTSUPP if size == OLD_ADDRESS_BITS else XEN_EINVAL)


def settimeoffset(request: Domctl) -> None:
    """XEN_DOMCTL_settimeoffset: what the domain's wall clock is ahead of UTC."""
    request.domain.time_offset_seconds = request.load(XenDomctlSettimeoffset).time_offset_seconds
    request.domain.update_wall_clock()


def gettscinfo(request: Domctl) -> None:
    """XEN_DOMCTL_gettscinfo (tsc_get_info)."""
    domain, machine = request.other, request.hypervisor.machine
    told = domain.tsc_mode != TSC_MODE_NEVER_EMULATE
    request.store(
        XenDomctlTscInfo(
            tsc_mode=domain.tsc_mode,
            gtsc_khz=machine.tsc_khz if told else 0,
            incarnation=domain.tsc_incarnation,
            elapsed_nsec=machine.now() if told else 0,
        )
    )


def settscinfo(request: Domctl) -> None:
    """XEN_DOMCTL_settscinfo (tsc_set_info): in any mode it is the machine's counter, at the machine's speed."""
    op, domain = request.load(XenDomctlTscInfo), request.other
    if op.tsc_mode > TSC_MODE_NEVER_EMULATE:
        raise XenError(XEN_EINVAL)
    if op.tsc_mode != TSC_MODE_NEVER_EMULATE and op.gtsc_khz not in (0, request.hypervisor.machine.tsc_khz):
        raise XenError(XEN_EOPNOTSUPP)
    domain.tsc_mode, domain.tsc_incarnation = op.tsc_mode, op.incarnation


def get_cpu_policy(request: Domctl) -> None:
    """XEN_DOMCTL_get_cpu_policy."""
    op = request.load(XenDomctlCpuPolicy)
    op.nr_leaves = cpu_policy.copy_to_caller(request.caller, request.domain.cpuid, op.leaves, op.nr_leaves)
    op.nr_msrs = cpu_policy.copy_msrs(request.caller, op.msrs, op.nr_msrs)
    request.store(op)


def set_cpu_policy(request: Domctl) -> None:
    """XEN_DOMCTL_set_cpu_policy: leaves and MSRs that take the place of the domain's, before it runs."""
    op, domain = request.load(XenDomctlCpuPolicy), request.other
    if domain.creation_finished:
        raise XenError(XEN_EEXIST)
    try:
        possible = HVM_FEATURES if domain.is_hvm else PV_FEATURES
        leaves = cpu_policy.merged(request.caller, domain.cpuid, op.leaves, op.nr_leaves, possible)
        cpu_policy.check_msrs(request.caller, op.msrs, op.nr_msrs)
    except cpu_policy.PolicyError as error:
        op.err_leaf, op.err_subleaf, op.err_msr = error.leaf, error.subleaf, error.msr
        request.store(op)
        raise XenError(error.errno) from None
    domain.set_cpuid(leaves)
