"""Packets on their way through Domain 0, as native code and Python share them.

A packet's bytes stay where they are until somebody needs them elsewhere: in pages that a front end lends, or in memory
of Domain 0's own. A record says where. Batches are arrays of such records, and are handed on by their address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from euxen.abi.structure import Structure, array, u64
from euxen.cpu.native.language import load16, load32, load64, native, store64

ETH_ALEN, ETH_HLEN = 6, 14
ADDRESSES = 2 * ETH_ALEN
"""Bytes at the beginning of a frame: the destination and the source."""
MAX_FRAME = 0xFFFF
"""Bytes that a frame can have: what netif's ``size`` can say."""
OWN = 1 << 16
"""``NetPacket.granter`` of packets in Domain 0's own memory: no domid."""


class NetPiece(Structure):
    """A part of a packet."""

    frame: int = u64()  # a grant reference; of OWN packets a machine address, for as many bytes as there are
    offset: int = u64()  # in the granted page
    size_: int = u64()
    id: int = u64()  # of the request that it came with


class NetPacket(Structure):
    """A packet, or (``mcast``) a request of the front end's that is none."""

    pieces: int = u64()  # NetPiece[count]
    count: int = u64()
    size_: int = u64()
    granter: int = u64()  # domid whose grants the pieces are, or OWN
    header: int = u64()  # host address of its first bytes, in Domain 0's own memory
    header_size: int = u64()
    flags: int = u64()  # NETTXF_csum_blank, NETTXF_data_validated
    gso_type: int = u64()  # XEN_NETIF_GSO_TYPE_*
    gso_size: int = u64()  # bytes of payload in each segment
    hash: int = u64()  # 0, or value, type << 32 and algorithm << 40 of an extra info
    mcast: int = u64()  # 0, or XEN_NETIF_EXTRA_TYPE_MCAST_* and the address << 8, its first byte lowest
    extras: int = u64()  # ring entries that were extra info
    status: int = u64()  # NETIF_RSP_* for the front end that it came from
    first: int = array(u64(), NetPiece.size // 8)  # the only piece of a packet that has one


STRIDE = NetPacket.size


@native
def own_packet(packet: int, machine_address: int, host_address: int, size: int, flags: int) -> int:
    """Describe a packet that is in Domain 0's own memory."""
    piece = packet + NetPacket.first
    store64(piece + NetPiece.frame, machine_address)
    store64(piece + NetPiece.offset, 0)
    store64(piece + NetPiece.size_, size)
    store64(packet + NetPacket.pieces, piece)
    store64(packet + NetPacket.count, 1)
    store64(packet + NetPacket.size_, size)
    store64(packet + NetPacket.granter, OWN)
    store64(packet + NetPacket.header, host_address)
    store64(packet + NetPacket.header_size, size)
    store64(packet + NetPacket.flags, flags)
    store64(packet + NetPacket.gso_type, 0)
    store64(packet + NetPacket.gso_size, 0)
    store64(packet + NetPacket.hash, 0)
    store64(packet + NetPacket.mcast, 0)
    store64(packet + NetPacket.extras, 0)
    store64(packet + NetPacket.status, 0)
    return packet


@native
def run_length(packets: int, count: int) -> int:
    """How many packets from the first on have its addresses; 0 if it is no packet."""
    if load64(packets + NetPacket.mcast):
        return 0
    header = load64(packets + NetPacket.header)
    word = load64(header)
    half = load32(header + 8)
    n = 1
    while n < count:
        packet = packets + n * NetPacket.size
        header = load64(packet + NetPacket.header)
        if load64(packet + NetPacket.mcast) or load64(header) != word or load32(header + 8) != half:
            return n
        n += 1
    return n


@native
def ether_type(header: int, size: int) -> int:
    """The EtherType of a frame, behind a VLAN tag if there is one; 0 for what cannot be seen."""
    if size < ETH_HLEN:
        return 0
    kind = load16(header + 12)
    if kind == VLAN and size >= ETH_HLEN + 4:
        return load16(header + 16)
    return kind


VLAN, IPV4, IPV6 = 0x0081, 0x0008, 0xDD86
"""EtherTypes, as native code loads them: the first byte lowest."""


def runs(packets: int, count: int) -> Iterator[tuple[int, int, bytes]]:
    """Neighbours in a batch that have the same addresses: the first, how many, and the addresses.

    What is no packet is left out.
    """
    end = packets + count * STRIDE
    while packets < end:
        length = run_length(packets, (end - packets) // STRIDE)
        if not length:
            packets += STRIDE
            continue
        yield packets, length, ctypes.string_at(word_at(packets, NetPacket.header), ADDRESSES)
        packets += length * STRIDE


def word_at(record: int, offset: int) -> int:
    """A field of a record, for Python."""
    return ctypes.c_uint64.from_address(record + offset).value


def set_word(record: int, offset: int, value: int) -> None:
    """Write a field of a record."""
    ctypes.c_uint64.from_address(record + offset).value = value
