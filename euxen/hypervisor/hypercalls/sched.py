"""HYPERVISOR_sched_op. Source: xen/common/sched/core.c."""

from __future__ import annotations

from euxen.abi import sched as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS, XEN_EPERM, XEN_ESRCH
from euxen.cpu.native.language import signed
from euxen.hypervisor import sched, xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.errors import GuestFault, XenError
from euxen.hypervisor.event_channel import evtchn_port_poll
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
        if vcpu.domain.shutdown_code is None:
            vcpu.domain.shutdown_code = op.reason & 0xFF
        return 0
    if command == abi.SCHEDOP_poll:
        return _poll(vcpu, abi.SchedPoll.unpack_from(vcpu.read(argument, abi.SchedPoll.size)))
    if command == abi.SCHEDOP_watchdog:
        watchdog = abi.SchedWatchdog.unpack_from(vcpu.read(argument, abi.SchedWatchdog.size))
        return vcpu.domain.watchdogs.set(watchdog.id, watchdog.timeout)
    if command == abi.SCHEDOP_remote_shutdown:
        remote = abi.SchedRemoteShutdown.unpack_from(vcpu.read(argument, abi.SchedRemoteShutdown.size))
        return remote_shutdown(vcpu, remote)
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
        sched.block_enable_events(vcpu.record.address)
        return 0
    raise XenError(XEN_ENOSYS)


def _shutdown(vcpu: Vcpu, reason: int) -> int:
    vcpu.domain.shutdown(reason & 0xFF)
    return 0


def remote_shutdown(caller: Caller, remote: abi.SchedRemoteShutdown) -> int:
    """SCHEDOP_remote_shutdown: end another domain, as its device model does."""
    domain = caller.domain.event_channels.domain_at(remote.domain_id)
    if domain is None:
        raise XenError(XEN_ESRCH)
    xsm.schedop_shutdown(caller.domain, domain)
    domain.shutdown(remote.reason & 0xFF)
    return 0


def _poll(vcpu: Vcpu, op: abi.SchedPoll) -> int:
    """Wait until one of some ports is pending, masked or not, or until a time (do_poll)."""
    if op.nr_ports > MAX_POLL_PORTS:
        raise XenError(XEN_EINVAL)
    if not vcpu.handle_okay(op.ports):
        raise GuestFault
    record = vcpu.record
    sched.begin_poll(record.address)
    try:
        # What happens from here on wakes the vCPU; what happened before is seen here.
        if not sched.is_polling(record.address) or sched.events_need_delivery(record.address):
            sched.end_poll(record.address)
            return 0
        for number in range(op.nr_ports):
            port = int.from_bytes(vcpu.read(op.ports + 4 * number, 4), "little")
            pending = evtchn_port_poll(vcpu.domain.record.address, port)
            if pending < 0:
                raise XenError(-pending)
            if pending:
                sched.end_poll(record.address)
                return 0
    except XenError:
        sched.end_poll(record.address)
        raise
    if signed(op.timeout) < 0:  # that time is over
        sched.end_poll(record.address)
        return 0
    if op.nr_ports == 1:
        record["poll_evtchn"] = port
    record["poll_deadline"] = op.timeout
    return 0
