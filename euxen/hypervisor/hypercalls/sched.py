"""HYPERVISOR_sched_op. Source: xen/common/sched/core.c."""

from __future__ import annotations

import struct

from euxen.abi import sched as abi
from euxen.abi.errno import XEN_EEXIST, XEN_EINVAL, XEN_ENOSYS, XEN_EPERM
from euxen.abi.xen import SharedInfo
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu

MAX_POLL_PORTS = 128
MAX_WATCHDOGS = 2
SECOND = 1_000_000_000
PENDING = SharedInfo.offsetof("evtchn_pending")


def sched_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """The commands that are not answered natively."""
    command &= 0xFFFF_FFFF
    if command == abi.SCHEDOP_shutdown:
        op = abi.SchedShutdown.unpack_from(vcpu.read(argument, abi.SchedShutdown.size))
        return _shutdown(vcpu, op.reason)
    if command == abi.SCHEDOP_shutdown_code:
        op = abi.SchedShutdown.unpack_from(vcpu.read(argument, abi.SchedShutdown.size))
        vcpu.domain.reported_shutdown_code = op.reason
        return 0
    if command == abi.SCHEDOP_poll:
        return _poll(vcpu, abi.SchedPoll.unpack_from(vcpu.read(argument, abi.SchedPoll.size)))
    if command == abi.SCHEDOP_watchdog:
        return _watchdog(vcpu, abi.SchedWatchdog.unpack_from(vcpu.read(argument, abi.SchedWatchdog.size)))
    if command in (abi.SCHEDOP_remote_shutdown, abi.SCHEDOP_pin_override):
        raise XenError(XEN_EPERM)
    raise XenError(XEN_ENOSYS)


def sched_op_compat(vcpu: Vcpu, command: int, reason: int, *_rest: int) -> int:
    """The old form: the argument is a number, not a pointer."""
    command &= 0xFFFF_FFFF
    if command == abi.SCHEDOP_shutdown:
        return _shutdown(vcpu, reason & 0xFFFF_FFFF)
    if command == abi.SCHEDOP_yield:
        return 0
    if command == abi.SCHEDOP_block:
        vcpu.block_until_event()
        return 0
    raise XenError(XEN_ENOSYS)


def _shutdown(vcpu: Vcpu, reason: int) -> int:
    vcpu.domain.shutdown(reason & 0xFF)
    return 0


def _poll(vcpu: Vcpu, op: abi.SchedPoll) -> int:
    """Wait until one of some ports is pending, or until a time."""
    if op.nr_ports > MAX_POLL_PORTS:
        raise XenError(XEN_EINVAL)
    ports = struct.unpack(f"<{op.nr_ports}I", vcpu.read(op.ports, 4 * op.nr_ports)) if op.nr_ports else ()
    table = vcpu.domain.event_channels
    for port in ports:
        if not 0 <= port < table.size:
            raise XenError(XEN_EINVAL)
    if vcpu.needs_upcall or any(table.pending(port) for port in ports):
        return 0
    vcpu.poll(ports, op.timeout)
    return 0


def _watchdog(vcpu: Vcpu, op: abi.SchedWatchdog) -> int:
    """Make, poke or destroy a watchdog; returns a new one's number."""
    watchdogs = vcpu.domain.watchdogs
    now = vcpu.domain.machine.now()
    if op.id == 0:
        if not op.timeout:
            raise XenError(XEN_EINVAL)
        for number in range(MAX_WATCHDOGS):
            if number not in watchdogs:
                watchdogs[number] = now + op.timeout * SECOND
                return number + 1
        raise XenError(XEN_EEXIST)
    number = op.id - 1
    if number >= MAX_WATCHDOGS:
        raise XenError(XEN_EINVAL)
    if number not in watchdogs:
        raise XenError(XEN_EINVAL)
    if op.timeout:
        watchdogs[number] = now + op.timeout * SECOND
    else:
        del watchdogs[number]
    return 0
