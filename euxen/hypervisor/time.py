"""Time as guests see it: system time in nanoseconds, the time stamp counter, and timers.

The counter is a fixed multiple of system time, so one time record holds for good.
Source: xen/arch/x86/time.c, and VCPUOP_* timers and set_timer_op in xen/common/domain.c and sched/core.c.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL, XEN_ETIME
from euxen.abi.vcpu import VCPU_SSHOTTMR_future, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer
from euxen.abi.xen import VIRQ_TIMER
from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call1, load32, load64, mulshift, native, store64, xchg64
from euxen.hypervisor.clock import NEVER as NEVER
from euxen.hypervisor.clock import now as now
from euxen.hypervisor.clock import now_for as now_for
from euxen.hypervisor.event_channel import send_vcpu_virq
from euxen.hypervisor.guest_access import copy_from_guest
from euxen.hypervisor.hvm import vlapic_timer
from euxen.hypervisor.records import DomainRecord, MachineRecord, VcpuRecord

MILLISECS = 1_000_000
EXIT_DEADLINE = int(ExitReason.DEADLINE)
FAR_FUTURE = 1 << 50
STIME_DELTA_MAX = (1 << 62) - 1


@native
def tsc(block: int) -> int:
    """``CpuBlock.on_tsc``."""
    vcpu = load64(block + CpuBlock.vcpu)
    machine = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.machine)
    return mulshift(now(machine), load64(machine + MachineRecord.tsc_mul), 32)


@native
def next_timer(vcpu: int) -> int:
    """When the next of a vCPU's timers is due, in system time; NEVER if none is set."""
    due = NEVER
    single = load64(vcpu + VcpuRecord.timer_deadline)
    if single:
        due = single
    period = load64(vcpu + VcpuRecord.periodic_period)
    if period:
        due = min(due, load64(vcpu + VcpuRecord.periodic_last) + period)
    return min(due, vlapic_timer.next_timer(vcpu))


@native
def watchdog_deadline(vcpu: int) -> int:
    """When the first watchdog of a vCPU's domain fires; NEVER if there is none."""
    deadline = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.watchdog_deadline)
    return deadline if deadline else NEVER


@native
def run_waking_timers(vcpu: int) -> int:
    """Raise VIRQ_TIMER if a vCPU's one-shot timer is due, whether it runs or not, and the local APIC's interrupt."""
    if load64(vcpu + VcpuRecord.hvm):
        vlapic_timer.run_timer(vcpu)
    single = load64(vcpu + VcpuRecord.timer_deadline)
    if single and single <= now_for(vcpu):
        store64(vcpu + VcpuRecord.timer_deadline, 0)
        send_vcpu_virq(vcpu, VIRQ_TIMER)
    return 0


@native
def run_timers(vcpu: int) -> int:
    """Raise VIRQ_TIMER for every timer of the vCPU that runs: the periodic one stands still in others."""
    run_waking_timers(vcpu)
    time = now_for(vcpu)
    period = load64(vcpu + VcpuRecord.periodic_period)
    if period:
        last = load64(vcpu + VcpuRecord.periodic_last)
        if last + period <= time:
            store64(vcpu + VcpuRecord.periodic_last, time)
            send_vcpu_virq(vcpu, VIRQ_TIMER)
    return 0


@native
def set_deadline(block: int, vcpu: int, deadline: int) -> int:
    """Set the one-shot timer, 0 for never, and let the ticker know."""
    store64(vcpu + VcpuRecord.timer_deadline, deadline)
    retick(block)
    return 0


@native
def retick(block: int) -> int:
    """A timer was changed: have the ticker look again if it would sleep too long. What is due is not left to it."""
    vcpu = load64(block + CpuBlock.vcpu)
    due = min(next_timer(vcpu), load64(vcpu + VcpuRecord.slice_end), watchdog_deadline(vcpu))
    xchg64(block + CpuBlock.deadline, due)
    if due != NEVER and due <= now_for(vcpu):
        call1(load64(block + CpuBlock.kick), block)
    elif due < load64(block + CpuBlock.ticker_sleeps_until):
        call1(load64(block + CpuBlock.wake_ticker), block)
    return 0


@native
def do_set_timer_op(block: int, timeout: int) -> int:
    """HYPERVISOR_set_timer_op."""
    vcpu = load64(block + CpuBlock.vcpu)
    if timeout == 0:
        return set_deadline(block, vcpu, 0)
    time = now_for(vcpu)
    # Old Linux asks for times far in the future, or in the past, when it means "some time".
    if timeout < 0 or timeout - time >= FAR_FUTURE:
        timeout = time + 100 * MILLISECS
    return set_deadline(block, vcpu, timeout)


@native
def set_singleshot_timer(block: int, vcpu: int, argument: int) -> int:
    """VCPUOP_set_singleshot_timer."""
    request = vcpu + VcpuRecord.scratch
    if copy_from_guest(block, request, argument, VcpuSetSingleshotTimer.size):
        return -XEN_EFAULT
    timeout = load64(request + VcpuSetSingleshotTimer.timeout_abs_ns)
    return start_singleshot_timer(block, vcpu, timeout, load32(request + VcpuSetSingleshotTimer.flags))


@native
def start_singleshot_timer(block: int, vcpu: int, timeout: int, flags: int) -> int:
    """The same with what the guest's structure says."""
    # An unsigned number to whoever asks for the future, a signed one to the timer.
    if flags & VCPU_SSHOTTMR_future and timeout >= 0 and timeout < now_for(vcpu):
        return -XEN_ETIME
    return set_deadline(block, vcpu, max(timeout, 1))


@native
def set_periodic_timer(block: int, vcpu: int, argument: int) -> int:
    """VCPUOP_set_periodic_timer."""
    request = vcpu + VcpuRecord.scratch
    if copy_from_guest(block, request, argument, VcpuSetPeriodicTimer.size):
        return -XEN_EFAULT
    period = load64(request + VcpuSetPeriodicTimer.period_ns)
    if period < MILLISECS or period > STIME_DELTA_MAX:
        return -XEN_EINVAL
    # The next tick is a period after the last one, which may be now.
    store64(vcpu + VcpuRecord.periodic_period, period)
    run_timers(vcpu)
    retick(block)
    return 0


@native
def check_deadlines(block: int) -> int:
    """After a kick: run timers, and come back if the time slice is over or the domain is paused."""
    vcpu = load64(block + CpuBlock.vcpu)
    if load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.pause_count):
        return request_exit(block, EXIT_DEADLINE, 0)
    run_timers(vcpu)
    if now_for(vcpu) >= min(load64(vcpu + VcpuRecord.slice_end), watchdog_deadline(vcpu)):
        request_exit(block, EXIT_DEADLINE, 0)
    else:
        retick(block)
    return 0
