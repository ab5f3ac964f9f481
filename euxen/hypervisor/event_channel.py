"""Event channels, the native half: sending, and every change of a channel's state. Source: xen/common/event_channel.c.

A channel's record has a lock. Both ends' locks are held while an interdomain channel is bound or closed; who sends
holds the lock of the end from which it sends. So while somebody sends, the other end stays bound, and its domain with
all that makes it pending exists: a domain that dies closes its channels before it gives anything back. The records
themselves are never freed, as whoever closes a channel may still look at the lock of what was its other end: those of
a domain that died are given to the next one.

Ports are bound under the machine's lock. They are closed, masked and sent to by any thread at any time.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EACCES, XEN_EINVAL, XEN_ENOSYS
from euxen.abi.event_channel import EVTCHN_FIFO_PRIORITY_MIN
from euxen.abi.xen import VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU
from euxen.cpu.native.language import add64, call2, cas64, copy, load64, native, store64, ult
from euxen.cpu.native.spinlock import lock, lock_both, unlock, unlock_both
from euxen.hypervisor import event_2l, event_fifo
from euxen.hypervisor.records import (
    ECS_FREE,
    ECS_INTERDOMAIN,
    ECS_IPI,
    ECS_PIRQ,
    ECS_RESERVED,
    ECS_UNBOUND,
    ECS_VIRQ,
    DomainRecord,
    EvtchnRecord,
    VcpuRecord,
)
from euxen.hypervisor.sched import vcpu_of, vcpu_unblock

BUCKET_SHIFT = 6
EVTCHNS_PER_BUCKET = 1 << BUCKET_SHIFT
"""As in a Xen for x86-64, where as many records fill a page."""


@native
def evtchn_of(domain: int, port: int) -> int:
    """The record of a port, or 0 if there is no such port (port_is_valid, evtchn_from_port)."""
    if not ult(port, load64(domain + DomainRecord.valid_evtchns)):
        return 0
    bucket = load64(load64(domain + DomainRecord.evtchn_buckets) + (port >> BUCKET_SHIFT) * 8)
    return bucket + (port & (EVTCHNS_PER_BUCKET - 1)) * EvtchnRecord.size


@native
def virq_is_global(virq: int) -> int:
    """Whether a virtual interrupt is a domain's, not a vCPU's."""
    per_vcpu = virq == VIRQ_TIMER or virq == VIRQ_DEBUG or virq == VIRQ_XENOPROF or virq == VIRQ_XENPMU
    return 0 if per_vcpu else 1


# The ABI that the domain uses (struct evtchn_port_ops). A lock is held that keeps the channel what it is.


@native
def is_usable(channel: int) -> int:
    """Whether a guest uses this channel (evtchn_usable)."""
    if load64(channel + EvtchnRecord.xen_consumer):
        return 0
    return 1 if load64(channel + EvtchnRecord.state) > ECS_RESERVED else 0


@native
def _is_fifo(channel: int) -> int:
    return load64(load64(channel + EvtchnRecord.domain) + DomainRecord.evtchn_fifo)


@native
def port_set_pending(channel: int, vcpu_id: int) -> int:
    """Make a port pending, and tell a vCPU (evtchn_port_set_pending)."""
    if is_usable(channel):
        vcpu = vcpu_of(load64(channel + EvtchnRecord.domain), vcpu_id)
        if _is_fifo(channel):
            event_fifo.set_pending(vcpu, channel)
        else:
            event_2l.set_pending(vcpu, channel)
    return 0


@native
def _notify(channel: int) -> int:
    return port_set_pending(channel, load64(channel + EvtchnRecord.notify_vcpu))


@native
def port_clear_pending(channel: int) -> int:
    """Take back what is pending (evtchn_port_clear_pending)."""
    if is_usable(channel):
        if _is_fifo(channel):
            event_fifo.clear_pending(channel)
        else:
            event_2l.clear_pending(channel)
    return 0


@native
def is_pending(channel: int) -> int:
    """Whether an event is pending on a port (evtchn_is_pending)."""
    if not is_usable(channel):
        return 0
    return event_fifo.is_pending(channel) if _is_fifo(channel) else event_2l.is_pending(channel)


@native
def is_masked(channel: int) -> int:
    """Whether a port is masked (evtchn_is_masked)."""
    if not is_usable(channel):
        return 1
    return event_fifo.is_masked(channel) if _is_fifo(channel) else event_2l.is_masked(channel)


# Allocating ports, under the machine's lock.


@native
def get_free_port(domain: int, limit: int) -> int:
    """The lowest free port below ``limit``; where there is none, the first without a record, or one past the limit."""
    end = min(load64(domain + DomainRecord.valid_evtchns), limit)
    hint = load64(domain + DomainRecord.evtchn_hint)
    port = hint
    busy = 0
    while port < end:
        channel = evtchn_of(domain, port)
        if load64(channel + EvtchnRecord.state) == ECS_FREE:
            if not _is_fifo(channel) or not event_fifo.is_busy(channel):
                break
            if not busy:
                busy = port
        port += 1
    # If somebody has freed a lower one meanwhile the hint is no longer what it was.
    cas64(domain + DomainRecord.evtchn_hint, hint, busy if busy else max(port, hint))
    return port


@native
def _allocate(channel: int, state: int) -> int:
    """A free port, whose lock is held, is not free any more."""
    domain = load64(channel + EvtchnRecord.domain)
    add64(domain + DomainRecord.active_evtchns, 1)
    store64(channel + EvtchnRecord.state, state)
    return event_fifo.init(channel) if _is_fifo(channel) else 0


@native
def _free(channel: int) -> int:
    """A port, whose lock is held, is free again, with nothing pending on it (evtchn_free)."""
    domain = load64(channel + EvtchnRecord.domain)
    port_clear_pending(channel)
    if load64(channel + EvtchnRecord.xen_consumer):
        add64(domain + DomainRecord.xen_evtchns, -1)
    add64(domain + DomainRecord.active_evtchns, -1)
    store64(channel + EvtchnRecord.state, ECS_FREE)
    store64(channel + EvtchnRecord.notify_vcpu, 0)
    store64(channel + EvtchnRecord.xen_consumer, 0)
    store64(channel + EvtchnRecord.remote, 0)
    port = load64(channel + EvtchnRecord.port)
    hint = load64(domain + DomainRecord.evtchn_hint)
    while port < hint:
        cas64(domain + DomainRecord.evtchn_hint, hint, port)
        hint = load64(domain + DomainRecord.evtchn_hint)
    return 0


# Binding. The port was free when the machine's lock was taken, and so it still is.


@native
def bind_unbound(channel: int, remote_domid: int, vcpu_id: int, xen_consumer: int) -> int:
    """Let a port wait for a domain that binds to it."""
    lock(channel + EvtchnRecord.lock)
    store64(channel + EvtchnRecord.xen_consumer, xen_consumer)
    store64(channel + EvtchnRecord.notify_vcpu, vcpu_id)
    store64(channel + EvtchnRecord.remote_domid, remote_domid)
    _allocate(channel, ECS_UNBOUND)
    if xen_consumer:
        add64(load64(channel + EvtchnRecord.domain) + DomainRecord.xen_evtchns, 1)
    return unlock(channel + EvtchnRecord.lock)


@native
def _connect(channel: int, remote: int) -> int:
    domain = load64(remote + EvtchnRecord.domain)
    store64(channel + EvtchnRecord.remote_domid, load64(domain + DomainRecord.domain_id))
    store64(channel + EvtchnRecord.remote_port, load64(remote + EvtchnRecord.port))
    store64(channel + EvtchnRecord.remote, remote)
    return 0


@native
def bind_interdomain(channel: int, remote: int) -> int:
    """Connect a free port with one that waits for its domain; -EINVAL if the other does not."""
    domid = load64(load64(channel + EvtchnRecord.domain) + DomainRecord.domain_id)
    lock_both(channel + EvtchnRecord.lock, remote + EvtchnRecord.lock)
    waits = load64(remote + EvtchnRecord.state) == ECS_UNBOUND
    result = -XEN_EINVAL
    if waits and load64(remote + EvtchnRecord.remote_domid) == domid:
        _allocate(channel, ECS_INTERDOMAIN)
        _connect(channel, remote)
        _connect(remote, channel)
        store64(remote + EvtchnRecord.state, ECS_INTERDOMAIN)
        # An event may have been sent before anybody listened.
        _notify(channel)
        result = 0
    unlock_both(channel + EvtchnRecord.lock, remote + EvtchnRecord.lock)
    return result


@native
def bind_virq(channel: int, vcpu_id: int, virq: int) -> int:
    """Give a vCPU a port for a virtual interrupt."""
    vcpu = vcpu_of(load64(channel + EvtchnRecord.domain), vcpu_id)
    lock(channel + EvtchnRecord.lock)
    store64(channel + EvtchnRecord.notify_vcpu, vcpu_id)
    store64(channel + EvtchnRecord.virq, virq)
    _allocate(channel, ECS_VIRQ)
    unlock(channel + EvtchnRecord.lock)
    store64(vcpu + VcpuRecord.virq_to_evtchn + virq * 8, load64(channel + EvtchnRecord.port))
    return 0


@native
def bind_ipi(channel: int, vcpu_id: int) -> int:
    """Give a vCPU a port for interrupts by others."""
    lock(channel + EvtchnRecord.lock)
    store64(channel + EvtchnRecord.notify_vcpu, vcpu_id)
    _allocate(channel, ECS_IPI)
    return unlock(channel + EvtchnRecord.lock)


# What any thread may do with a port that may or may not be there.


@native
def _lock_with_remote(channel: int) -> int:
    """Lock a channel, and its other end if it has one, which is returned."""
    while True:
        lock(channel + EvtchnRecord.lock)
        if load64(channel + EvtchnRecord.state) != ECS_INTERDOMAIN:
            return 0
        remote = load64(channel + EvtchnRecord.remote)
        if ult(channel, remote):
            lock(remote + EvtchnRecord.lock)
            return remote
        # Both in the order of their addresses. Meanwhile the other end may be gone, or be somebody else's by now.
        unlock(channel + EvtchnRecord.lock)
        lock_both(channel + EvtchnRecord.lock, remote + EvtchnRecord.lock)
        bound = load64(channel + EvtchnRecord.state) == ECS_INTERDOMAIN
        if bound and load64(channel + EvtchnRecord.remote) == remote:
            return remote
        unlock_both(channel + EvtchnRecord.lock, remote + EvtchnRecord.lock)


@native
def evtchn_close(domain: int, port: int, guest: int) -> int:
    """EVTCHNOP_close; without ``guest`` also of a channel that Xen listens to (evtchn_close)."""
    channel = evtchn_of(domain, port)
    if not channel:
        return -XEN_EINVAL
    remote = _lock_with_remote(channel)
    state = load64(channel + EvtchnRecord.state)
    result = -XEN_EINVAL
    if state > ECS_RESERVED and not (guest and load64(channel + EvtchnRecord.xen_consumer)):
        if state == ECS_VIRQ:
            virq = load64(channel + EvtchnRecord.virq)
            vcpu_id = 0 if virq_is_global(virq) else load64(channel + EvtchnRecord.notify_vcpu)
            store64(vcpu_of(domain, vcpu_id) + VcpuRecord.virq_to_evtchn + virq * 8, 0)
        _free(channel)
        if remote:
            store64(remote + EvtchnRecord.state, ECS_UNBOUND)
            store64(remote + EvtchnRecord.remote_domid, load64(domain + DomainRecord.domain_id))
            store64(remote + EvtchnRecord.remote, 0)
        result = 0
    if remote:
        unlock(remote + EvtchnRecord.lock)
    unlock(channel + EvtchnRecord.lock)
    return result


@native
def evtchn_send(domain: int, port: int) -> int:
    """EVTCHNOP_send."""
    channel = evtchn_of(domain, port)
    if not channel:
        return -XEN_EINVAL
    lock(channel + EvtchnRecord.lock)
    state = load64(channel + EvtchnRecord.state)
    result = 0
    if load64(channel + EvtchnRecord.xen_consumer):
        result = -XEN_EINVAL
    elif state == ECS_INTERDOMAIN:
        _send_to(load64(channel + EvtchnRecord.remote))
    elif state == ECS_IPI:
        _notify(channel)
    elif state != ECS_UNBOUND:  # what is sent to a port that nobody listens to is lost
        result = -XEN_EINVAL
    unlock(channel + EvtchnRecord.lock)
    return result


@native
def _send_to(remote: int) -> int:
    """Notify the other end of a channel: its guest, or Xen."""
    consumer = load64(remote + EvtchnRecord.xen_consumer)
    if not consumer:
        return _notify(remote)
    vcpu = vcpu_of(load64(remote + EvtchnRecord.domain), load64(remote + EvtchnRecord.notify_vcpu))
    return call2(consumer, vcpu, load64(remote + EvtchnRecord.port))


@native
def notify_via_xen_event_channel(domain: int, port: int) -> int:
    """Xen sends from an end that it listens to."""
    channel = evtchn_of(domain, port)
    if channel:
        lock(channel + EvtchnRecord.lock)
        if load64(channel + EvtchnRecord.state) == ECS_INTERDOMAIN:
            _send_to(load64(channel + EvtchnRecord.remote))
        unlock(channel + EvtchnRecord.lock)
    return 0


@native
def default_xen_notification(vcpu: int, _port: int) -> int:
    """``EvtchnRecord.xen_consumer`` of those who only want the vCPU to go on (default_xen_notification_fn)."""
    return vcpu_unblock(vcpu)


@native
def evtchn_unmask(domain: int, port: int) -> int:
    """EVTCHNOP_unmask."""
    channel = evtchn_of(domain, port)
    if not channel:
        return -XEN_EINVAL
    lock(channel + EvtchnRecord.lock)
    if is_usable(channel):
        if _is_fifo(channel):
            event_fifo.unmask(channel)
        else:
            event_2l.unmask(channel)
    unlock(channel + EvtchnRecord.lock)
    return 0


@native
def evtchn_bind_vcpu(domain: int, port: int, vcpu_id: int) -> int:
    """EVTCHNOP_bind_vcpu, to a vCPU that exists."""
    channel = evtchn_of(domain, port)
    if not channel:
        return -XEN_EINVAL
    lock(channel + EvtchnRecord.lock)
    state = load64(channel + EvtchnRecord.state)
    movable = state == ECS_UNBOUND or state == ECS_INTERDOMAIN or state == ECS_PIRQ
    if state == ECS_VIRQ and virq_is_global(load64(channel + EvtchnRecord.virq)):
        movable = True
    result = -XEN_EINVAL
    if movable and not load64(channel + EvtchnRecord.xen_consumer):
        store64(channel + EvtchnRecord.notify_vcpu, vcpu_id)
        result = 0
    unlock(channel + EvtchnRecord.lock)
    return result


@native
def evtchn_set_priority(domain: int, port: int, priority: int) -> int:
    """EVTCHNOP_set_priority: for the next events (evtchn_port_set_priority)."""
    channel = evtchn_of(domain, port)
    if not channel:
        return -XEN_EINVAL
    if not load64(domain + DomainRecord.evtchn_fifo):
        return -XEN_ENOSYS
    lock(channel + EvtchnRecord.lock)
    result = 0
    if not is_usable(channel):
        result = -XEN_EACCES
    elif not ult(priority, EVTCHN_FIFO_PRIORITY_MIN + 1):
        result = -XEN_EINVAL
    else:
        store64(channel + EvtchnRecord.priority, priority)
    unlock(channel + EvtchnRecord.lock)
    return result


@native
def evtchn_port_poll(domain: int, port: int) -> int:
    """Whether an event is pending on a port; -EINVAL for a port that is not used."""
    channel = evtchn_of(domain, port)
    result = -XEN_EINVAL
    if channel:
        lock(channel + EvtchnRecord.lock)
        if is_usable(channel):
            result = is_pending(channel)
        unlock(channel + EvtchnRecord.lock)
    return result


@native
def snapshot(channel: int, destination: int) -> int:
    """Copy a channel's record, as it is at one moment."""
    lock(channel + EvtchnRecord.lock)
    copy(destination, channel, EvtchnRecord.size)
    return unlock(channel + EvtchnRecord.lock)


# Virtual interrupts.


@native
def _send_virq(domain: int, table: int, virq: int) -> int:
    """Raise a virtual interrupt, if it is bound, that a vCPU's table names the port of."""
    port = load64(table + VcpuRecord.virq_to_evtchn + virq * 8)
    if port:
        channel = evtchn_of(domain, port)
        lock(channel + EvtchnRecord.lock)
        # The port may have been closed, and be another's by now.
        if load64(channel + EvtchnRecord.state) == ECS_VIRQ and load64(channel + EvtchnRecord.virq) == virq:
            _notify(channel)
        unlock(channel + EvtchnRecord.lock)
    return 0


@native
def send_vcpu_virq(vcpu: int, virq: int) -> int:
    """Raise a vCPU's own virtual interrupt (send_guest_vcpu_virq)."""
    return _send_virq(load64(vcpu + VcpuRecord.domain), vcpu, virq)


@native
def send_guest_global_virq(domain: int, virq: int) -> int:
    """Raise a global virtual interrupt in the domain that handles it (send_guest_global_virq)."""
    return _send_virq(domain, vcpu_of(domain, 0), virq)
