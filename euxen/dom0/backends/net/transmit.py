"""A transmit ring, natively: what the front end sends becomes a batch of packets, and is answered.

Requests are copied before they are looked at, and no index is believed. Source of the checks, their order and their
limits: xenvif_tx_build_gops and what it calls in Linux, drivers/net/xen-netback/netback.c.
"""

from __future__ import annotations

from euxen.abi.grant_table import GNTST_okay
from euxen.abi.io.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_HASH,
    XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_EXTRA_TYPE_NONE,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    NetifExtraInfo,
    NetifTxRequest,
    NetifTxResponse,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from euxen.abi.io.ring import Sring
from euxen.cpu.native.language import load8, load16, load32, load64, native, store16, store32, store64, xchg32
from euxen.dom0.backends.net.records import (
    BATCH,
    ENTRIES,
    FATAL_CROSS_PAGE,
    FATAL_EXTRA_MISSING,
    FATAL_EXTRA_TYPE,
    FATAL_GSO_SIZE,
    FATAL_GSO_TYPE,
    FATAL_REQUESTS,
    FATAL_SLOTS,
    FATAL_SLOTS_MISSING,
    FATAL_TOO_MANY_SLOTS,
    HEADER,
    INDEX_MASK,
    LEGACY_SLOTS,
    PAGE_SIZE,
    STOP_CREDIT,
    STOP_NONE,
    STOP_ROOM,
    TX_ENTRIES,
    TransmitRecord,
)
from euxen.dom0.net.copying import PAGE_SHIFT, copy_chunk, copy_end, host_address
from euxen.dom0.net.packet import ETH_HLEN, OWN, NetPacket, NetPiece

ENTRY = NetifTxRequest.size
EXTRA_TYPE = NetifExtraInfo.offsetof("type")
EXTRA_FLAGS = NetifExtraInfo.offsetof("flags")
GSO_SIZE = NetifExtraInfo.offsetof("u.gso.size_")
GSO_TYPE = NetifExtraInfo.offsetof("u.gso.type")
MCAST_ADDRESS = NetifExtraInfo.offsetof("u.mcast.addr[0]")
HASH_TYPE = NetifExtraInfo.offsetof("u.hash.type")
HASH_ALGORITHM = NetifExtraInfo.offsetof("u.hash.algorithm")
HASH_VALUE = NetifExtraInfo.offsetof("u.hash.value[0]")
KEPT_FLAGS = NETTXF_csum_blank | NETTXF_data_validated


@native
def _entry(q: int, index: int) -> int:
    return load64(q + TransmitRecord.sring) + ENTRIES + (index & (TX_ENTRIES - 1)) * ENTRY


@native
def _copy_request(q: int, index: int) -> int:
    """Copy an entry, once (RING_COPY_REQUEST); where the copy is."""
    entry = _entry(q, index)
    request = q + TransmitRecord.request
    store64(request, load64(entry))
    store32(request + 8, load32(entry + 8))
    return request


@native
def _fatal(q: int, why: int, detail: int) -> int:
    store64(q + TransmitRecord.stop, why)
    store64(q + TransmitRecord.detail, detail)
    return -1


@native
def _unconsumed(q: int) -> int:
    """How many requests there are; -1 if the index makes no sense."""
    produced = load32(load64(q + TransmitRecord.sring) + Sring.req_prod)
    waiting = (produced - load64(q + TransmitRecord.req_cons)) & INDEX_MASK
    return _fatal(q, FATAL_REQUESTS, waiting) if waiting > TX_ENTRIES else waiting


@native
def _note_extra(q: int, extra: int) -> int:
    kind = load8(extra + EXTRA_TYPE)
    if kind == XEN_NETIF_EXTRA_TYPE_GSO:
        store64(q + TransmitRecord.gso, 1 << 32 | load8(extra + GSO_TYPE) << 16 | load16(extra + GSO_SIZE))
    elif kind == XEN_NETIF_EXTRA_TYPE_MCAST_ADD or kind == XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
        address = load32(extra + MCAST_ADDRESS) | load16(extra + MCAST_ADDRESS + 4) << 32
        # Of both, adding counts.
        if load64(q + TransmitRecord.mcast) & 0xFF != XEN_NETIF_EXTRA_TYPE_MCAST_ADD:
            store64(q + TransmitRecord.mcast, address << 8 | kind)
    elif kind == XEN_NETIF_EXTRA_TYPE_HASH:
        value = load32(extra + HASH_VALUE) | load8(extra + HASH_TYPE) << 32 | load8(extra + HASH_ALGORITHM) << 40
        store64(q + TransmitRecord.hash, value)
    return 0


