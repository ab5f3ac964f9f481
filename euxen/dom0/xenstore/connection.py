"""One client of xenstored: what it has set up, and what waits for it to be read.

The bytes to a client queue here until its transport, a ring or a socket, takes them. A client
that does not read cannot make the queue grow without bound: above a limit no request of its is
taken, and above another its watch events lose detail, but it is still told that each watch fired.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from euxen.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX, XS_WATCH_EVENT
from euxen.dom0.xenstore.paths import Path
from euxen.dom0.xenstore.permissions import Identity
from euxen.dom0.xenstore.transaction import Transaction
from euxen.dom0.xenstore.watch import Event, Watch
from euxen.dom0.xenstore.wire import Packet, PacketReader

_TX_ID_MAX = 0x3FFFFFFE  # what every client can hold, whatever integer it keeps a tx_id in


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    watch: Watch | None = None
    """The watch whose event this is; None for a reply."""
    stands_for_more: bool = False
    """Whether later events of the watch were left out because of this one."""


class Connection:
    """A client's side of the state. Made by XenStore; a transport gives it bytes and takes bytes."""

    def __init__(self, name: str, identity: Identity) -> None:
        self.name = name
        """``D3`` for the ring of domain 3, ``A7`` for the seventh other client, as xenstored logs them."""
        self.identity = identity
        self.broken: int | None = None
        """XENSTORE_ERROR_* once the client broke the protocol; then nothing is taken from it any more."""
        self.failures = 0
        """How often it broke the protocol, since it may reconnect and do it again."""
        self.watches: dict[tuple[Path, bytes], Watch] = {}
        self.transactions: dict[int, Transaction] = {}
        self.reader = PacketReader()
        self._next_tx_id = 1
        self._outgoing: deque[_Outgoing] = deque()
        self._sent = 0  # bytes of the first packet that went out already
        self._events = 0
        self._standing_for_more: set[Watch] = set()

    @property
    def outstanding(self) -> int:
        """How many packets wait for the client to read them."""
        return len(self._outgoing)

    def send(self, packet: Packet) -> None:
        """Queue a reply."""
        self._outgoing.append(_Outgoing(packet.encode()))

    def send_event(self, event: Event, limit: int) -> None:
        """Queue a watch event.

        Where ``limit`` events wait already, one that only names the watch's own path stands for
        this one and all later ones of the watch, until the client has read it.
        """
        watch = event.watch
        if watch in self._standing_for_more:
            return
        crowded = self._events >= limit
        payload = watch.payload(watch.path if crowded else event.path)
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            payload = watch.payload(watch.path)  # fits, as the WATCH request itself did
        if crowded:
            self._standing_for_more.add(watch)
        self._events += 1
        self._outgoing.append(_Outgoing(Packet(XS_WATCH_EVENT, payload).encode(), watch, crowded))

    def data_to_send(self, limit: int) -> bytes:
        """Take out up to ``limit`` bytes, which the transport must deliver."""
        taken = bytearray()
        while self._outgoing and len(taken) < limit:
            first = self._outgoing[0]
            piece = first.data[self._sent : self._sent + limit - len(taken)]
            taken += piece
            self._sent += len(piece)
            if self._sent == len(first.data):
                self._outgoing.popleft()
                self._sent = 0
                self._forget(first)
        return bytes(taken)

    def open_transaction(self, transaction: Transaction) -> int:
        """Give a transaction an identifier that no other open one of this client has."""
        tx_id = self._next_tx_id
        while tx_id in self.transactions or tx_id > _TX_ID_MAX:
            tx_id = 1 if tx_id >= _TX_ID_MAX else tx_id + 1
        self._next_tx_id = tx_id + 1
        self.transactions[tx_id] = transaction
        return tx_id

    def forget_traffic(self) -> None:
        """Drop what was read in part and what waits to be sent, as if the client had just connected."""
        self.reader = PacketReader()
        self._outgoing.clear()
        self._sent = 0
        self._events = 0
        self._standing_for_more.clear()

    def _forget(self, sent: _Outgoing) -> None:
        if sent.watch is not None:
            self._events -= 1
        if sent.watch is not None and sent.stands_for_more:
            self._standing_for_more.discard(sent.watch)
