"""HYPERVISOR_sched_op. Source: xen/common/sched/core.c."""

from __future__ import annotations

import struct

from euxen.abi import sched as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS, XEN_EPERM, XEN_ESRCH
from euxen.abi.xen import SharedInfo
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu

MAX_POLL_PORTS = 128
PENDING = SharedInfo.offsetof("evtchn_pending")


def sched_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """The commands that are not answered natively."""
    command &= 0xFFFF_FFFF
    if command == abi.SCHEDOP_shutdown:
        op = abi.SchedShutdown.unpack_from(vcpu.read(argument, abi.SchedShutdown.size))
        return _shutdown(vcpu, op.reason)
    if command == abi.SCHEDOP_shutdown_code:
        op = abi.SchedShutdown.unpack_from(vcpu.read(argument, abi.SchedShutdown.size))
        if vcpu.domain.reported_shutdown_code is None:
            vcpu.domain.reported_shutdown_code = op.reason & 0xFF
        return 0
    if command == abi.SCHEDOP_poll:
        return _poll(vcpu, abi.SchedPoll.unpack_from(vcpu.read(argument, abi.SchedPoll.size)))
    if command == abi.SCHEDOP_watchdog:
        watchdog = abi.SchedWatchdog.unpack_from(vcpu.read(argument, abi.SchedWatchdog.size))
        return vcpu.domain.watchdogs.set(watchdog.id, watchdog.timeout)
    if command == abi.SCHEDOP_remote_shutdown:
        remote = abi.SchedRemoteShutdown.unpack_from(vcpu.read(argument, abi.SchedRemoteShutdown.size))
        known = vcpu.domain.event_channels.domain_at(remote.domain_id) is not None
        raise XenError(XEN_EPERM if known else XEN_ESRCH)
    if command == abi.SCHEDOP_pin_override:
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
