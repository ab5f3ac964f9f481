"""From one interface to another, natively: what happens for each batch of packets whose way is known.

The bridge, in Python, decides where packets go; what it decided lately is remembered here by their addresses. Whatever
is not as usual is left to Python, from the very packet on: an address that is not known, a packet that has to be
changed, a front end that makes nonsense.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, u64
from euxen.cpu.native.language import load32, load64, monotonic, native, store64, xchg64
from euxen.dom0.backends.net.receive import drain, fill, forget_waiting, keep, plain_length, push, waiting
from euxen.dom0.backends.net.records import (
    FATAL_REQUESTS,
    STOP_CREDIT,
    STOP_NONE,
    STOP_SLOTS,
    ReceiveRecord,
    TransmitRecord,
)
from euxen.dom0.backends.net.transmit import answer, take
from euxen.dom0.net.lan import LanRecord
from euxen.dom0.net.packet import NetPacket, run_length
from euxen.hypervisor.event_channel import evtchn_send

FLOWS = 64
ROUNDS = 16
"""Batches after which others have their turn."""
REMEMBERED = 1_000_000_000
"""ns for which a flow is known."""
DRAIN_TIMEOUT = 10_000_000_000
"""ns that a front end has to take what waits for it (rx_drain_timeout_msecs)."""
DONE, PYTHON = 0, 1


class FlowRecord(Structure):
    """Where packets with certain addresses go."""

    low: int = u64()  # the first eight bytes of a frame
    high: int = u64()  # and the next four
    target: int = u64()  # LinkRecord, 0 for none
    generation: int = u64()  # LanRecord.generation when that was so
    expires: int = u64()  # ns: the bridge is asked again then


class LinkRecord(Structure):
    """One queue of an interface."""

    lan: int = u64()  # LanRecord
    domain: int = u64()  # Domain 0's DomainRecord
    transmit: int = u64()  # TransmitRecord
    receive: int = u64()  # ReceiveRecord
    transmit_port: int = u64()  # our ends of the event channels
    receive_port: int = u64()
    broken: int = u64()  # nothing is done any more
    lost: int = u64()  # packets for which there was no room
    unfinished: int = u64()  # Python has to go on with a batch:
    taken: int = u64()  # packets that it has,
    dealt: int = u64()  # and how many of them are dealt with
    flows: int = array(u64(), FLOWS * FlowRecord.size // 8)


@native
def flow_at(link: int, low: int, high: int) -> int:
    """Where a flow is remembered."""
    number = ((low >> 40) ^ (low >> 16) ^ high ^ (high >> 24)) & (FLOWS - 1)
    return link + LinkRecord.flows + number * FlowRecord.size


@native
def remember(link: int, header: int, target: int) -> int:
    """Note where packets go that begin like one. With the bridge's lock."""
    low = load64(header)
    high = load32(header + 8)
    flow = flow_at(link, low, high)
    store64(flow + FlowRecord.low, low)
    store64(flow + FlowRecord.high, high)
    store64(flow + FlowRecord.target, target)
    store64(flow + FlowRecord.generation, load64(load64(link + LinkRecord.lan) + LanRecord.generation))
    store64(flow + FlowRecord.expires, monotonic() + REMEMBERED)
    return 0


@native
def _target(link: int, packet: int, now: int) -> int:
    """The LinkRecord to which a packet goes, or 0 if the bridge has to be asked."""
    header = load64(packet + NetPacket.header)
    low = load64(header)
    high = load32(header + 8)
    flow = flow_at(link, low, high)
    if load64(flow + FlowRecord.low) != low or load64(flow + FlowRecord.high) != high:
        return 0
    if load64(flow + FlowRecord.generation) != load64(load64(link + LinkRecord.lan) + LanRecord.generation):
        return 0
    if load64(flow + FlowRecord.expires) < now:
        return 0
    return load64(flow + FlowRecord.target)


@native
def _keep(link: int, packets: int, count: int) -> int:
    """Have packets wait, or lose them: how many, up to the first that has to be changed."""
    receive = load64(link + LinkRecord.receive)
    plain = plain_length(receive, packets, count)
    lost = plain - keep(receive, packets, plain)
    store64(link + LinkRecord.lost, load64(link + LinkRecord.lost) + lost)
    return plain


