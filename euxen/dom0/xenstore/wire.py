"""The byte stream of xenstore: struct xsd_sockmsg, then ``len`` bytes of payload.

Bytes become packets and packets become bytes; what a payload means is not known here.
Specified in xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from euxen.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX, XS_ERROR

_HEADER = struct.Struct("<IIII")  # struct xsd_sockmsg: type, req_id, tx_id, len


class ProtocolError(Exception):
    """The other side broke the framing, and nothing that follows can be understood."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One message, in either direction."""

    type: int
    """XS_*; a request may carry any number here."""
    payload: bytes = b""
    req_id: int = 0
    tx_id: int = 0

    def encode(self) -> bytes:
        """The message as it goes over the wire."""
        return _HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload

    def reply(self, payload: bytes) -> Packet:
        """The answer to this request; E2BIG where the payload is more than a client can take."""
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            return self.error("E2BIG")
        return Packet(self.type, payload, self.req_id, self.tx_id)

    def error(self, name: str) -> Packet:
        """The answer that this request failed, ``name`` being the name of an errno."""
        return Packet(XS_ERROR, name.encode() + b"\0", self.req_id, self.tx_id)


class PacketReader:
    """Cuts a byte stream into packets.

    It holds what it was fed and has not given out yet, so whoever feeds it stops where the packets
    are not taken.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Append bytes as they came, in pieces of any size."""
        self._buffer += data

    def __len__(self) -> int:
        """How many bytes it holds."""
        return len(self._buffer)

    @property
    def has_packet(self) -> bool:
        """Whether ``next_packet`` has something to say without more bytes."""
        if len(self._buffer) < _HEADER.size:
            return False
        length: int = _HEADER.unpack_from(self._buffer)[3]
        return length > XENSTORE_PAYLOAD_MAX or len(self._buffer) >= _HEADER.size + length

    def next_packet(self) -> Packet | None:
        """The next whole packet, or None until more bytes come.

        Raises ProtocolError for a payload longer than XENSTORE_PAYLOAD_MAX, as soon as its header
        is there: a length that is never allowed is not waited for.
        """
        if not self.has_packet:
            return None
        kind, req_id, tx_id, length = _HEADER.unpack_from(self._buffer)
        if length > XENSTORE_PAYLOAD_MAX:
            raise ProtocolError(f"payload of {length} bytes; at most {XENSTORE_PAYLOAD_MAX} are allowed")
        end = _HEADER.size + length
        payload = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        return Packet(kind, payload, req_id, tx_id)
