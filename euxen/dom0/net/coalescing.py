"""Joining segments of TCP that come one after the other (GRO), for a guest that takes them as one. Native.

It is the inverse of ``segmentation``, which divides again what is for a guest that does not. Only what can be divided
into the very same frames is joined: neighbours of one connection, of one size but for the last.
"""

from __future__ import annotations

from euxen.abi.io.netif import XEN_NETIF_GSO_TYPE_TCPV4, NETTXF_csum_blank, NETTXF_data_validated
from euxen.cpu.native.language import copy, load8, load16, load64, native, store8, store16, store64
from euxen.dom0.net.checksum import TCP, fill_ip_checksum, fill_pseudo, get32, swap16
from euxen.dom0.net.packet import ETH_HLEN, IPV4, MAX_FRAME, NetPacket, NetPiece
from euxen.dom0.net.segmentation import MAX_SEGMENTS

IP_HEADER, TCP_HEADER = 20, 20
TCP_AT = ETH_HLEN + IP_HEADER
TH_PSH, TH_ACK = 0x08, 0x10
VERSION_4, DONT_FRAGMENT = 0x45, 0x40


@native
def _headers(frame: int, size: int) -> int:
    """How many bytes of headers a frame has that may be joined with others; 0 for any other frame."""
    if size <= TCP_AT + TCP_HEADER or load16(frame + 12) != IPV4 or load8(frame + ETH_HLEN) != VERSION_4:
        return 0
    if load8(frame + ETH_HLEN + 9) != TCP or load16(frame + ETH_HLEN + 6) & ~DONT_FRAGMENT & 0xFFFF:
        return 0
    headers = TCP_AT + (load8(frame + TCP_AT + 12) >> 4) * 4
    if headers < TCP_AT + TCP_HEADER or headers >= size or load8(frame + TCP_AT + 13) & ~TH_PSH & 0xFF != TH_ACK:
        return 0
    return headers if swap16(load16(frame + ETH_HLEN + 2)) == size - ETH_HLEN else 0


@native
def _same(a: int, b: int, size: int) -> int:
    for n in range(size):
        if load8(a + n) != load8(b + n):
            return 0
    return 1


@native
def _fits(first: int, frame: int, headers: int) -> int:
    """Whether two frames differ in nothing but what segments of one packet differ in."""
    if not _same(first, frame, ETH_HLEN + 2) or not _same(first + ETH_HLEN + 6, frame + ETH_HLEN + 6, 4):
        return 0
    # Addresses and ports; the number that is acknowledged; options.
    if not _same(first + ETH_HLEN + 12, frame + ETH_HLEN + 12, 12):
        return 0
    if not _same(first + TCP_AT + 8, frame + TCP_AT + 8, 5):
        return 0
    options = TCP_AT + TCP_HEADER
    return _same(first + options, frame + options, headers - options)


@native
def _append(packet: int, pieces: int, payload: int, size: int) -> int:
    """Add a payload, by its machine address, to a packet, whose pieces are moved to where there is room for more."""
    count = load64(packet + NetPacket.count)
    if count == 1:
        copy(pieces, load64(packet + NetPacket.pieces), NetPiece.size)
        store64(packet + NetPacket.pieces, pieces)
    piece = pieces + count * NetPiece.size
    store64(piece + NetPiece.frame, payload)
    store64(piece + NetPiece.offset, 0)
    store64(piece + NetPiece.size_, size)
    store64(packet + NetPacket.count, count + 1)
    store64(packet + NetPacket.size_, load64(packet + NetPacket.size_) + size)
    return 0


@native
def _finish(packet: int, headers: int, gso_size: int) -> int:
    """Write the headers of a packet that was joined."""
    frame = load64(packet + NetPacket.header)
    size = load64(packet + NetPacket.size_)
    store16(frame + ETH_HLEN + 2, swap16(size - ETH_HLEN))
    fill_ip_checksum(frame, ETH_HLEN)
    fill_pseudo(frame, size)
    store64(packet + NetPacket.flags, NETTXF_csum_blank | NETTXF_data_validated)
    store64(packet + NetPacket.gso_type, XEN_NETIF_GSO_TYPE_TCPV4)
    store64(packet + NetPacket.gso_size, gso_size)
    store64(packet + NetPacket.header_size, headers)
    return 0


@native
def _follows(first: int, frame: int, number: int) -> int:
    """Whether the identification of a packet is that of a segment; of those not to be fragmented it says nothing."""
    if load8(first + ETH_HLEN + 6) & load8(frame + ETH_HLEN + 6) & DONT_FRAGMENT:
        return 1
    expected = swap16(load16(first + ETH_HLEN + 4)) + number
    return 1 if swap16(load16(frame + ETH_HLEN + 4)) == expected & 0xFFFF else 0


@native
def _join(packet: int, others: int, count: int, pieces: int) -> int:
    """Join as many of the packets that follow as can be: how many."""
    frame = load64(packet + NetPacket.header)
    size = load64(packet + NetPacket.size_)
    headers = _headers(frame, size)
    if not headers or load8(frame + TCP_AT + 13) & TH_PSH:
        return 0
    gso_size = size - headers
    sequence = get32(frame + TCP_AT + 4) + gso_size
    joined = 0
    ended = 0
    while joined < count and joined + 1 < MAX_SEGMENTS and not ended:
        other = others + joined * NetPacket.size
        next_frame = load64(other + NetPacket.header)
        next_size = load64(other + NetPacket.size_)
        payload = next_size - headers
        if _headers(next_frame, next_size) != headers or payload > gso_size or size + payload > MAX_FRAME:
            break
        if get32(next_frame + TCP_AT + 4) != sequence & 0xFFFF_FFFF or not _fits(frame, next_frame, headers):
            break
        if not _follows(frame, next_frame, joined + 1):
            break
        _append(packet, pieces, load64(load64(other + NetPacket.pieces) + NetPiece.frame) + headers, payload)
        store16(frame + TCP_AT + 14, load16(next_frame + TCP_AT + 14))  # the last window counts
        pushed = load8(next_frame + TCP_AT + 13) & TH_PSH
        store8(frame + TCP_AT + 13, TH_ACK | pushed)
        ended = 1 if pushed or payload < gso_size else 0
        sequence += payload
        size += payload
        joined += 1
    if joined:
        _finish(packet, headers, gso_size)
    return joined


@native
def coalesce(packets: int, count: int, pieces: int) -> int:
    """Join neighbours in a batch of packets in Domain 0's own memory: how many packets are left.

    ``pieces`` is room for as many NetPiece as there are packets.
    """
    left = 0
    n = 0
    while n < count:
        packet = packets + left * NetPacket.size
        if left != n:
            source = packets + n * NetPacket.size
            copy(packet, source, NetPacket.size)
            # A packet of one piece has it in itself.
            store64(packet + NetPacket.pieces, packet + NetPacket.first)
        joined = _join(packet, packets + (n + 1) * NetPacket.size, count - n - 1, pieces + n * NetPiece.size)
        n += 1 + joined
        left += 1
    return left
