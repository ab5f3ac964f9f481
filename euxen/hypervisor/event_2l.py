"""The two-level ABI of event channels: a pending bit and a mask bit per port in shared_info, and a selector per vCPU.

A 32-bit guest has fewer ports. Its bits are in the same order, but what a selector's bit stands for has 32 of them.

Source: xen/common/event_2l.c. The caller holds a lock that keeps the channel what it is.
"""

from __future__ import annotations

from euxen.abi.compat import CompatSharedInfo, CompatVcpuInfo
from euxen.abi.event_channel import EVTCHN_2L_NR_CHANNELS
from euxen.abi.xen import SharedInfo, VcpuInfo
from euxen.cpu.native.language import and64, ctz, load64, native, or32, or64, shr, store8, store64, xchg64
from euxen.hypervisor.records import DomainRecord, EvtchnRecord, VcpuRecord
from euxen.hypervisor.sched import check_pollers, vcpu_of
from euxen.hypervisor.upcall import mark_events_pending

EVTCHN_PENDING = SharedInfo.offsetof("evtchn_pending")
EVTCHN_MASK, COMPAT_MASK = SharedInfo.offsetof("evtchn_mask"), CompatSharedInfo.offsetof("evtchn_mask")
assert CompatSharedInfo.offsetof("evtchn_pending") == EVTCHN_PENDING
COMPAT_2L_NR_CHANNELS = 32 * 32


@native
def _bit(address: int, port: int) -> int:
    return (shr(load64(address + (port >> 6) * 8), port & 63)) & 1


@native
def _masks(domain: int) -> int:
    """Where a domain's mask bits are."""
    shared = load64(domain + DomainRecord.shared_info)
    return shared + (COMPAT_MASK if load64(domain + DomainRecord.has_32bit_shinfo) else EVTCHN_MASK)


@native
def _select(vcpu: int, port: int) -> int:
    """Point a vCPU to the word of evtchn_pending that has news: that of a port."""
    info = load64(vcpu + VcpuRecord.vcpu_info)
    if load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.has_32bit_shinfo):
        word = port >> 5
        selected = or32(info + CompatVcpuInfo.evtchn_pending_sel, 1 << word)
    else:
        word = port >> 6
        selected = or64(info + VcpuInfo.evtchn_pending_sel, 1 << word)
    if not shr(selected, word) & 1:
        mark_events_pending(vcpu)
    return 0


@native
def set_pending(vcpu: int, channel: int) -> int:
    """Make a port pending (evtchn_2l_set_pending)."""
    domain = load64(vcpu + VcpuRecord.domain)
    port = load64(channel + EvtchnRecord.port)
    shared = load64(domain + DomainRecord.shared_info)
    if shr(or64(shared + EVTCHN_PENDING + (port >> 6) * 8, 1 << (port & 63)), port & 63) & 1:
        return 0
    if not _bit(_masks(domain), port):
        _select(vcpu, port)
    return check_pollers(domain, port)


@native
def clear_pending(channel: int) -> int:
    """Take back what is pending on a port (evtchn_2l_clear_pending)."""
    port = load64(channel + EvtchnRecord.port)
    shared = load64(load64(channel + EvtchnRecord.domain) + DomainRecord.shared_info)
    and64(shared + EVTCHN_PENDING + (port >> 6) * 8, ~(1 << (port & 63)))
    return 0


@native
def unmask(channel: int) -> int:
    """Clear a port's mask bit, and notify if it is pending (evtchn_2l_unmask)."""
    domain = load64(channel + EvtchnRecord.domain)
    port = load64(channel + EvtchnRecord.port)
    shared = load64(domain + DomainRecord.shared_info)
    was = and64(_masks(domain) + (port >> 6) * 8, ~(1 << (port & 63)))
    if shr(was, port & 63) & 1 and _bit(shared + EVTCHN_PENDING, port):
        _select(vcpu_of(domain, load64(channel + EvtchnRecord.notify_vcpu)), port)
    return 0


@native
def is_pending(channel: int) -> int:
    """Whether an event is pending on a port (evtchn_2l_is_pending)."""
    shared = load64(load64(channel + EvtchnRecord.domain) + DomainRecord.shared_info)
    return _bit(shared + EVTCHN_PENDING, load64(channel + EvtchnRecord.port))


@native
def is_masked(channel: int) -> int:
    """Whether the guest has masked a port (evtchn_2l_is_masked)."""
    return _bit(_masks(load64(channel + EvtchnRecord.domain)), load64(channel + EvtchnRecord.port))


@native
def take_events(shared_info: int, vcpu_info: int, ports: int) -> int:
    """What a guest's upcall begins with, for a guest whose kernel is this program: take what is pending and unmasked.

    Writes the ports' numbers, a word each, to ``ports``, which has room for all; returns how many there are.
    """
    count = 0
    store8(vcpu_info + VcpuInfo.evtchn_upcall_pending, 0)
    words = xchg64(vcpu_info + VcpuInfo.evtchn_pending_sel, 0)
    while words:
        word = ctz(words)
        words &= words - 1
        bits = load64(shared_info + EVTCHN_PENDING + word * 8) & ~load64(shared_info + EVTCHN_MASK + word * 8)
        and64(shared_info + EVTCHN_PENDING + word * 8, ~bits)
        while bits:
            store64(ports + count * 8, (word << 6) + ctz(bits))
            count += 1
            bits &= bits - 1
    return count


ROOM = EVTCHN_2L_NR_CHANNELS * 8
"""How many bytes ``take_events`` may write."""
