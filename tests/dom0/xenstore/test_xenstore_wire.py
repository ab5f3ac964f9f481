"""Packets and the stream of them, cut anywhere."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX, XS_ERROR, XS_READ, XsdSockmsg
from euxen.dom0.xenstore import Packet, PacketReader, ProtocolError

words = st.integers(0, 0xFFFFFFFF)
any_packets = st.builds(Packet, words, st.binary(max_size=200), words, words)


def read_all(reader: PacketReader) -> list[Packet]:
    found = []
    while (packet := reader.next_packet()) is not None:
        found.append(packet)
    return found


def test_the_header_is_struct_xsd_sockmsg() -> None:
    encoded = Packet(XS_READ, b"/local\0", req_id=7, tx_id=9).encode()
    assert XsdSockmsg.unpack_from(encoded) == XsdSockmsg(type=XS_READ, req_id=7, tx_id=9, len=7)
    assert encoded[XsdSockmsg.size :] == b"/local\0"


@given(st.lists(any_packets, max_size=8), st.data())
def test_a_stream_cut_anywhere_gives_the_same_packets(sent: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(packet.encode() for packet in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = PacketReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])
        found += read_all(reader)
    assert found == sent


def test_the_longest_payload_passes() -> None:
    packet = Packet(XS_READ, bytes(XENSTORE_PAYLOAD_MAX))
    reader = PacketReader()
    reader.feed(packet.encode())
    assert read_all(reader) == [packet]


@pytest.mark.parametrize("length", [XENSTORE_PAYLOAD_MAX + 1, 1 << 31, 0xFFFFFFFF])
def test_a_longer_payload_is_refused_by_its_header_alone(length: int) -> None:
    reader = PacketReader()
    reader.feed(Packet(XS_READ, b"first\0").encode() + struct.pack("<IIII", XS_READ, 1, 0, length))
    assert reader.next_packet() == Packet(XS_READ, b"first\0")
    with pytest.raises(ProtocolError, match=f"payload of {length} bytes; at most 4096 are allowed"):
        reader.next_packet()


@given(st.binary(max_size=300))
def test_any_bytes_are_packets_or_refused(data: bytes) -> None:
    reader = PacketReader()
    reader.feed(data)
    try:
        found = read_all(reader)
    except ProtocolError:
        return
    assert b"".join(packet.encode() for packet in found) == data[: sum(len(packet.encode()) for packet in found)]


@given(any_packets)
def test_a_reply_carries_what_its_request_is_known_by(request: Packet) -> None:
    assert request.reply(b"OK\0") == Packet(request.type, b"OK\0", request.req_id, request.tx_id)
    assert request.error("ENOENT") == Packet(XS_ERROR, b"ENOENT\0", request.req_id, request.tx_id)
    assert request.reply(bytes(XENSTORE_PAYLOAD_MAX + 1)) == request.error("E2BIG")
