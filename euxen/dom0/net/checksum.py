"""Checksums of TCP and UDP: where they are in a frame, and filling in what a sender has left blank.

RFC 1071, 793, 768, 8200. All functions are native, and work on a whole frame in Domain 0's own memory.
"""

from __future__ import annotations

from euxen.cpu.native.language import load8, load16, load32, load64, native, shr, store8, store16, ult
from euxen.dom0.net.packet import ETH_HLEN, IPV4, IPV6, VLAN

TCP, UDP = 6, 17
TCP_MIN, UDP_MIN = 20, 8
IPV6_HEADER, IPV4_MIN = 40, 20
MOST_EXTENSIONS = 8
"""Headers between IPv6 and what it carries, before one gives up."""


@native
def swap16(value: int) -> int:
    """Two bytes the other way round."""
    return ((value & 0xFF) << 8) | ((value >> 8) & 0xFF)


@native
def sum16(address: int, size: int, total: int) -> int:
    """Add 16-bit words to a one's complement sum, which stays unfolded."""
    end = address + (size & ~7)
    while address < end:
        word = load64(address)
        total += word
        if ult(total, word):
            total += 1
        address += 8
    tail = 0
    left = size & 7
    for n in range(left):
        tail |= load8(address + n) << (8 * n)
    total += tail
    if ult(total, tail):
        total += 1
    return total


@native
def fold(total: int) -> int:
    """A sum as 16 bits."""
    total = (total & 0xFFFF_FFFF) + shr(total, 32)
    total = (total & 0xFFFF) + shr(total, 16)
    total = (total & 0xFFFF) + shr(total, 16)
    return (total & 0xFFFF) + shr(total, 16)


@native
def network_offset(frame: int, size: int) -> int:
    """Where the IP header begins, or 0 if there is none."""
    at = 12
    if size < ETH_HLEN:
        return 0
    if load16(frame + at) == VLAN:
        at += 4
    if at + 2 + IPV4_MIN > size:
        return 0
    kind = load16(frame + at)
    return at + 2 if kind == IPV4 or kind == IPV6 else 0


@native
def _extension(frame: int, at: int, size: int, kind: int) -> int:
    """Whether a next header of IPv6 is an extension to be passed over: hop-by-hop, routing, destination options."""
    return 1 if (kind == 0 or kind == 43 or kind == 60) and at + 8 <= size else 0


@native
def transport_offset(frame: int, size: int) -> int:
    """Where the TCP or UDP header begins, and which it is: offset << 8 | protocol; 0 if there is none, or a part."""
    ip = network_offset(frame, size)
    if not ip:
        return 0
    version = load8(frame + ip) >> 4
    if version == 4:
        length = (load8(frame + ip) & 15) * 4
        fragment = swap16(load16(frame + ip + 6)) & 0x3FFF
        if length < IPV4_MIN or fragment:
            return 0
        protocol = load8(frame + ip + 9)
        at = ip + length
    elif version == 6 and ip + IPV6_HEADER <= size:
        protocol = load8(frame + ip + 6)
        at = ip + IPV6_HEADER
        passed = 0
        while passed < MOST_EXTENSIONS and _extension(frame, at, size, protocol):
            protocol = load8(frame + at)
            at += 8 + load8(frame + at + 1) * 8
            passed += 1
    else:
        return 0
    if protocol == TCP and at + TCP_MIN <= size:
        return at << 8 | TCP
    if protocol == UDP and at + UDP_MIN <= size:
        return at << 8 | UDP
    return 0


@native
def packet_end(frame: int, size: int) -> int:
    """Where the IP packet ends by its own header, which is never behind the frame's end."""
    ip = network_offset(frame, size)
    if load8(frame + ip) >> 4 == 4:
        return min(ip + swap16(load16(frame + ip + 2)), size)
    length = swap16(load16(frame + ip + 4))
    return min(ip + IPV6_HEADER + length, size) if length else size


@native
def pseudo_sum(frame: int, ip: int, protocol: int, length: int) -> int:
    """The sum of the pseudo header."""
    if load8(frame + ip) >> 4 == 4:
        total = load32(frame + ip + 12) + load32(frame + ip + 16)
    else:
        total = sum16(frame + ip + 8, 32, 0)
    return sum16_add(total, swap16(protocol) + swap16(length & 0xFFFF))


@native
def sum16_add(total: int, value: int) -> int:
    """Add a number to a sum."""
    total += value
    if ult(total, value):
        total += 1
    return total


@native
def _field(where: int) -> int:
    """Where the checksum is, from the beginning of the frame."""
    return (where >> 8) + (16 if where & 0xFF == TCP else 6)


@native
def fill_checksum(frame: int, size: int) -> int:
    """Compute the checksum of TCP or UDP; whether there is one."""
    where = transport_offset(frame, size)
    if not where:
        return 0
    at = where >> 8
    end = packet_end(frame, size)
    if end < at:
        return 0
    field = frame + _field(where)
    store16(field, 0)
    total = pseudo_sum(frame, network_offset(frame, size), where & 0xFF, end - at)
    value = ~fold(sum16(frame + at, end - at, total)) & 0xFFFF
    if value == 0 and where & 0xFF == UDP:
        value = 0xFFFF
    store16(field, value)
    return 1


@native
def fill_pseudo(frame: int, size: int) -> int:
    """Leave the checksum blank as a receiver that computes it expects: the sum of the pseudo header; whether it can."""
    where = transport_offset(frame, size)
    if not where:
        return 0
    at = where >> 8
    end = packet_end(frame, size)
    if end < at:
        return 0
    store16(frame + _field(where), fold(pseudo_sum(frame, network_offset(frame, size), where & 0xFF, end - at)))
    return 1


@native
def fill_ip_checksum(frame: int, ip: int) -> int:
    """Compute the checksum of an IPv4 header."""
    store16(frame + ip + 10, 0)
    store16(frame + ip + 10, ~fold(sum16(frame + ip, (load8(frame + ip) & 15) * 4, 0)) & 0xFFFF)
    return 0


@native
def put32(address: int, value: int) -> int:
    """Store a number with its highest byte first."""
    store8(address, value >> 24)
    store8(address + 1, value >> 16)
    store8(address + 2, value >> 8)
    store8(address + 3, value)
    return 0


@native
def get32(address: int) -> int:
    """Load such a number."""
    return load8(address) << 24 | load8(address + 1) << 16 | load8(address + 2) << 8 | load8(address + 3)
