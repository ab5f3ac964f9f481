"""A receive ring, natively: packets are copied to where the front end wants them, or wait until there is room.

Source: drivers/net/xen-netback/rx.c of Linux. What the front end offers is used as it comes: each page is filled before
the next one is begun.
"""

from __future__ import annotations

from euxen.abi.grant_table import GNTST_okay
from euxen.abi.io.netif import (
    NETIF_RSP_ERROR,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_HASH,
    NetifExtraInfo,
    NetifRxRequest,
    NetifRxResponse,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
    NETTXF_csum_blank,
    NETTXF_data_validated,
)
from euxen.abi.io.ring import Sring
from euxen.cpu.native.language import load32, load64, native, store8, store16, store32, store64, xchg32
from euxen.dom0.backends.net.records import (
    BACKLOG_PACKETS,
    ENTRIES,
    FATAL_REQUESTS,
    INDEX_MASK,
    PAGE_SIZE,
    RX_ENTRIES,
    STOP_HELP,
    STOP_NONE,
    STOP_SLOTS,
    ReceiveRecord,
)
from euxen.dom0.net.copying import PAGE_SHIFT, copy_chunk, copy_end, gather, host_address
from euxen.dom0.net.packet import IPV4, IPV6, OWN, NetPacket, NetPiece, ether_type, own_packet

ENTRY = NetifRxRequest.size
CHECKSUM_IPV4, CHECKSUM_IPV6 = 1, 2
EXTRA_TYPE = NetifExtraInfo.offsetof("type")
EXTRA_FLAGS = NetifExtraInfo.offsetof("flags")
EXTRA_U = NetifExtraInfo.offsetof("u")
GSO_SIZE = NetifExtraInfo.offsetof("u.gso.size_")
GSO_TYPE = NetifExtraInfo.offsetof("u.gso.type")
GSO_FEATURES = NetifExtraInfo.offsetof("u.gso.features")
HASH_TYPE = NetifExtraInfo.offsetof("u.hash.type")
HASH_ALGORITHM = NetifExtraInfo.offsetof("u.hash.algorithm")
HASH_VALUE = NetifExtraInfo.offsetof("u.hash.value[0]")

FILLED, NO_SLOTS, SOURCE_GONE, BROKEN = range(4)
"""What becomes of a packet: it is on the ring, there is no room, its sender took it away, the ring makes no sense."""
AREA_ALIGN = 63


@native
def _entry(q: int, index: int) -> int:
    return load64(q + ReceiveRecord.sring) + ENTRIES + (index & (RX_ENTRIES - 1)) * ENTRY


@native
def _extras(q: int, packet: int) -> int:
    """How many entries of extra info a packet takes."""
    extras = 1 if load64(packet + NetPacket.gso_type) else 0
    return extras + (1 if load64(packet + NetPacket.hash) and load64(q + ReceiveRecord.wants_hash) else 0)


@native
def _free_slots(q: int) -> int:
    """How many entries the front end offers; -1 if the index makes no sense."""
    produced = load32(load64(q + ReceiveRecord.sring) + Sring.req_prod)
    free = (produced - load64(q + ReceiveRecord.req_cons)) & INDEX_MASK
    if free > RX_ENTRIES:
        store64(q + ReceiveRecord.stop, FATAL_REQUESTS)
        store64(q + ReceiveRecord.detail, free)
        return -1
    return free


@native
def _has_slots(q: int, needed: int) -> int:
    """Whether there is room; if not, an event will come when there is more (xenvif_rx_ring_slots_available)."""
    sring = load64(q + ReceiveRecord.sring)
    while True:
        free = _free_slots(q)
        if free >= needed or free < 0:
            return free
        produced = (load64(q + ReceiveRecord.req_cons) + free) & INDEX_MASK
        xchg32(sring + Sring.req_event, produced + 1)
        if load32(sring + Sring.req_prod) == produced:
            return 0