@native
def _take_extras(q: int, left: int) -> int:
    """Take the extra infos that follow a request: how many requests are left, or -1 (xenvif_get_extras)."""
    while True:
        if left <= 0:
            return _fatal(q, FATAL_EXTRA_MISSING, 0)
        left -= 1
        index = load64(q + TransmitRecord.req_cons)
        extra = _copy_request(q, index)
        store64(q + TransmitRecord.req_cons, (index + 1) & INDEX_MASK)
        store64(q + TransmitRecord.extras, load64(q + TransmitRecord.extras) + 1)
        kind = load8(extra + EXTRA_TYPE)
        if kind == XEN_NETIF_EXTRA_TYPE_NONE or kind >= XEN_NETIF_EXTRA_TYPE_MAX:
            return _fatal(q, FATAL_EXTRA_TYPE, kind)
        _note_extra(q, extra)
        if not load8(extra + EXTRA_FLAGS) & XEN_NETIF_EXTRA_FLAG_MORE:
            return left


@native
def _note_piece(piece: int, request: int) -> int:
    store64(piece + NetPiece.frame, load32(request + NetifTxRequest.gref))
    store64(piece + NetPiece.offset, load16(request + NetifTxRequest.offset))
    store64(piece + NetPiece.size_, load16(request + NetifTxRequest.size_))
    store64(piece + NetPiece.id, load16(request + NetifTxRequest.id))
    return 0


@native
def _take_rest(q: int, packet: int, left: int) -> int:
    """Take the requests that go on with a packet: NETIF_RSP_* for it, or -2 for a fatal one (xenvif_count_requests)."""
    first = load64(packet + NetPacket.pieces)
    total = load64(packet + NetPacket.size_)
    rest = total
    slots = 0
    result = NETIF_RSP_OKAY
    more = load64(packet + NetPacket.status)
    while more:
        if slots >= left:
            _fatal(q, FATAL_SLOTS_MISSING, slots)
            return FATAL
        if slots >= FATAL_SLOTS:
            _fatal(q, FATAL_TOO_MANY_SLOTS, slots)
            return FATAL
        if slots >= LEGACY_SLOTS:
            result = NETIF_RSP_ERROR
        index = load64(q + TransmitRecord.req_cons)
        request = _copy_request(q, index)
        store64(q + TransmitRecord.req_cons, (index + 1) & INDEX_MASK)
        slots += 1
        piece = first + slots * NetPiece.size
        _note_piece(piece, request)
        size = load64(piece + NetPiece.size_)
        # A frame of 64 KiB and more has a first size that went round.
        if size > rest:
            result = NETIF_RSP_ERROR
        rest -= size
        if load64(piece + NetPiece.offset) + size > PAGE_SIZE:
            _fatal(q, FATAL_CROSS_PAGE, load64(piece + NetPiece.offset) + size)
            return FATAL
        more = load16(request + NetifTxRequest.flags) & NETTXF_more_data
    store64(packet + NetPacket.count, slots + 1)
    if result == NETIF_RSP_OKAY:
        store64(first + NetPiece.size_, rest)
        if rest < ETH_HLEN:
            return NETIF_RSP_ERROR
        if load64(first + NetPiece.offset) + rest > PAGE_SIZE:
            _fatal(q, FATAL_CROSS_PAGE, load64(first + NetPiece.offset) + rest)
            return FATAL
    return result


FATAL = -2


@native
def _take_gso(q: int, packet: int) -> int:
    """What the front end says of segments (xenvif_set_skb_gso)."""
    gso = load64(q + TransmitRecord.gso)
    store64(packet + NetPacket.gso_type, 0)
    store64(packet + NetPacket.gso_size, 0)
    if not gso:
        return 0
    size = gso & 0xFFFF
    kind = (gso >> 16) & 0xFF
    if not size:
        return _fatal(q, FATAL_GSO_SIZE, size)
    if kind != XEN_NETIF_GSO_TYPE_TCPV4 and kind != XEN_NETIF_GSO_TYPE_TCPV6:
        return _fatal(q, FATAL_GSO_TYPE, kind)
    store64(packet + NetPacket.gso_type, kind)
    store64(packet + NetPacket.gso_size, size)
    return 0


@native
def _take_header(q: int, packet: int, number: int) -> int:
    """Copy the beginning of a packet to where it can be looked at: GNTST_*."""
    piece = load64(packet + NetPacket.pieces)
    size = min(load64(piece + NetPiece.size_), HEADER)
    target = load64(q + TransmitRecord.headers) + number * HEADER
    copier = load64(q + TransmitRecord.copier)
    store64(packet + NetPacket.header, host_address(copier, target))
    store64(packet + NetPacket.header_size, size)
    frame = load64(piece + NetPiece.frame)
    offset = load64(piece + NetPiece.offset)
    frontend = load64(q + TransmitRecord.frontend)
    at = target & (PAGE_SIZE - 1)
    return copy_chunk(copier, frontend, frame, offset, OWN, target >> PAGE_SHIFT, at, size)


