"""HYPERVISOR_event_channel_op, for guests. The operations themselves are in ``hypervisor.event_channels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from euxen.abi import event_channel as abi
from euxen.abi.errno import XEN_ENOSYS
from euxen.abi.structure import Structure
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import EventChannels
from euxen.hypervisor.vcpu import Vcpu

Operation = Callable[[EventChannels, Any], None]

OPERATIONS: dict[int, tuple[type[Structure], Operation]] = {
    abi.EVTCHNOP_bind_interdomain: (abi.EvtchnBindInterdomain, EventChannels.bind_interdomain),
    abi.EVTCHNOP_bind_virq: (abi.EvtchnBindVirq, EventChannels.bind_virq),
    abi.EVTCHNOP_bind_ipi: (abi.EvtchnBindIpi, EventChannels.bind_ipi),
    abi.EVTCHNOP_bind_pirq: (abi.EvtchnBindPirq, EventChannels.bind_pirq),
    abi.EVTCHNOP_close: (abi.EvtchnClose, lambda table, op: table.close(op.port)),
    abi.EVTCHNOP_send: (abi.EvtchnSend, lambda table, op: table.send(op.port)),
    abi.EVTCHNOP_status: (abi.EvtchnStatus, EventChannels.status),
    abi.EVTCHNOP_alloc_unbound: (abi.EvtchnAllocUnbound, EventChannels.alloc_unbound),
    abi.EVTCHNOP_bind_vcpu: (abi.EvtchnBindVcpu, EventChannels.bind_vcpu),
    abi.EVTCHNOP_unmask: (abi.EvtchnUnmask, lambda table, op: table.unmask(op.port)),
    abi.EVTCHNOP_reset: (abi.EvtchnReset, EventChannels.reset),
}
HAS_OUTPUT = {
    abi.EVTCHNOP_bind_interdomain,
    abi.EVTCHNOP_bind_virq,
    abi.EVTCHNOP_bind_ipi,
    abi.EVTCHNOP_status,
    abi.EVTCHNOP_alloc_unbound,
}
COMPAT = set(OPERATIONS) - {abi.EVTCHNOP_reset}
COMPAT_SIZE, COMPAT_STRUCTURE = 28, 4
"""Of struct evtchn_op: its size, and where the operation's structure is."""


def event_channel_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """Copy the operation's structure in, perform it, and copy it out where it has an answer."""
    command &= 0xFFFF_FFFF
    if command not in OPERATIONS:
        raise XenError(XEN_ENOSYS)
    kind, operation = OPERATIONS[command]
    op = kind.unpack_from(vcpu.read(argument, kind.size))
    operation(vcpu.domain.event_channels, op)
    if command in HAS_OUTPUT:
        vcpu.write(argument, bytes(op))
    return 0


def event_channel_op_compat(vcpu: Vcpu, argument: int, *_rest: int) -> int:
    """The old form: the command lies before the structure."""
    command = int.from_bytes(vcpu.read(argument, COMPAT_SIZE)[:4], "little")
    if command not in COMPAT:
        raise XenError(XEN_ENOSYS)
    return event_channel_op(vcpu, command, argument + COMPAT_STRUCTURE)