@native
def _needs_help(q: int, packet: int) -> int:
    """Whether a packet has to be changed before the front end can take it."""
    flags = load64(packet + NetPacket.flags)
    kind = load64(packet + NetPacket.gso_type)
    if kind and not ((load64(q + ReceiveRecord.gso) >> kind) & 1 and flags & NETTXF_csum_blank):
        return 1
    if not load64(q + ReceiveRecord.sg) and load64(packet + NetPacket.size_) > PAGE_SIZE:
        return 1
    if not flags & NETTXF_csum_blank:
        return 0
    protocol = ether_type(load64(packet + NetPacket.header), load64(packet + NetPacket.header_size))
    checksums = load64(q + ReceiveRecord.checksums)
    takes = (protocol == IPV4 and checksums & CHECKSUM_IPV4) or (protocol == IPV6 and checksums & CHECKSUM_IPV6)
    return 0 if takes else 1


@native
def _take_requests(q: int, count: int) -> int:
    """Copy the entries that will be used, once."""
    for n in range(count):
        entry = _entry(q, load64(q + ReceiveRecord.req_cons) + n)
        store64(q + ReceiveRecord.requests + n * 8, load64(entry))
    return 0


@native
def _source_is_there(q: int, granter: int, frame: int, offset: int, size: int) -> int:
    """Whether a copy failed because of whom the packet is to go to: whether it can be copied to elsewhere."""
    if granter == OWN:
        return 1
    copier = load64(q + ReceiveRecord.copier)
    scratch = load64(q + ReceiveRecord.area) + load64(q + ReceiveRecord.area_size)
    status = copy_chunk(copier, granter, frame, offset, OWN, scratch >> PAGE_SHIFT, 0, size)
    return 1 if status == GNTST_okay else 0


@native
def _copy_packet(q: int, packet: int, extras: int) -> int:
    """Copy a packet to the pages that the front end offers: how many, or -1 if its sender took it away."""
    copier = load64(q + ReceiveRecord.copier)
    granter = load64(packet + NetPacket.granter)
    frontend = load64(q + ReceiveRecord.frontend)
    piece = load64(packet + NetPacket.pieces)
    end = piece + load64(packet + NetPacket.count) * NetPiece.size
    slot = 0
    filled = 0
    while piece < end:
        frame = load64(piece + NetPiece.frame)
        offset = load64(piece + NetPiece.offset)
        left = load64(piece + NetPiece.size_)
        if granter == OWN:
            offset = frame & (PAGE_SIZE - 1)
            frame >>= PAGE_SHIFT
        while left > 0:
            if filled == PAGE_SIZE:
                slot += 1
                filled = 0
            part = min(left, PAGE_SIZE - filled)
            if granter == OWN:
                part = min(part, PAGE_SIZE - offset)
            number = slot + extras if slot else 0
            gref = load64(q + ReceiveRecord.requests + number * 8) >> 32 & 0xFFFF_FFFF
            if copy_chunk(copier, granter, frame, offset, frontend, gref, filled, part) != GNTST_okay:
                if not _source_is_there(q, granter, frame, offset, part):
                    return -1
                store64(q + ReceiveRecord.sizes + slot * 8, NETIF_RSP_ERROR)
            elif filled == 0 or load64(q + ReceiveRecord.sizes + slot * 8) != NETIF_RSP_ERROR:
                store64(q + ReceiveRecord.sizes + slot * 8, filled + part)
            filled += part
            left -= part
            offset += part
            if granter == OWN and offset == PAGE_SIZE:
                offset = 0
                frame += 1
        piece += NetPiece.size
    return slot + 1