@native
def _drain(link: int) -> int:
    """Put packets onto the ring that wait. Who does not take them for long loses them; 1 if the ring is broken."""
    receive = load64(link + LinkRecord.receive)
    now = monotonic()
    if drain(receive):
        store64(receive + ReceiveRecord.progress, now)
    if load64(receive + ReceiveRecord.stop) >= FATAL_REQUESTS:
        return 1
    if now - load64(receive + ReceiveRecord.progress) > DRAIN_TIMEOUT:
        store64(link + LinkRecord.lost, load64(link + LinkRecord.lost) + forget_waiting(receive))
    return 0


@native
def deliver(link: int, packets: int, count: int) -> int:
    """Give a front end packets: how many are dealt with. If not all, one has to be changed, or the ring is broken."""
    if load64(link + LinkRecord.broken):
        return count
    receive = load64(link + LinkRecord.receive)
    if waiting(receive) and _drain(link):
        return 0
    done = 0
    if not waiting(receive):
        done = fill(receive, packets, count)
        stop = load64(receive + ReceiveRecord.stop)
        if stop == STOP_SLOTS:
            store64(receive + ReceiveRecord.progress, monotonic())
        elif stop >= FATAL_REQUESTS:
            return done
    if waiting(receive) or load64(receive + ReceiveRecord.stop) == STOP_SLOTS:
        done += _keep(link, packets + done * NetPacket.size, count - done)
    show(link)
    return done


@native
def show(link: int) -> int:
    """Show a front end what it got."""
    if push(load64(link + LinkRecord.receive)):
        evtchn_send(load64(link + LinkRecord.domain), load64(link + LinkRecord.receive_port))
    return 0


@native
def finish(link: int, count: int) -> int:
    """Answer a batch."""
    if answer(load64(link + LinkRecord.transmit), count):
        evtchn_send(load64(link + LinkRecord.domain), load64(link + LinkRecord.transmit_port))
    return 0


@native
def _forward_batch(link: int, packets: int, count: int) -> int:
    """Send a batch on: how many packets are dealt with before one that Python has to look at."""
    done = 0
    now = monotonic()
    while done < count:
        packet = packets + done * NetPacket.size
        length = run_length(packet, count - done)
        target = _target(link, packet, now) if length else 0
        if not target:
            break
        dealt = deliver(target, packet, length)
        done += dealt
        if dealt < length:
            break
    return done


@native
def _forward_some(link: int) -> int:
    transmit = load64(link + LinkRecord.transmit)
    packets = load64(transmit + TransmitRecord.packets)
    for _round in range(ROUNDS):
        if load64(link + LinkRecord.broken):
            return DONE
        count = take(transmit)
        stop = load64(transmit + TransmitRecord.stop)
        done = _forward_batch(link, packets, count)
        if done < count or stop == STOP_CREDIT or stop >= FATAL_REQUESTS:
            store64(link + LinkRecord.taken, count)
            store64(link + LinkRecord.dealt, done)
            store64(link + LinkRecord.unfinished, 1)
            return PYTHON
        finish(link, count)
        if stop == STOP_NONE:
            return DONE
    return PYTHON


@native
def forward(link: int) -> int:
    """A native handler: the front end has sent something."""
    lan = load64(link + LinkRecord.lan)
    if xchg64(lan + LanRecord.lock, 1):
        return PYTHON  # which can wait for the lock
    result = PYTHON
    if not load64(link + LinkRecord.unfinished):
        result = _forward_some(link)
    xchg64(lan + LanRecord.lock, 0)
    return result


@native
def more_room_locked(link: int) -> int:
    """The front end may take more. With the bridge's lock; 1 if the ring is broken."""
    if load64(link + LinkRecord.broken):
        return DONE
    receive = load64(link + LinkRecord.receive)
    if waiting(receive):
        if _drain(link):
            return PYTHON
        show(link)
    return DONE


@native
def more_room(link: int) -> int:
    """A native handler: the front end may take more."""
    if not waiting(load64(link + LinkRecord.receive)):
        return DONE
    lan = load64(link + LinkRecord.lan)
    if xchg64(lan + LanRecord.lock, 1):
        return PYTHON
    result = more_room_locked(link)
    xchg64(lan + LanRecord.lock, 0)
    return result


@native
def both(link: int) -> int:
    """A native handler: any of both."""
    room = more_room(link)
    return PYTHON if forward(link) or room else DONE
