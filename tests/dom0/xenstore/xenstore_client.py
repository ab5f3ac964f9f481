"""Clients for tests: they speak to euxen's xenstored in bytes, as its real clients do."""

from __future__ import annotations

from collections import defaultdict

from euxen.abi.io.xs_wire import XS_WATCH_EVENT
from euxen.dom0.xenstore import Connection, Packet, PacketReader, Quota, XenStore, receive


def packets(data: bytes) -> list[Packet]:
    """Cut bytes into packets; all of them must be whole."""
    reader = PacketReader()
    reader.feed(data)
    found = []
    while (packet := reader.next_packet()) is not None:
        found.append(packet)
    assert sum(len(packet.encode()) for packet in found) == len(data), "bytes are left over"
    return found


class Machine:
    """A host whose domains 1 to 3 exist, and a xenstored for it."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.rings: dict[int, tuple[int, int]] = {}
        self.lines: list[str] = []
        self.store = XenStore(host=self, quota=quota, log=self.lines.append)

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        domid = connection.identity.domid
        if domid not in (1, 2, 3):
            raise OSError(f"there is no domain {domid}")
        self.rings[domid] = gfn, port

    def release(self, domid: int) -> None:
        del self.rings[domid]

    def connection(self, domid: int) -> Connection:
        return self.store.domains[domid].connection

    def ask(self, domid: int, request: Packet) -> tuple[Packet, dict[int, list[bytes]]]:
        receive(self.store, self.connection(domid), request.encode())
        answers, events = self._collect()
        ((who, answer),) = answers
        assert who == domid
        return answer, events

    def happen(self, words: str) -> dict[int, list[bytes]]:
        what, _, domid = words.rpartition(" ")
        {"shut down": self.store.domain_shut_down, "gone": self.store.domain_gone}[what](int(domid))
        answers, events = self._collect()
        assert not answers
        return events

    def _collect(self) -> tuple[list[tuple[int, Packet]], dict[int, list[bytes]]]:
        answers = []
        events = defaultdict(list)
        for connection in self.store.take_ready():
            domid = connection.identity.domid
            for packet in packets(connection.data_to_send(1 << 30)):
                if packet.type == XS_WATCH_EVENT:
                    assert (packet.req_id, packet.tx_id) == (0, 0)
                    events[domid].append(packet.payload)
                else:
                    answers.append((domid, packet))
        return answers, dict(events)
