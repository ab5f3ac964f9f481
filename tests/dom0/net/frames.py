"""Frames for tests of the network, and the sums of their checksums, done the slow way."""

from __future__ import annotations

import ctypes
import struct

from euxen.cpu.native.memory import Memory

MAC_A, MAC_B = bytes.fromhex("00163e00000a"), bytes.fromhex("00163e00000b")
TCP, UDP, ICMP = 6, 17, 1
FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80
SOURCE_4, DEST_4 = bytes([10, 9, 9, 1]), bytes([10, 9, 9, 2])
SOURCE_6, DEST_6 = bytes.fromhex("fd000000000000000000000000000001"), bytes.fromhex("fd00" + "12" * 14)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(payload: bytes, sequence: int = 1000, flags: int = ACK, options: bytes = b"") -> bytes:
    """A segment whose checksum is 0."""
    return (
        struct.pack(">HHIIBBHHH", 1234, 80, sequence, 77, (20 + len(options)) << 2, flags, 512, 0, 0)
        + options
        + payload
    )


def udp(payload: bytes) -> bytes:
    """A datagram whose checksum is 0."""
    return struct.pack(">HHHH", 1234, 53, 8 + len(payload), 0) + payload


def ipv4(protocol: int, transport: bytes, identification: int = 7, options: bytes = b"", fragment: int = 0) -> bytes:
    """A packet with the checksum of its header."""
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH", 0x40 | size // 4, 0, size + len(transport), identification, fragment, 64, protocol, 0
    )
    head += SOURCE_4 + DEST_4 + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + transport


def ipv6(protocol: int, transport: bytes, extensions: bytes = b"", first: int | None = None) -> bytes:
    """A packet, perhaps with extension headers, the first of which has a number."""
    head = struct.pack(">IHBB", 6 << 28, len(extensions) + len(transport), protocol if first is None else first, 64)
    return head + SOURCE_6 + DEST_6 + extensions + transport


def ethernet(packet: bytes, destination: bytes = MAC_B, source: bytes = MAC_A, vlan: int | None = None) -> bytes:
    """A frame."""
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    return destination + source + tag + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def pseudo_header(packet: bytes, protocol: int, length: int) -> bytes:
    """Of an IP packet."""
    if packet[0] >> 4 == 4:
        return packet[12:20] + struct.pack(">BBH", 0, protocol, length)
    return packet[8:40] + struct.pack(">IHBB", length, 0, 0, protocol)


class HostBytes:
    """Bytes where native code finds them."""

    def __init__(self, data: bytes, room: int = 0) -> None:
        self._memory = Memory(max(len(data), room) + 16)
        self._memory.view[: len(data)] = data
        self.address, self.size = self._memory.address, len(data)

    def __bytes__(self) -> bytes:
        return ctypes.string_at(self.address, self.size)