@native
def _respond_extras(q: int, packet: int, extras: int) -> int:
    """Write a packet's extra infos into the entries behind its first."""
    index = load64(q + ReceiveRecord.req_cons) + 1
    kind = load64(packet + NetPacket.gso_type)
    if kind:
        entry = _entry(q, index)
        store8(entry + EXTRA_TYPE, XEN_NETIF_EXTRA_TYPE_GSO)
        store8(entry + EXTRA_FLAGS, XEN_NETIF_EXTRA_FLAG_MORE if extras > 1 else 0)
        store16(entry + GSO_SIZE, load64(packet + NetPacket.gso_size))
        store8(entry + GSO_TYPE, kind)
        store8(entry + GSO_TYPE + 1, 0)
        store16(entry + GSO_FEATURES, 0)
        index += 1
        extras -= 1
    if extras:
        entry = _entry(q, index)
        value = load64(packet + NetPacket.hash)
        store8(entry + EXTRA_TYPE, XEN_NETIF_EXTRA_TYPE_HASH)
        store8(entry + EXTRA_FLAGS, 0)
        store8(entry + HASH_TYPE, value >> 32)
        store8(entry + HASH_ALGORITHM, value >> 40)
        store32(entry + HASH_VALUE, value)
    return 0


@native
def _first_flags(packet: int, extras: int) -> int:
    flags = load64(packet + NetPacket.flags)
    result = NETRXF_extra_info if extras else 0
    if flags & NETTXF_csum_blank:
        return result | NETRXF_csum_blank | NETRXF_data_validated
    return result | (NETRXF_data_validated if flags & NETTXF_data_validated else 0)


@native
def _respond(q: int, packet: int, slots: int, extras: int) -> int:
    """Write the responses to the entries that a packet took. They are seen when they are pushed."""
    for slot in range(slots):
        number = slot + extras if slot else 0
        entry = _entry(q, load64(q + ReceiveRecord.req_cons) + number)
        flags = NETRXF_more_data if slot + 1 < slots else 0
        if slot == 0:
            flags |= _first_flags(packet, extras)
        store16(entry + NetifRxResponse.id, load64(q + ReceiveRecord.requests + number * 8))
        store16(entry + NetifRxResponse.offset, 0)
        store16(entry + NetifRxResponse.flags, flags)
        store16(entry + NetifRxResponse.status, load64(q + ReceiveRecord.sizes + slot * 8))
    _respond_extras(q, packet, extras)
    store64(q + ReceiveRecord.req_cons, (load64(q + ReceiveRecord.req_cons) + slots + extras) & INDEX_MASK)
    return 0


@native
def _fill(q: int, packet: int) -> int:
    """Put one packet onto the ring."""
    extras = _extras(q, packet)
    needed = (load64(packet + NetPacket.size_) + PAGE_SIZE - 1) // PAGE_SIZE + extras
    free = _has_slots(q, needed)
    if free < needed:
        return BROKEN if free < 0 else NO_SLOTS
    _take_requests(q, needed)
    slots = _copy_packet(q, packet, extras)
    if slots < 0:
        return SOURCE_GONE
    _respond(q, packet, slots, extras)
    return FILLED


@native
def fill(q: int, packets: int, count: int) -> int:
    """Put packets onto the ring, in their order: how many are dealt with. ``stop`` says why no more.

    A packet whose sender took it away gets NETIF_RSP_ERROR as its status, and is dealt with.
    """
    store64(q + ReceiveRecord.stop, STOP_NONE)
    n = 0
    while n < count:
        packet = packets + n * NetPacket.size
        if _needs_help(q, packet):
            store64(q + ReceiveRecord.stop, STOP_HELP)
            break
        result = _fill(q, packet)
        if result == NO_SLOTS:
            store64(q + ReceiveRecord.stop, STOP_SLOTS)
            break
        if result == BROKEN:
            break
        if result == SOURCE_GONE:
            store64(packet + NetPacket.status, NETIF_RSP_ERROR)
        n += 1
    copy_end(load64(q + ReceiveRecord.copier))
    return n


@native
def push(q: int) -> int:
    """Show the front end what was put onto the ring; whether it wants an event.

    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY.
    """
    sring = load64(q + ReceiveRecord.sring)
    now = load64(q + ReceiveRecord.req_cons)
    before = load64(q + ReceiveRecord.pushed)
    if now == before:
        return 0
    store64(q + ReceiveRecord.pushed, now)
    xchg32(sring + Sring.rsp_prod, now)
    event = load32(sring + Sring.rsp_event)
    return 1 if (now - event) & INDEX_MASK < (now - before) & INDEX_MASK else 0


