"""Segments: each is a whole frame, and a receiver puts together what was divided."""

from __future__ import annotations

import struct

import pytest
from frames import ACK, CWR, FIN, PSH, TCP, UDP, HostBytes, checksum, ethernet, ipv4, ipv6, pseudo_header, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.cpu.native.memory import Memory
from euxen.dom0.net.packet import STRIDE, NetPacket, NetPiece, word_at
from euxen.dom0.net.segmentation import MAX_SEGMENTS, segment

pytestmark = pytest.mark.usefixtures("native")

ROOM = 192 << 10
MACHINE = 0x1234_0000
DATA_VALIDATED = 2


def divide(frame: bytes, gso_size: int, room: int = ROOM) -> list[bytes]:
    """The frames that come of one; their descriptions agree with their places."""
    source, area = HostBytes(frame), HostBytes(bytes(ROOM))
    packets = Memory(MAX_SEGMENTS * NetPacket.size)
    count = segment(source.address, source.size, gso_size, packets.address, area.address, MACHINE, room)
    assert bytes(source) == frame
    data, frames = bytes(area), []
    for packet in range(packets.address, packets.address + count * STRIDE, STRIDE):
        at = word_at(packet, NetPacket.header) - area.address
        size = word_at(packet, NetPacket.size_)
        assert word_at(word_at(packet, NetPacket.pieces), NetPiece.frame) == MACHINE + at
        assert word_at(packet, NetPacket.flags) == DATA_VALIDATED
        assert not word_at(packet, NetPacket.gso_type)
        assert at + size <= room
        frames.append(data[at : at + size])
    return frames


@given(
    st.integers(1, 64000),
    st.integers(500, 9000),
    st.booleans(),
    st.integers(0, 0xFFFF_FFFF),
    st.sampled_from([ACK, ACK | FIN, ACK | PSH, ACK | FIN | PSH | CWR]),
    st.integers(0, 10),
    st.none() | st.integers(0, 4095),
    st.integers(0, 0xFFFF),
)
@settings(max_examples=100, deadline=None)
def test_segments(
    size: int, gso_size: int, is_ipv4: bool, sequence: int, flags: int, options: int, vlan: int | None, number: int
) -> None:
    payload = (b"%08x" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size]
    segment_ = tcp(payload, sequence, flags, b"\1" * 4 * options)
    packet = ipv4(TCP, segment_, number) if is_ipv4 else ipv6(TCP, segment_)
    frame = ethernet(packet, vlan=vlan)
    before, ip_header, tcp_header = len(frame) - len(packet), 20 if is_ipv4 else 40, 20 + 4 * options
    got = b""
    frames = divide(frame, gso_size)
    for index, part in enumerate(frames):
        last = index == len(frames) - 1
        assert part[:before] == frame[:before]
        ip = part[before:]
        transport = ip[ip_header:]
        if is_ipv4:
            assert checksum(ip[:20]) == 0
            assert struct.unpack_from(">HH", ip, 2) == (len(ip), (number + index) & 0xFFFF)
        else:
            assert struct.unpack_from(">H", ip, 4) == (len(transport),)
        assert checksum(pseudo_header(ip, TCP, len(transport)) + transport) == 0
        assert struct.unpack_from(">I", transport, 4) == ((sequence + len(got)) & 0xFFFF_FFFF,)
        expected = flags & ~(0 if last else FIN | PSH) & ~(CWR if index else 0)
        assert transport[13] == expected
        assert transport[:4] + transport[8:13] + transport[14:16] == segment_[:4] + segment_[8:13] + segment_[14:16]
        assert transport[20:tcp_header] == b"\1" * 4 * options
        assert len(transport) - tcp_header == (gso_size if not last else size - len(got))
        got += transport[tcp_header:]
    assert got == payload


@pytest.mark.parametrize(
    ("frame", "gso_size"),
    [
        (ethernet(ipv4(UDP, udp(bytes(4000)))), 1000),
        (ethernet(ipv4(TCP, tcp(b""))), 1000),
        (ethernet(ipv4(TCP, tcp(bytes(60000)))), 1),
        (ethernet(ipv4(TCP, tcp(bytes(4000)))), 0),
        (ethernet(ipv4(TCP, tcp(bytes(4000))[:12] + b"\xf0" + tcp(bytes(30))[13:40])), 1000),
        (ethernet(ipv4(TCP, tcp(bytes(4000))[:12] + b"\x00" + tcp(bytes(4000))[13:])), 1000),
        (ethernet(ipv4(TCP, tcp(bytes(4000)), fragment=0x2000)), 1000),
        (bytes(60), 1000),
    ],
    ids=["UDP", "no payload", "too many", "no size", "header behind the end", "no header", "fragment", "nothing"],
)
def test_what_cannot_be_divided(frame: bytes, gso_size: int) -> None:
    assert divide(frame, gso_size) == []


def test_room_is_kept_to() -> None:
    frame = ethernet(ipv4(TCP, tcp(bytes(8000))))
    assert divide(frame, 1000, room=7000) == []
    assert len(divide(frame, 1000, room=9000)) == 8
