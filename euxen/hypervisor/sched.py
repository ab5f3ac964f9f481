"""Blocking vCPUs and waking them. Source: vcpu_block, vcpu_unblock, vcpu_kick and do_poll in xen/common/sched/core.c.

A vCPU is blocked while VPF_blocked is set. Who waits sets it and then looks whether what he waits for is there; who
makes an event pending does that and then looks at the flag. So no wake-up is lost, whatever threads they are in.
"""

from __future__ import annotations

from euxen.abi.xen import VcpuInfo
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import add64, and64, call1, load8, load64, native, or64, store8, store64, xchg64
from euxen.hypervisor import sleeper
from euxen.hypervisor.hvm import lapic_state
from euxen.hypervisor.records import DomainRecord, VcpuRecord, VPF_blocked

ANY_PORT = -1


@native
def vcpu_of(domain: int, vcpu_id: int) -> int:
    """The VcpuRecord of a vCPU that exists."""
    return load64(domain + DomainRecord.vcpus) + vcpu_id * VcpuRecord.size


@native
def is_blocked(vcpu: int) -> int:
    """Whether a vCPU waits for an event."""
    return load64(vcpu + VcpuRecord.pause_flags) & VPF_blocked


@native
def _stop_polling(vcpu: int) -> int:
    """Take a vCPU out of the poll mask; whether it was in."""
    was = xchg64(vcpu + VcpuRecord.polling, 0)
    if was:
        add64(load64(vcpu + VcpuRecord.domain) + DomainRecord.pollers, -1)
    return was


@native
def vcpu_unblock(vcpu: int) -> int:
    """Let a vCPU go on that waits for an event (vcpu_unblock)."""
    if not and64(vcpu + VcpuRecord.pause_flags, ~VPF_blocked) & VPF_blocked:
        return 0
    if load64(vcpu + VcpuRecord.poll_evtchn):
        store64(vcpu + VcpuRecord.poll_evtchn, 0)
        # It may have blocked again meanwhile, to poll: it would not be looked for any more.
        if _stop_polling(vcpu):
            and64(vcpu + VcpuRecord.pause_flags, ~VPF_blocked)
    return sleeper.wake(load64(vcpu + VcpuRecord.sleeper))


@native
def vcpu_kick(vcpu: int) -> int:
    """There is news for a vCPU: wake it, or have it look between two blocks of code (vcpu_kick)."""
    vcpu_unblock(vcpu)
    block = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.block)
    if block:
        call1(load64(block + CpuBlock.kick), block)
    return 0


@native
def events_need_delivery(vcpu: int) -> int:
    """Whether there is an event that the guest wants to be told of (local_events_need_delivery)."""
    if load64(vcpu + VcpuRecord.hvm):
        return lapic_state.local_events_need_delivery(vcpu)
    info = load64(vcpu + VcpuRecord.vcpu_info)
    return 1 if load8(info + VcpuInfo.evtchn_upcall_pending) and not load8(info + VcpuInfo.evtchn_upcall_mask) else 0


@native
def block_enable_events(vcpu: int) -> int:
    """SCHEDOP_block: wait for an event, with events unmasked (vcpu_block_enable_events)."""
    store8(load64(vcpu + VcpuRecord.vcpu_info) + VcpuInfo.evtchn_upcall_mask, 0)
    or64(vcpu + VcpuRecord.pause_flags, VPF_blocked)
    if events_need_delivery(vcpu):
        and64(vcpu + VcpuRecord.pause_flags, ~VPF_blocked)
    return is_blocked(vcpu)


@native
def begin_poll(vcpu: int) -> int:
    """SCHEDOP_poll begins: wait for any port. The caller looks at those that are meant, and ends it or waits."""
    or64(vcpu + VcpuRecord.pause_flags, VPF_blocked)
    store64(vcpu + VcpuRecord.poll_evtchn, ANY_PORT)
    add64(load64(vcpu + VcpuRecord.domain) + DomainRecord.pollers, 1)
    xchg64(vcpu + VcpuRecord.polling, 1)
    return 0


@native
def is_polling(vcpu: int) -> int:
    """Whether nobody has woken a vCPU since ``begin_poll``."""
    polling = load64(vcpu + VcpuRecord.poll_evtchn) and load64(vcpu + VcpuRecord.polling)
    return 1 if polling and is_blocked(vcpu) else 0


@native
def end_poll(vcpu: int) -> int:
    """SCHEDOP_poll need not wait."""
    store64(vcpu + VcpuRecord.poll_evtchn, 0)
    _stop_polling(vcpu)
    and64(vcpu + VcpuRecord.pause_flags, ~VPF_blocked)
    return 0


@native
def poll_timer(vcpu: int, time: int) -> int:
    """The time of a poll may be over (poll_timer_fn)."""
    deadline = load64(vcpu + VcpuRecord.poll_deadline)
    if deadline and deadline <= time and _stop_polling(vcpu):
        vcpu_unblock(vcpu)
    return 0


@native
def check_pollers(domain: int, port: int) -> int:
    """A port became pending, masked or not: wake the vCPUs that poll it (evtchn_check_pollers)."""
    if load64(domain + DomainRecord.pollers):
        for vcpu_id in range(load64(domain + DomainRecord.max_vcpus)):
            vcpu = vcpu_of(domain, vcpu_id)
            polled = load64(vcpu + VcpuRecord.poll_evtchn)
            if (polled <= 0 or polled == port) and _stop_polling(vcpu):
                store64(vcpu + VcpuRecord.poll_evtchn, 0)
                vcpu_unblock(vcpu)
    return 0


@native
def wait_for_event(vcpu: int) -> int:
    """SCHEDOP_block for a vCPU that is this thread: return when there is an event."""
    place = load64(vcpu + VcpuRecord.sleeper)
    block_enable_events(vcpu)
    while is_blocked(vcpu):
        sleeper.prepare(place)
        if is_blocked(vcpu):
            sleeper.sleep(place, sleeper.LONGEST)
    return 0