@native
def plain_length(q: int, packets: int, count: int) -> int:
    """How many packets from the first on can be taken as they are."""
    n = 0
    while n < count and not _needs_help(q, packets + n * NetPacket.size):
        n += 1
    return n


# Packets that wait.


@native
def waiting(q: int) -> int:
    """How many packets wait."""
    return load64(q + ReceiveRecord.end_waiting) - load64(q + ReceiveRecord.first_waiting)


@native
def _place(q: int, size: int) -> int:
    """Where in the area a packet can wait: an offset, or -1."""
    head = load64(q + ReceiveRecord.area_head)
    tail = load64(q + ReceiveRecord.area_tail)
    if not waiting(q):
        store64(q + ReceiveRecord.area_head, 0)
        return 0 if size <= load64(q + ReceiveRecord.area_size) else -1
    if tail > head:
        if tail + size <= load64(q + ReceiveRecord.area_size):
            return tail
        tail = 0
    return tail if tail + size < head else -1


@native
def keep(q: int, packets: int, count: int) -> int:
    """Have packets wait for room: how many. There is no place for the others, and they are lost."""
    kept = 0
    copier = load64(q + ReceiveRecord.copier)
    while kept < count and waiting(q) < BACKLOG_PACKETS:
        packet = packets + kept * NetPacket.size
        size = load64(packet + NetPacket.size_)
        at = _place(q, size)
        if at < 0:
            break
        target = load64(q + ReceiveRecord.area) + at
        if gather(copier, packet, target, size) == GNTST_okay:
            number = load64(q + ReceiveRecord.end_waiting)
            kept_packet = load64(q + ReceiveRecord.waiting) + (number & (BACKLOG_PACKETS - 1)) * NetPacket.size
            own_packet(kept_packet, target, host_address(copier, target), size, load64(packet + NetPacket.flags))
            store64(kept_packet + NetPacket.gso_type, load64(packet + NetPacket.gso_type))
            store64(kept_packet + NetPacket.gso_size, load64(packet + NetPacket.gso_size))
            store64(kept_packet + NetPacket.hash, load64(packet + NetPacket.hash))
            store64(q + ReceiveRecord.area_tail, at + ((size + AREA_ALIGN) & ~AREA_ALIGN))
            store64(q + ReceiveRecord.end_waiting, number + 1)
        else:
            store64(packet + NetPacket.status, NETIF_RSP_ERROR)
        kept += 1
    return kept


@native
def _forget_first(q: int) -> int:
    """The first packet that waits does so no more."""
    number = load64(q + ReceiveRecord.first_waiting) + 1
    store64(q + ReceiveRecord.first_waiting, number)
    if waiting(q):
        packet = load64(q + ReceiveRecord.waiting) + (number & (BACKLOG_PACKETS - 1)) * NetPacket.size
        frame = load64(packet + NetPacket.first + NetPiece.frame)
        store64(q + ReceiveRecord.area_head, frame - load64(q + ReceiveRecord.area))
    else:
        store64(q + ReceiveRecord.area_head, 0)
        store64(q + ReceiveRecord.area_tail, 0)
    return 0


@native
def drain(q: int) -> int:
    """Put packets onto the ring that wait: how many. ``stop`` says why no more."""
    count = 0
    while waiting(q):
        number = load64(q + ReceiveRecord.first_waiting)
        packet = load64(q + ReceiveRecord.waiting) + (number & (BACKLOG_PACKETS - 1)) * NetPacket.size
        if not fill(q, packet, 1):
            return count
        _forget_first(q)
        count += 1
    store64(q + ReceiveRecord.stop, STOP_NONE)
    return count


@native
def forget_waiting(q: int) -> int:
    """Lose all packets that wait: how many."""
    count = waiting(q)
    while waiting(q):
        _forget_first(q)
    return count
