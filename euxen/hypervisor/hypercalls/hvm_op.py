"""HYPERVISOR_hvm_op. Source: do_hvm_op, hvm_set_param and hvm_get_param in xen/arch/x86/hvm/hvm.c; hvm_set_callback_via
in irq.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import hvm_op as abi
from euxen.abi import hvm_params as params
from euxen.abi.errno import (
    XEN_EEXIST,
    XEN_EINVAL,
    XEN_ENOENT,
    XEN_ENOSYS,
    XEN_EOPNOTSUPP,
    XEN_EPERM,
    XEN_ESRCH,
)
from euxen.abi.sched import SHUTDOWN_MAX
from euxen.abi.xen import DOMID_SELF
from euxen.hypervisor import upcall, xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hvm.domain import HvmDomain
from euxen.hypervisor.hvm.hypercall_page import latch_shinfo_size
from euxen.hypervisor.hvm.records import HVMIRQ_callback_vector
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.mm.page import flush_domain_tlb
from euxen.hypervisor.vcpu import Vcpu

FIRST_VECTOR = 0x10
TSS32_SIZE = 104
LONGEST_TSS = TSS32_SIZE + 0x100 // 8 + 0x10000 // 8 + 1
OLD_TSS_SIZE = 128
TRACE_SUBCLASS_SHIFT, LONGEST_TRACE = 12, 28
LOW = 0xFFFF_FFFF

SET_BY_GUEST = {
    *(params.HVM_PARAM_CALLBACK_IRQ, params.HVM_PARAM_VM86_TSS, params.HVM_PARAM_VM86_TSS_SIZED),
    *(params.HVM_PARAM_ACPI_IOPORTS_LOCATION, params.HVM_PARAM_VM_GENERATION_ID_ADDR),
    *(params.HVM_PARAM_STORE_EVTCHN, params.HVM_PARAM_CONSOLE_EVTCHN, params.HVM_PARAM_X87_FIP_WIDTH),
}
READ_BY_GUEST = SET_BY_GUEST | {
    *(params.HVM_PARAM_STORE_PFN, params.HVM_PARAM_CONSOLE_PFN, params.HVM_PARAM_ALTP2M),
}
DEPRECATED = {
    *(params.HVM_PARAM_PAE_ENABLED, params.HVM_PARAM_DM_DOMAIN, params.HVM_PARAM_MEMORY_EVENT_CR0),
    *(params.HVM_PARAM_MEMORY_EVENT_CR3, params.HVM_PARAM_MEMORY_EVENT_CR4, params.HVM_PARAM_MEMORY_EVENT_INT3),
    *(params.HVM_PARAM_NESTEDHVM, params.HVM_PARAM_MEMORY_EVENT_SINGLE_STEP, params.HVM_PARAM_BUFIOREQ_EVTCHN),
    params.HVM_PARAM_MEMORY_EVENT_MSR,
}
SET_ONCE = {
    *(params.HVM_PARAM_VIRIDIAN, params.HVM_PARAM_IOREQ_PFN, params.HVM_PARAM_BUFIOREQ_PFN),
    *(params.HVM_PARAM_IOREQ_SERVER_PFN, params.HVM_PARAM_NR_IOREQ_SERVER_PAGES, params.HVM_PARAM_MCA_CAP),
}


def hvm_op(caller: Caller, command: int, argument: int, *_rest: int) -> int:
    """An operation of the caller's, or on a domain that it names."""
    operation = OPERATIONS.get(command)
    if operation is None:
        raise XenError(XEN_ENOSYS)
    operation(caller, argument)
    return 0


def _domain_named(caller: Caller, domid: int) -> Domain:
    domain = caller.domain if domid == DOMID_SELF else caller.domain.event_channels.domain_at(domid)
    if domain is None:
        raise XenError(XEN_ESRCH)
    return domain


def _vcpu(caller: Caller) -> Vcpu:
    """The vCPU of an HVM domain that asks for something for itself. Raises XenError if it is none."""
    if not isinstance(caller, Vcpu) or caller.hvm is None:
        raise XenError(XEN_EINVAL)
    return caller


# Parameters.


def _param_named(caller: Caller, argument: int) -> tuple[abi.XenHvmParam, Domain, HvmDomain]:
    """The request for a parameter, and the domain whose it is. Raises XenError."""
    op = abi.XenHvmParam.unpack_from(caller.read(argument, abi.XenHvmParam.size))
    if op.index >= params.HVM_NR_PARAMS:
        raise XenError(XEN_EINVAL)
    domain = _domain_named(caller, op.domid)
    if domain.hvm is None:
        raise XenError(XEN_EINVAL)
    xsm.hvm_param(caller.domain, domain)
    return op, domain, domain.hvm


