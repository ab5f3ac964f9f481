"""Captures of traffic in the format of libpcap, for tcpdump and Wireshark. draft-ietf-opsawg-pcap.

Times are in nanoseconds. What a sender has left to be done later is shown as it is: checksums that are not filled in,
and packets that are longer than what would go over a wire.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

MAGIC_NANOSECONDS = 0xA1B23C4D
VERSION = 2, 4
LINKTYPE_ETHERNET = 1
SNAPLEN = 1 << 18
"""As tcpdump writes it: more than any packet has."""
SECOND = 1_000_000_000

_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


def pcap_header() -> bytes:
    """What a file begins with."""
    return _HEADER.pack(MAGIC_NANOSECONDS, *VERSION, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)


def pcap_record(time: int, frame: bytes | memoryview) -> bytes:
    """A frame, and when it was seen, in ns since 1970."""
    size = len(frame)
    seconds, rest = divmod(time, SECOND)
    return _RECORD.pack(seconds & 0xFFFF_FFFF, rest, min(size, SNAPLEN), size) + bytes(frame[:SNAPLEN])


class PcapWriter:
    """Writes a capture to a file, which belongs to it from now on."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises OSError."""
        self._file = file
        file.write(pcap_header())
        file.flush()

    def write(self, time: int, frames: Iterable[bytes | memoryview]) -> None:
        """Add frames that were seen at one time. Whoever reads the file sees them at once. Raises OSError."""
        self._file.write(b"".join([pcap_record(time, frame) for frame in frames]))
        self._file.flush()

    def close(self) -> None:
        """The end."""
        self._file.close()
