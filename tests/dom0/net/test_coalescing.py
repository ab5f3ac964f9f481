"""Joined segments: dividing them again gives the very frames that were joined."""

from __future__ import annotations

import ctypes
import struct

import pytest
from frames import ACK, FIN, MAC_A, PSH, TCP, UDP, checksum, ethernet, ipv4, ipv6, pseudo_header, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.cpu.native.memory import Memory
from euxen.dom0.net.coalescing import coalesce
from euxen.dom0.net.packet import STRIDE, NetPacket, NetPiece, own_packet, word_at
from euxen.dom0.net.segmentation import MAX_SEGMENTS, segment

pytestmark = pytest.mark.usefixtures("native")

MACHINE = 0x7000_0000
DATA_VALIDATED = 2


def whole(
    payload: bytes,
    sequence: int,
    number: int = 0,
    flags: int = ACK,
    options: bytes = b"",
    ack: int = 77,
    df: bool = True,
) -> bytes:
    """A frame with all its checksums."""
    data = tcp(payload, sequence & 0xFFFF_FFFF, flags, options)
    data = data[:8] + struct.pack(">I", ack) + data[12:]
    packet = ipv4(TCP, data, number & 0xFFFF, fragment=0x4000 if df else 0)
    value = checksum(pseudo_header(packet, TCP, len(data)) + data)
    return ethernet(packet[:36] + struct.pack(">H", value) + packet[38:])


class Batch:
    """Frames in memory that is as Domain 0's own, one behind the other."""

    def __init__(self, frames: list[bytes]) -> None:
        self._memory = Memory(max(sum(map(len, frames)), 1))
        self._packets = Memory(max(len(frames), 1) * NetPacket.size)
        self._pieces = Memory(max(len(frames), 1) * NetPiece.size)
        at = 0
        for number, frame in enumerate(frames):
            self._memory.view[at : at + len(frame)] = frame
            address = self._packets.address + number * STRIDE
            own_packet(address, MACHINE + at, self._memory.address + at, len(frame), DATA_VALIDATED)
            at += len(frame)
        self._count = coalesce(self._packets.address, len(frames), self._pieces.address)

    def frames(self) -> list[tuple[bytes, int]]:
        """What is left: the bytes, and the size of segments, which is 0 for what was not joined."""
        found = []
        for packet in range(self._packets.address, self._packets.address + self._count * STRIDE, STRIDE):
            data, piece = b"", word_at(packet, NetPacket.pieces)
            for _ in range(word_at(packet, NetPacket.count)):
                start = word_at(piece, NetPiece.frame) - MACHINE
                data += bytes(self._memory.view[start : start + word_at(piece, NetPiece.size_)])
                piece += NetPiece.size
            assert len(data) == word_at(packet, NetPacket.size_)
            size = word_at(packet, NetPacket.gso_size)
            kind, flags = word_at(packet, NetPacket.gso_type), word_at(packet, NetPacket.flags)
            assert (kind, flags) == ((1, 3) if size else (0, 2))
            found.append((data, size))
        return found

    def divided(self) -> list[bytes]:
        """The same, divided again."""
        frames = []
        for data, size in self.frames():
            frames += divide(data, size) if size else [data]
        return frames


def divide(frame: bytes, gso_size: int) -> list[bytes]:
    source, area = Memory(len(frame)), Memory(256 << 10)
    packets = Memory(MAX_SEGMENTS * NetPacket.size)
    source.view[: len(frame)] = frame
    count = segment(source.address, len(frame), gso_size, packets.address, area.address, 0, area.size)
    assert count > 1
    return [
        ctypes.string_at(word_at(packet, NetPacket.header), word_at(packet, NetPacket.size_))
        for packet in range(packets.address, packets.address + count * STRIDE, STRIDE)
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 7, 1448, 1448, 1448, 1460]),
            st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
            st.sampled_from([ACK, ACK, ACK, ACK | PSH, ACK | FIN]),
            st.sampled_from([b"", b"", b"", b"\1" * 4]),
            st.sampled_from([77, 77, 77, 78]),
        ),
        max_size=64,
    ),
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 0xFFFF),
)
@settings(max_examples=300, deadline=None)
def test_joining_and_dividing(parts: list[tuple[int, int, int, bytes, int]], sequence: int, number: int) -> None:
    frames = []
    for size, jump, flags, options, ack in parts:
        sequence += jump
        frames.append(whole(bytes([number & 0xFF]) * size, sequence, number, flags, options, ack))
        sequence += size
        number += 1
    batch = Batch(frames)
    assert batch.divided() == frames


def test_a_download() -> None:
    frames = [whole(bytes([n]) * 1460, 1000 + n * 1460, n) for n in range(60)]
    batch = Batch(frames)
    assert [(len(data), size) for data, size in batch.frames()] == [(54 + 44 * 1460, 1460), (54 + 16 * 1460, 1460)]
    assert batch.divided() == frames


def test_the_last_window_counts() -> None:
    first, second = whole(b"x" * 100, 0), whole(b"x" * 100, 100, 1)
    second = second[:48] + b"\x01\x23" + second[50:]
    ((data, _size),) = Batch([first, second]).frames()
    assert data[48:50] == b"\x01\x23"


def test_packets_that_may_be_fragmented_keep_their_numbers() -> None:
    frames = [whole(b"x" * 100, 0, 5, df=False), whole(b"x" * 100, 100, 9, df=False)]
    assert Batch(frames).divided() == frames
    assert len(Batch(frames).frames()) == 2
    assert len(Batch([whole(b"x" * 100, 0, 5), whole(b"x" * 100, 100, 9)]).frames()) == 1


@pytest.mark.parametrize(
    "other",
    [
        ethernet(ipv4(UDP, udp(b"x" * 100))),
        ethernet(ipv6(TCP, tcp(b"x" * 100))),
        whole(b"", 100),
        whole(b"x" * 101, 100, 1),
        whole(b"x" * 100, 100, 1)[:20],
        whole(b"x" * 100, 100, 1) + bytes(4),
        MAC_A + whole(b"x" * 100, 100, 1)[6:],
        b"",
    ],
    ids=["UDP", "IPv6", "nothing", "longer", "cut", "padded", "elsewhere", "empty"],
)
def test_what_is_not_joined(other: bytes) -> None:
    first = whole(b"x" * 100, 0)
    assert Batch([first, other, first]).frames() == [(first, 0), (other, 0), (first, 0)]
