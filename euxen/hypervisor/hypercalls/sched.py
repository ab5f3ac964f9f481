"""HYPERVISOR_sched_op. Source: xen/common/sched/core.c."""

from __future__ import annotations

from euxen.abi import sched as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS, XEN_EPERM, XEN_ESRCH
from euxen.cpu.native.language import signed
from euxen.hypervisor.errors import GuestFault, XenError
from euxen.hypervisor.guest_access import addr_ok
from euxen.hypervisor.vcpu import Vcpu

MAX_POLL_PORTS = 128


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
    """Wait until one of some ports is pending, or until a time (do_poll)."""
    if op.nr_ports > MAX_POLL_PORTS:
        raise XenError(XEN_EINVAL)
    if not addr_ok(signed(op.ports)):
        raise GuestFault
    if vcpu.needs_upcall:
        return 0
    table, port = vcpu.domain.event_channels, 0
    for number in range(op.nr_ports):
        port = int.from_bytes(vcpu.read(op.ports + 4 * number, 4), "little")
        if port >= table.size:
            raise XenError(XEN_EINVAL)
        if table.pending(port):
            return 0
    if signed(op.timeout) >= 0:  # a negative time is over
        vcpu.poll(port if op.nr_ports == 1 else 0, op.timeout)
    return 0