def _set_param(caller: Caller, argument: int) -> None:
    op, domain, hvm = _param_named(caller, argument)
    _may_set(caller.domain, domain, hvm, op.index, op.value)
    index, value = _checked(caller, domain, op.index, op.value)
    hvm.params[index] = value


def _may_set(source: Domain, domain: Domain, hvm: HvmDomain, index: int, value: int) -> None:
    """hvm_allow_set_param. Raises XenError."""
    if index in DEPRECATED:
        raise XenError(XEN_EINVAL)
    if index == params.HVM_PARAM_ALTP2M:
        raise XenError(XEN_EEXIST)
    if index not in SET_BY_GUEST and domain is source:
        raise XenError(XEN_EPERM)
    if index in SET_ONCE and hvm.params[index] not in (0, value):
        raise XenError(XEN_EEXIST)


def _checked(caller: Caller, domain: Domain, index: int, value: int) -> tuple[int, int]:
    """Do what a parameter means; which one it is then, and its value. Raises XenError for a value that cannot be."""
    own = domain is caller.domain
    if index == params.HVM_PARAM_CALLBACK_IRQ:
        _set_callback_via(domain, value)
        if own:
            latch_shinfo_size(_vcpu(caller))
    elif index in (params.HVM_PARAM_VM86_TSS, params.HVM_PARAM_VM86_TSS_SIZED):
        return params.HVM_PARAM_VM86_TSS_SIZED, _tss(domain, own, index, value)
    elif index == params.HVM_PARAM_ACPI_IOPORTS_LOCATION:
        raise XenError(XEN_EINVAL)  # there are no such ports: pmtimer_change_ioport
    elif index in POSSIBLE and not POSSIBLE[index](value):
        raise XenError(XEN_EINVAL)
    return index, value


POSSIBLE: dict[int, Callable[[int], bool]] = {
    params.HVM_PARAM_TIMER_MODE: lambda value: value <= params.HVMPTM_one_missed_tick_pending,
    params.HVM_PARAM_VIRIDIAN: lambda value: value == 0,  # Hyper-V's interface is not offered
    params.HVM_PARAM_ACPI_S_STATE: lambda value: value == 0,  # no machine sleeps
    params.HVM_PARAM_TRIPLE_FAULT_REASON: lambda value: value <= SHUTDOWN_MAX,
    params.HVM_PARAM_NR_IOREQ_SERVER_PAGES: lambda value: 0 < value <= 64,
    params.HVM_PARAM_X87_FIP_WIDTH: lambda value: value in (0, 4, 8),
    params.HVM_PARAM_MCA_CAP: lambda value: value & ~params.XEN_HVM_MCA_CAP_MASK == 0,
}


def _tss(domain: Domain, own: bool, index: int, value: int) -> int:
    """Where a CPU that cannot do without would have a TSS for real mode: an address, and above it a length."""
    if index == params.HVM_PARAM_VM86_TSS:
        wrong = value > LOW
        value = value | OLD_TSS_SIZE << 32 if value else 0
    else:
        wrong = value >> 32 < TSS32_SIZE
        value = value & LOW | min(value >> 32, LONGEST_TSS) << 32
    if wrong:
        if own:
            domain.crash("The guest names a task-state segment that cannot be one.")
        raise XenError(XEN_EINVAL)
    return value


def _set_callback_via(domain: Domain, via: int) -> None:
    """How events reach the domain: by a vector, or, without a board, not at all (hvm_set_callback_via)."""
    assert domain.hvm is not None
    kind = (via & params.HVM_PARAM_CALLBACK_IRQ_TYPE_MASK) >> 56
    record = domain.hvm.record
    if kind != params.HVM_PARAM_CALLBACK_TYPE_VECTOR:
        return  # those need an interrupt controller
    record["callback_vector"], record["callback_type"] = via & 0xFF, HVMIRQ_callback_vector
    for vcpu in domain.vcpus:
        if vcpu.record["online"]:
            upcall.assert_evtchn_irq(vcpu.record.address)


