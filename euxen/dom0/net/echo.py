"""Answering pings. RFC 792, natively, as each may come in a batch of others."""

from __future__ import annotations

from euxen.cpu.native.language import load8, load16, load32, load64, native, store8, store16, store32
from euxen.dom0.net.checksum import fold, packet_end, sum16
from euxen.dom0.net.packet import ETH_HLEN, IPV4, NetPacket

ICMP, ECHO_REPLY, ECHO_REQUEST = 1, 0, 8
ICMP_HEADER = 8


@native
def is_request(header: int, size: int, address: int) -> int:
    """Whether a frame is a ping of an IPv4 address, which is as it is loaded: its first byte lowest."""
    if size < ETH_HLEN + 20 + ICMP_HEADER or load16(header + 12) != IPV4 or load8(header + ETH_HLEN) != 0x45:
        return 0
    if load8(header + ETH_HLEN + 9) != ICMP or load32(header + ETH_HLEN + 16) != address:
        return 0
    whole = load16(header + ETH_HLEN + 6) & 0xFF3F == 0
    return 1 if whole and load8(header + ETH_HLEN + 20) == ECHO_REQUEST else 0


@native
def next_request(packets: int, count: int, address: int) -> int:
    """How many packets are before the first ping of an address."""
    for n in range(count):
        packet = packets + n * NetPacket.size
        if is_request(load64(packet + NetPacket.header), load64(packet + NetPacket.header_size), address):
            return n
    return count


@native
def _swap(first: int, second: int, size: int) -> int:
    for n in range(size):
        byte = load8(first + n)
        store8(first + n, load8(second + n))
        store8(second + n, byte)
    return 0


@native
def reply(frame: int, size: int) -> int:
    """Make an answer of a ping, in its place; whether it is one."""
    ip = ETH_HLEN
    icmp = ip + 20
    end = packet_end(frame, size)
    if end < icmp + ICMP_HEADER:
        return 0
    _swap(frame, frame + 6, 6)
    source = load32(frame + ip + 12)
    store32(frame + ip + 12, load32(frame + ip + 16))
    store32(frame + ip + 16, source)
    store8(frame + icmp, ECHO_REPLY)
    store16(frame + icmp + 2, 0)
    store16(frame + icmp + 2, ~fold(sum16(frame + icmp, end - icmp, 0)) & 0xFFFF)
    return 1