@native
def _take_packet(q: int, number: int, packet: int, piece: int, left: int) -> int:
    """Take one packet, of which there is at least the first request: 1, 0 if there is no credit, or -1."""
    index = load64(q + TransmitRecord.req_cons)
    request = _copy_request(q, index)
    size = load16(request + NetifTxRequest.size_)
    flags = load16(request + NetifTxRequest.flags)
    if size > load64(q + TransmitRecord.credit):
        store64(q + TransmitRecord.stop, STOP_CREDIT)
        store64(q + TransmitRecord.detail, size)
        return 0
    store64(q + TransmitRecord.credit, load64(q + TransmitRecord.credit) - size)
    store64(q + TransmitRecord.req_cons, (index + 1) & INDEX_MASK)
    _note_piece(piece, request)
    store64(q + TransmitRecord.gso, 0)
    store64(q + TransmitRecord.mcast, 0)
    store64(q + TransmitRecord.hash, 0)
    store64(q + TransmitRecord.extras, 0)
    left -= 1
    if flags & NETTXF_extra_info:
        left = _take_extras(q, left)
        if left < 0:
            return -1
    if flags & NETTXF_csum_blank:
        flags |= NETTXF_data_validated
    store64(packet + NetPacket.pieces, piece)
    store64(packet + NetPacket.count, 1)
    store64(packet + NetPacket.size_, size)
    store64(packet + NetPacket.granter, load64(q + TransmitRecord.frontend))
    store64(packet + NetPacket.flags, flags & KEPT_FLAGS)
    store64(packet + NetPacket.hash, load64(q + TransmitRecord.hash))
    store64(packet + NetPacket.mcast, load64(q + TransmitRecord.mcast))
    store64(packet + NetPacket.extras, load64(q + TransmitRecord.extras))
    if load64(packet + NetPacket.mcast):
        return 1
    store64(packet + NetPacket.status, flags & NETTXF_more_data)
    status = _take_rest(q, packet, left)
    if status == FATAL or (status == NETIF_RSP_OKAY and _take_gso(q, packet)):
        return -1
    if status == NETIF_RSP_OKAY and _take_header(q, packet, number) != GNTST_okay:
        status = NETIF_RSP_ERROR
    store64(packet + NetPacket.status, status)
    if status != NETIF_RSP_OKAY:
        store64(packet + NetPacket.mcast, DROPPED)  # it is answered, and that is all
    return 1


DROPPED = 0xFF
"""``NetPacket.mcast`` of what is neither a packet nor a request: a packet that was refused."""


@native
def _take_some(q: int) -> int:
    count = 0
    piece = load64(q + TransmitRecord.pieces)
    sring = load64(q + TransmitRecord.sring)
    store64(q + TransmitRecord.stop, STOP_NONE)
    while count < BATCH:
        left = _unconsumed(q)
        if left < 0:
            return count
        if left == 0:
            # An exchange, which is a barrier: whoever adds a request now sees that he has to tell.
            xchg32(sring + Sring.req_event, load64(q + TransmitRecord.req_cons) + 1)
            if _unconsumed(q) <= 0:
                return count
            continue
        packet = load64(q + TransmitRecord.packets) + count * NetPacket.size
        taken = _take_packet(q, count, packet, piece, left)
        if taken <= 0:
            return count
        piece += load64(packet + NetPacket.count) * NetPiece.size
        count += 1
    store64(q + TransmitRecord.stop, STOP_ROOM)
    return count


@native
def take(q: int) -> int:
    """Take up to BATCH packets from the ring: how many. ``stop`` says why no more.

    With STOP_NONE an event will come when there are more (RING_FINAL_CHECK_FOR_REQUESTS).
    """
    count = _take_some(q)
    copy_end(load64(q + TransmitRecord.copier))
    return count


@native
def _respond(q: int, id: int, status: int) -> int:
    index = load64(q + TransmitRecord.rsp_prod_pvt)
    entry = _entry(q, index)
    if status == NETIF_RSP_NULL:
        store16(entry + NetifTxResponse.status, status)
    else:
        store16(entry + NetifTxResponse.id, id)
        store16(entry + NetifTxResponse.status, status)
    store64(q + TransmitRecord.rsp_prod_pvt, (index + 1) & INDEX_MASK)
    return 0


@native
def answer(q: int, count: int) -> int:
    """Answer the packets of a batch; whether the front end wants an event.

    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY, make_tx_response.
    """
    sring = load64(q + TransmitRecord.sring)
    before = load64(q + TransmitRecord.rsp_prod_pvt)
    for n in range(count):
        packet = load64(q + TransmitRecord.packets) + n * NetPacket.size
        piece = load64(packet + NetPacket.pieces)
        status = load64(packet + NetPacket.status)
        for slot in range(load64(packet + NetPacket.count)):
            _respond(q, load64(piece + slot * NetPiece.size + NetPiece.id), status)
            if slot == 0:
                for _extra in range(load64(packet + NetPacket.extras)):
                    _respond(q, 0, NETIF_RSP_NULL)
    now = load64(q + TransmitRecord.rsp_prod_pvt)
    xchg32(sring + Sring.rsp_prod, now)
    event = load32(sring + Sring.rsp_event)
    return 1 if (now - event) & INDEX_MASK < (now - before) & INDEX_MASK else 0
