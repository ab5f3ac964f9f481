"""HYPERVISOR_event_channel_op, for guests. The operations themselves are in ``hypervisor.event_channels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from euxen.abi import event_channel as abi
from euxen.abi.errno import XEN_ENOSYS
from euxen.abi.structure import Structure
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.event_channels import EventChannels, Preempted
from euxen.hypervisor.vcpu import Vcpu

Operation = Callable[[EventChannels, Any], None]

OPERATIONS: dict[int, tuple[type[Structure], Operation]] = {
    abi.EVTCHNOP_bind_interdomain: (abi.EvtchnBindInterdomain, EventChannels.bind_interdomain),
    abi.EVTCHNOP_bind_virq: (abi.EvtchnBindVirq, EventChannels.bind_virq),
    abi.EVTCHNOP_bind_ipi: (abi.EvtchnBindIpi, EventChannels.bind_ipi),
    abi.EVTCHNOP_bind_pirq: (abi.EvtchnBindPirq, EventChannels.bind_pirq),
    abi.EVTCHNOP_close: (abi.EvtchnClose, EventChannels.close),
    abi.EVTCHNOP_send: (abi.EvtchnSend, EventChannels.send),
    abi.EVTCHNOP_status: (abi.EvtchnStatus, EventChannels.status),
    abi.EVTCHNOP_alloc_unbound: (abi.EvtchnAllocUnbound, EventChannels.alloc_unbound),
    abi.EVTCHNOP_bind_vcpu: (abi.EvtchnBindVcpu, EventChannels.bind_vcpu),
    abi.EVTCHNOP_unmask: (abi.EvtchnUnmask, EventChannels.unmask),
    abi.EVTCHNOP_init_control: (abi.EvtchnInitControl, EventChannels.init_control),
    abi.EVTCHNOP_expand_array: (abi.EvtchnExpandArray, EventChannels.expand_array),
    abi.EVTCHNOP_set_priority: (abi.EvtchnSetPriority, EventChannels.set_priority),
}
HAS_OUTPUT = {
    abi.EVTCHNOP_bind_interdomain,
    abi.EVTCHNOP_bind_virq,
    abi.EVTCHNOP_bind_ipi,
    abi.EVTCHNOP_status,
    abi.EVTCHNOP_alloc_unbound,
    abi.EVTCHNOP_init_control,
}
COMPAT = set(OPERATIONS) - {abi.EVTCHNOP_init_control, abi.EVTCHNOP_expand_array, abi.EVTCHNOP_set_priority}
COMPAT_SIZE, COMPAT_STRUCTURE = 28, 4
"""Of struct evtchn_op: its size, and where the operation's structure is."""
EVTCHNOP_reset_cont = 14
"""How Xen goes on with a reset that was preempted: a command that the header shows to Xen alone."""


def event_channel_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """Copy the operation's structure in, perform it, and copy it out where it has an answer."""
    command &= 0xFFFF_FFFF
    if command in (abi.EVTCHNOP_reset, EVTCHNOP_reset_cont):
        return _reset(vcpu, argument, command == EVTCHNOP_reset_cont)
    if command not in OPERATIONS:
        raise XenError(XEN_ENOSYS)
    kind, operation = OPERATIONS[command]
    op = kind.unpack_from(vcpu.read(argument, kind.size))
    operation(vcpu.domain.event_channels, op)
    if command in HAS_OUTPUT:
        vcpu.write(argument, bytes(op))
    return 0


def _reset(vcpu: Vcpu, argument: int, resuming: bool) -> int:
    op = abi.EvtchnReset.unpack_from(vcpu.read(argument, abi.EvtchnReset.size))
    try:
        vcpu.domain.event_channels.reset(op, resuming, vcpu.hypercall_preempt_check)
    except Preempted:
        raise Continuation(EVTCHNOP_reset_cont, argument) from None
    return 0


def event_channel_op_compat(vcpu: Vcpu, argument: int, *_rest: int) -> int:
    """The old form: the command lies before the structure, and the latest are missing."""
    command = int.from_bytes(vcpu.read(argument, COMPAT_SIZE)[:4], "little")
    if command not in COMPAT:
        raise XenError(XEN_ENOSYS)
    return event_channel_op(vcpu, command, argument + COMPAT_STRUCTURE)
