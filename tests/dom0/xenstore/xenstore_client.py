"""Clients for tests: they speak to euxen's xenstored in bytes, as its real clients do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from euxen.abi.io.xs_wire import XENSTORE_RING_SIZE, XS_WATCH_EVENT, XenstoreDomainInterface
from euxen.dom0.xenstore import Connection, Packet, PacketReader, Quota, XenStore, XenStoreRing, receive


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


class Guest:
    """A domain's end of a ring, which behaves as well as the test lets it."""

    def __init__(self, store: XenStore, connection: Connection) -> None:
        self.page = bytearray(4096)
        self.words = memoryview(self.page).cast("I")
        self.signals = 0
        self.meanwhile: list[Packet] = []
        """Requests that the domain makes just when it is signalled, without a signal of its own."""
        self.when_signalled: Callable[[], None] = lambda: None
        self.ring = XenStoreRing(store, connection, memoryview(self.page), self._signalled)
        self._reader = PacketReader()

    def _signalled(self) -> None:
        self.signals += 1
        for request in self.meanwhile:
            self.put(request.encode())
        self.meanwhile.clear()
        self.when_signalled()

    def field(self, name: str) -> int:
        return self.words[XenstoreDomainInterface.offsetof(name) // 4]

    def set_field(self, name: str, value: int) -> None:
        self.words[XenstoreDomainInterface.offsetof(name) // 4] = value % (1 << 32)

    def put(self, data: bytes) -> int:
        """Put as much as there is room for into the ring, without a signal; how much it was."""
        producer = self.field("req_prod")
        data = data[: XENSTORE_RING_SIZE - (producer - self.field("req_cons")) % (1 << 32)]
        for i, byte in enumerate(data):
            self.page[XenstoreDomainInterface.offsetof("req") + (producer + i) % XENSTORE_RING_SIZE] = byte
        self.set_field("req_prod", producer + len(data))
        return len(data)

    def take(self) -> list[Packet]:
        """Take all whole packets that have come, without a signal."""
        consumer, producer = self.field("rsp_cons"), self.field("rsp_prod")
        start = XenstoreDomainInterface.offsetof("rsp")
        count = (producer - consumer) % (1 << 32)
        assert count <= XENSTORE_RING_SIZE
        self._reader.feed(bytes(self.page[start + (consumer + i) % XENSTORE_RING_SIZE] for i in range(count)))
        self.set_field("rsp_cons", producer)
        found = []
        while (packet := self._reader.next_packet()) is not None:
            found.append(packet)
        return found

    def talk(self, *requests: Packet) -> list[Packet]:
        """Send requests and read until xenstored has nothing more to say."""
        data = b"".join(request.encode() for request in requests)
        found = []
        while True:
            data = data[self.put(data) :]
            self.ring.service()
            new = self.take()
            found += new
            if not data and not new and not self.ring.connection.outstanding:
                return found
