"""Hashes of flows: which queue a packet goes to, and what a front end is told of it. Native.

The Toeplitz hash is that of receive-side scaling, as xen/include/public/io/netif.h specifies it.
"""

from __future__ import annotations

from euxen.abi.io.netif import (
    XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
    XEN_NETIF_CTRL_HASH_TYPE_IPV4,
    XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
)
from euxen.cpu.native.language import load8, load32, load64, native, shr, store64
from euxen.dom0.net.checksum import IPV6_HEADER, TCP, get32, network_offset, swap16
from euxen.dom0.net.packet import NetPacket

KEY_SIZE = 40
"""Bytes of a key: enough for two addresses and two ports of IPv6."""
PORTS = 4
IPV4_TCP, IPV6_TCP = 1, 3
"""Numbers of bits of XEN_NETIF_CTRL_HASH_TYPE_*, as extra infos have them; those without ports are one less."""
MIX = 0x2545_F491_4F6C_DD1D


@native
def toeplitz(address: int, size: int, key: int, at: int, total: int) -> int:
    """Add ``size`` bytes to a hash; they stand ``at`` bytes from the beginning of what is hashed."""
    for n in range(size):
        byte = load8(address + n)
        # The 32 bits of the key from each bit on, and the eight that follow.
        window = get32(key + at + n) << 8 | load8(key + at + n + 4)
        for bit in range(8):
            if byte & (0x80 >> bit):
                total ^= shr(window, 8 - bit) & 0xFFFF_FFFF
    return total


@native
def _transport(header: int, size: int, ip: int) -> int:
    """Where TCP's ports are, or 0: without extension headers, as these are not hashed."""
    if load8(header + ip) >> 4 == 4:
        at = ip + (load8(header + ip) & 15) * 4
        tcp = load8(header + ip + 9) == TCP
        fragment = (load8(header + ip + 6) & 0x3F) | load8(header + ip + 7)
        return at if tcp and not fragment and at + PORTS <= size else 0
    return ip + IPV6_HEADER if load8(header + ip + 6) == TCP and ip + IPV6_HEADER + PORTS <= size else 0


@native
def hash_of(header: int, size: int, types: int, key: int) -> int:
    """The hash of a packet as ``NetPacket.hash`` has it, by the types that a front end asked for; 0 for none."""
    ip = network_offset(header, size)
    if not ip:
        return 0
    is_ipv4 = load8(header + ip) >> 4 == 4
    if not is_ipv4 and (load8(header + ip) >> 4 != 6 or ip + IPV6_HEADER > size):
        return 0
    addresses = ip + 12 if is_ipv4 else ip + 8
    length = 8 if is_ipv4 else 32
    with_ports = XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP if is_ipv4 else XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP
    without = XEN_NETIF_CTRL_HASH_TYPE_IPV4 if is_ipv4 else XEN_NETIF_CTRL_HASH_TYPE_IPV6
    kind = IPV4_TCP if is_ipv4 else IPV6_TCP
    at = _transport(header, size, ip)
    if not (at and types & with_ports):
        if not types & without:
            return 0
        at = 0
        kind -= 1
    total = toeplitz(header + addresses, length, key, 0, 0)
    if at:
        total = toeplitz(header + at, PORTS, key, length, total)
    return total | kind << 32 | XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ << 40


@native
def hash_packets(packets: int, count: int, types: int, key: int) -> int:
    """Give each packet of a batch its hash."""
    for n in range(count):
        packet = packets + n * NetPacket.size
        header = load64(packet + NetPacket.header)
        store64(packet + NetPacket.hash, hash_of(header, load64(packet + NetPacket.header_size), types, key))
    return 0


@native
def flow_of(header: int, size: int) -> int:
    """A number that is the same for packets of the same flow, where nobody asked for a certain one."""
    ip = network_offset(header, size)
    if not ip:
        return 0
    if load8(header + ip) >> 4 == 4:
        total = load64(header + ip + 12) ^ load8(header + ip + 9)
    elif ip + IPV6_HEADER <= size:
        total = load64(header + ip + 16) ^ load64(header + ip + 32) ^ load8(header + ip + 6)
    else:
        return 0
    at = _transport(header, size, ip)
    if at:
        total ^= load32(header + at) * MIX
    return shr(total * MIX, 40) + swap16(total & 0xFFFF)
