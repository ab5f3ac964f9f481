"""Packets in the byte streams of passt, and of QEMU: a length of four bytes, and the frame. Native.

The frames of such a stream are whole: no checksum is left blank. One may be longer than what would go over a wire.
"""

from __future__ import annotations

from euxen.abi.grant_table import GNTST_okay
from euxen.abi.io.netif import NETTXF_csum_blank, NETTXF_data_validated
from euxen.abi.structure import Structure, u64
from euxen.cpu.native.language import load64, native, store64
from euxen.dom0.net.checksum import fill_checksum, get32, put32
from euxen.dom0.net.copying import gather, host_address
from euxen.dom0.net.packet import ETH_HLEN, MAX_FRAME, NetPacket, own_packet

PREFIX = 4


class StreamRecord(Structure):
    """A stream's bytes in memory of Domain 0's own, and packets made of them or put into them."""

    copier: int = u64()  # CopierRecord
    area: int = u64()  # machine address
    size_: int = u64()  # bytes: in a stream that is read, those that have come; in one that is written, the room
    at: int = u64()  # up to where it has been parsed or written
    packets: int = u64()  # NetPacket[most]
    most: int = u64()


@native
def parse(stream: int) -> int:
    """Describe the whole frames that are next: how many, or -1 for what is no such stream."""
    copier = load64(stream + StreamRecord.copier)
    area = load64(stream + StreamRecord.area)
    host = host_address(copier, area)
    at = load64(stream + StreamRecord.at)
    end = load64(stream + StreamRecord.size_)
    count = 0
    while count < load64(stream + StreamRecord.most) and at + PREFIX <= end:
        size = get32(host + at)
        if size < ETH_HLEN or size > MAX_FRAME:
            return -1
        if at + PREFIX + size > end:
            break
        at += PREFIX
        packet = load64(stream + StreamRecord.packets) + count * NetPacket.size
        own_packet(packet, area + at, host + at, size, NETTXF_data_validated)
        at += size
        count += 1
    store64(stream + StreamRecord.at, at)
    return count


@native
def write(stream: int, packets: int, count: int) -> int:
    """Put packets into a stream as far as there is room: how many. Those whose sender took them away are left out."""
    copier = load64(stream + StreamRecord.copier)
    area = load64(stream + StreamRecord.area)
    at = load64(stream + StreamRecord.at)
    n = 0
    while n < count:
        packet = packets + n * NetPacket.size
        size = load64(packet + NetPacket.size_)
        if at + PREFIX + size > load64(stream + StreamRecord.size_):
            break
        n += 1
        if gather(copier, packet, area + at + PREFIX, size) != GNTST_okay:
            continue
        host = host_address(copier, area) + at
        put32(host, size)
        if load64(packet + NetPacket.flags) & NETTXF_csum_blank:
            fill_checksum(host + PREFIX, size)
        at += PREFIX + size
    store64(stream + StreamRecord.at, at)
    return n