def _get_param(caller: Caller, argument: int) -> None:
    op, domain, hvm = _param_named(caller, argument)
    if op.index in DEPRECATED:
        raise XenError(XEN_EINVAL)
    if op.index not in READ_BY_GUEST and domain is caller.domain:
        raise XenError(XEN_EPERM)
    if op.index == params.HVM_PARAM_VM86_TSS:
        op.value = hvm.params[params.HVM_PARAM_VM86_TSS_SIZED] & LOW
    else:
        op.value = hvm.params[op.index]
    caller.write(argument, bytes(op))


# The others.


def _set_evtchn_upcall_vector(caller: Caller, argument: int) -> None:
    """HVMOP_set_evtchn_upcall_vector: events reach a vCPU by its local APIC."""
    vcpu = _vcpu(caller)
    op = abi.XenHvmEvtchnUpcallVector.unpack_from(caller.read(argument, abi.XenHvmEvtchnUpcallVector.size))
    if op.vector < FIRST_VECTOR:
        raise XenError(XEN_EINVAL)
    if op.vcpu >= len(vcpu.domain.vcpus):
        raise XenError(XEN_ENOENT)
    target = vcpu.domain.vcpus[op.vcpu]
    assert target.hvm is not None
    target.hvm.record["evtchn_upcall_vector"] = op.vector
    upcall.assert_evtchn_irq(target.record.address)


def _flush_tlbs(caller: Caller, argument: int) -> None:
    """HVMOP_flush_tlbs: of all vCPUs."""
    if argument:
        raise XenError(XEN_EINVAL)
    flush_domain_tlb(_vcpu(caller).domain.record.address)


def _pagetable_dying(caller: Caller, argument: int) -> None:
    """HVMOP_pagetable_dying: a hint for a Xen with shadow page tables. With its own p2m a guest needs none."""
    op = abi.XenHvmPagetableDying.unpack_from(caller.read(argument, abi.XenHvmPagetableDying.size))
    domain = _domain_named(caller, op.domid)
    raise XenError(XEN_EINVAL if domain is caller.domain else XEN_EOPNOTSUPP)


def _get_time(caller: Caller, argument: int) -> None:
    """HVMOP_get_time."""
    caller.write(argument, bytes(abi.XenHvmGetTime(now=caller.domain.machine.now())))


def _get_mem_type(caller: Caller, argument: int) -> None:
    """HVMOP_get_mem_type: what is at a guest frame."""
    op = abi.XenHvmGetMemType.unpack_from(caller.read(argument, abi.XenHvmGetMemType.size))
    domain = _domain_named(caller, op.domid)
    xsm.hvm_param(caller.domain, domain)
    if domain.hvm is None:
        raise XenError(XEN_EINVAL)
    entry = domain.hvm.p2m.entry(op.pfn)
    kind = entry >> p2m.TYPE_SHIFT if entry else p2m.p2m_mmio_dm
    if kind == p2m.p2m_mmio_dm:
        op.mem_type = abi.HVMMEM_mmio_dm
    else:
        op.mem_type = abi.HVMMEM_ram_ro if kind == p2m.p2m_grant_map_ro else abi.HVMMEM_ram_rw
    caller.write(argument, bytes(op))


def _xentrace(caller: Caller, argument: int) -> None:
    """HVMOP_xentrace: nobody traces."""
    event, extra = struct.unpack_from("<HH", caller.read(argument, 4 + LONGEST_TRACE))
    if extra % 4 or extra > LONGEST_TRACE or event >> TRACE_SUBCLASS_SHIFT:
        raise XenError(XEN_EINVAL)


def _guest_request_vm_event(caller: Caller, argument: int) -> None:
    """HVMOP_guest_request_vm_event: nobody monitors."""
    if argument:
        raise XenError(XEN_EINVAL)


def _altp2m(caller: Caller, argument: int) -> None:
    """HVMOP_altp2m, in a Xen whose hardware has none."""
    raise XenError(XEN_EOPNOTSUPP)


OPERATIONS: dict[int, Callable[[Caller, int], None]] = {
    abi.HVMOP_set_param: _set_param,
    abi.HVMOP_get_param: _get_param,
    abi.HVMOP_flush_tlbs: _flush_tlbs,
    abi.HVMOP_pagetable_dying: _pagetable_dying,
    abi.HVMOP_get_time: _get_time,
    abi.HVMOP_xentrace: _xentrace,
    abi.HVMOP_get_mem_type: _get_mem_type,
    abi.HVMOP_set_evtchn_upcall_vector: _set_evtchn_upcall_vector,
    abi.HVMOP_guest_request_vm_event: _guest_request_vm_event,
    abi.HVMOP_altp2m: _altp2m,
}
