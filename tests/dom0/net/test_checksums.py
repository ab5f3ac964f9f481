"""Checksums: what is filled in is what a sender would have computed, and nothing but the checksum changes."""

from __future__ import annotations

import struct

import pytest
from frames import ICMP, TCP, UDP, HostBytes, checksum, ethernet, ipv4, ipv6, pseudo_header, tcp, udp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from euxen.dom0.net.checksum import fill_checksum, fill_pseudo, transport_offset

pytestmark = pytest.mark.usefixtures("native")

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60


@st.composite
def transports(draw: st.DrawFn) -> tuple[int, bytes, int]:
    """A protocol, a packet of it, and where its checksum is."""
    payload = draw(st.binary(max_size=300))
    if draw(st.booleans()):
        return UDP, udp(payload), 6
    return TCP, tcp(payload, options=b"\1" * 4 * draw(st.integers(0, 10))), 16


def extension(following: int, words: int) -> bytes:
    """An extension header of IPv6 with options of no meaning."""
    return bytes([following, words]) + b"\1\4\0\0\0\0" + bytes(8 * words)


@st.composite
def packets(draw: st.DrawFn) -> tuple[bytes, bytes, int, int]:
    """A frame, the IP packet in it, where in the frame the transport begins and where in that the checksum is."""
    protocol, transport, field = draw(transports())
    if draw(st.booleans()):
        options = b"\1" * 4 * draw(st.integers(0, 10))
        packet, before = ipv4(protocol, transport, options=options), 20 + len(options)
    else:
        kinds = draw(st.lists(st.sampled_from([HOP_BY_HOP, ROUTING, DESTINATION]), max_size=3))
        following = [*kinds[1:], protocol]
        extensions = b"".join(extension(number, draw(st.integers(0, 2))) for number in following[: len(kinds)])
        packet = ipv6(protocol, transport, extensions, kinds[0] if kinds else None)
        before = 40 + len(extensions)
    vlan = draw(st.none() | st.integers(0, 4095))
    frame = ethernet(packet, vlan=vlan)
    return frame, packet, len(frame) - len(packet) + before, field


def with_field(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack(">H", value) + data[at + 2 :]


@given(packets(), st.binary(max_size=40), st.integers(0, 0xFFFF))
@settings(max_examples=300, deadline=None)
def test_filling_in(packet: tuple[bytes, bytes, int, int], padding: bytes, old: int) -> None:
    frame, ip, at, field = packet
    protocol = TCP if field == 16 else UDP
    transport = frame[at:]
    value = checksum(pseudo_header(ip, protocol, len(transport)) + with_field(transport, field, 0))
    if protocol == UDP and not value:
        value = 0xFFFF
    # Short frames are padded: what is behind the packet does not count.
    memory = HostBytes(with_field(frame, at + field, old) + padding)
    assert fill_checksum(memory.address, memory.size) == 1
    assert bytes(memory) == with_field(frame, at + field, value) + padding


@given(packets())
@settings(max_examples=100, deadline=None)
def test_leaving_it_blank(packet: tuple[bytes, bytes, int, int]) -> None:
    frame, ip, at, field = packet
    protocol = TCP if field == 16 else UDP
    memory = HostBytes(frame)
    assert fill_pseudo(memory.address, memory.size) == 1
    blank = ~checksum(pseudo_header(ip, protocol, len(frame) - at)) & 0xFFFF
    assert bytes(memory) == with_field(frame, at + field, blank)


@pytest.mark.parametrize(
    "frame",
    [
        ethernet(ipv4(TCP, tcp(b"x"), fragment=0x2000)),
        ethernet(ipv4(TCP, tcp(b"x"), fragment=5)),
        ethernet(ipv4(ICMP, bytes(40))),
        ethernet(ipv6(TCP, tcp(b"x"), extension(TCP, 0), FRAGMENT)),
        ethernet(ipv6(UDP, b"", extension(HOP_BY_HOP, 0) * 20, HOP_BY_HOP)),
        bytes(12) + b"\x08\x06" + bytes(46),
        ethernet(ipv4(TCP, tcp(b""))[:30]),
        bytes(14),
        b"",
    ],
    ids=["first fragment", "fragment", "ICMP", "IPv6 fragment", "many extensions", "ARP", "cut", "short", "empty"],
)
def test_what_has_none_stays_as_it_is(frame: bytes) -> None:
    memory = HostBytes(frame)
    assert fill_checksum(memory.address, memory.size) == fill_pseudo(memory.address, memory.size) == 0
    assert bytes(memory) == frame


@given(st.binary(max_size=120))
@example(ethernet(ipv4(TCP, tcp(b"")))[:33] + b"\0" * 30)
@settings(max_examples=500, deadline=None)
def test_nonsense_is_not_looked_at_beyond_its_end(data: bytes) -> None:
    for start in (b"", ethernet(ipv4(TCP, tcp(b"")))[:14], ethernet(ipv6(UDP, udp(b"")))[:20]):
        memory = HostBytes(start + data)
        where = transport_offset(memory.address, memory.size)
        assert where >> 8 < max(memory.size, 1)
        guard = HostBytes(start + data, room=memory.size + 64)
        fill_checksum(guard.address, guard.size)
        guard.size += 64
        assert bytes(guard)[-64:] == bytes(64)
