"""Event channels, the native half: making a port pending and telling its vCPU (two-level ABI).

Source: xen/common/event_channel.c and event_2l.c.
"""

from __future__ import annotations

from euxen.abi.xen import SharedInfo, VcpuInfo
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import and64, call1, load8, load64, native, or64, shr, store8, store64
from euxen.hypervisor.records import DomainRecord, EvtchnRecord, VcpuRecord

EVTCHN_PENDING = SharedInfo.offsetof("evtchn_pending")
EVTCHN_MASK = SharedInfo.offsetof("evtchn_mask")
MAX_PORTS = 64 * 64


@native
def vcpu_of(domain: int, vcpu_id: int) -> int:
    """The VcpuRecord of a vCPU that exists."""
    return load64(domain + DomainRecord.vcpus) + vcpu_id * VcpuRecord.size


@native
def mark_events_pending(vcpu: int) -> int:
    """Tell a vCPU that some port of its is pending (vcpu_mark_events_pending)."""
    info = load64(vcpu + VcpuRecord.vcpu_info)
    if load8(info + VcpuInfo.evtchn_upcall_pending) == 0:
        store8(info + VcpuInfo.evtchn_upcall_pending, 1)
        block = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.block)
        if block:
            call1(load64(block + CpuBlock.kick), block)
    return 0


@native
def _select(vcpu: int, word: int) -> int:
    """Point a vCPU to the word of evtchn_pending that has news."""
    info = load64(vcpu + VcpuRecord.vcpu_info)
    if not (shr(or64(info + VcpuInfo.evtchn_pending_sel, 1 << word), word)) & 1:
        mark_events_pending(vcpu)
    return 0


@native
def _check_pollers(domain: int, port: int) -> int:
    """End the polls for a port, masked or not, and those for no port in particular (evtchn_check_pollers)."""
    for number in range(load64(domain + DomainRecord.max_vcpus)):
        vcpu = vcpu_of(domain, number)
        wanted = load64(vcpu + VcpuRecord.poll_evtchn)
        if load64(vcpu + VcpuRecord.polling) and (wanted == 0 or wanted == port):
            store64(vcpu + VcpuRecord.polling, 0)
    return 0


@native
def set_pending(domain: int, vcpu: int, port: int) -> int:
    """Make a port pending (evtchn_2l_set_pending)."""
    shared = load64(domain + DomainRecord.shared_info)
    word, bit = port >> 6, port & 63
    if (shr(or64(shared + EVTCHN_PENDING + word * 8, 1 << bit), bit)) & 1:
        return 0
    if not (shr(load64(shared + EVTCHN_MASK + word * 8), bit)) & 1:
        _select(vcpu, word)
    return _check_pollers(domain, port)


@native
def unmask(domain: int, vcpu: int, port: int) -> int:
    """Clear a port's mask bit and notify if it is pending (evtchn_2l_unmask)."""
    shared = load64(domain + DomainRecord.shared_info)
    word, bit = port >> 6, port & 63
    was = and64(shared + EVTCHN_MASK + word * 8, ~(1 << bit))
    if (shr(was, bit)) & 1 and (shr(load64(shared + EVTCHN_PENDING + word * 8), bit)) & 1:
        _select(vcpu, word)
    return 0


@native
def evtchn_of(domain: int, port: int) -> int:
    """The record of a port, or 0 if there is no such port."""
    if port <= 0 or port >= load64(domain + DomainRecord.max_evtchns):
        return 0
    return load64(domain + DomainRecord.evtchns) + port * EvtchnRecord.size


@native
def send_vcpu_virq(vcpu: int, virq: int) -> int:
    """Raise a per-vCPU virtual interrupt (send_guest_vcpu_virq)."""
    port = load64(vcpu + VcpuRecord.virq_to_evtchn + virq * 8)
    if port:
        set_pending(load64(vcpu + VcpuRecord.domain), vcpu, port)
    return 0


@native
def clear_pending(domain: int, port: int) -> int:
    """A port is closed: nothing is pending on it any more."""
    shared = load64(domain + DomainRecord.shared_info)
    and64(shared + EVTCHN_PENDING + (port >> 6) * 8, ~(1 << (port & 63)))
    return 0
