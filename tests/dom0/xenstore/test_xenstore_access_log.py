"""What a real xenstored did while domains were created, used and destroyed, done again.

``access.log`` is part of the access log of oxenstored on a machine with Xen 4.17 (without its
times): every request that changed something, of Domain 0's kernel, of libxl, QEMU, xenconsoled and
the domains, and every watch event. Here the requests are made again in the same order, and each
client must be told the same in the same order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from xenstore_client import packets
from xenstore_transcript import TYPES, escape, unescape

from euxen.abi.io.xs_wire import XS_ERROR, XS_WATCH_EVENT
from euxen.dom0.xenstore import Connection, Packet, XenStore, receive

LOG = Path(__file__).with_name("access.log")

_LINE = re.compile(r"(?P<client>[AD]\d+)(?:\.(?P<tx_id>\d+))? +(?P<what>[a-z]+( event)?) *(?P<rest>.*)")
_REQUESTS = {
    "write": "WRITE",
    "mkdir": "MKDIR",
    "rm": "RM",
    "setperms": "SET_PERMS",
    "watch": "WATCH",
    "unwatch": "UNWATCH",
}


class Replay:
    """The clients of the log, on euxen's xenstored."""

    def __init__(self) -> None:
        self.store = XenStore()
        self.clients: dict[str, Connection] = {"D0": self.store.domain0}
        self.transactions: dict[tuple[str, str], int] = {}
        self.told: defaultdict[str, list[str]] = defaultdict(list)
        self.refused: list[str] = []
        self.released: set[str] = set()

    def replay(self, match: re.Match[str]) -> None:
        """Do what a line of the log says."""
        client, tx, what, rest = match["client"], match["tx_id"], match["what"], match["rest"]
        domid = int(client[1:])
        if what == "newconn" and client[0] == "D":
            self.store.introduce(domid, 1, 1)
            self.clients[client] = self.store.domains[domid].connection
        elif what == "endconn" and client[0] == "D":
            self.store.release(domid)
            self.released.add(client)
        elif what == "endconn":
            self.store.disconnect(self.client(client))
        elif what in ("commit", "conflict", "coalesce"):  # the end of a transaction; two lines may tell of it
            if tx is not None and (client, tx) in self.transactions:
                self.ask(client, tx, "TRANSACTION_END", b"T\0")
                del self.transactions[client, tx]
        elif what in _REQUESTS:
            self.ask(client, tx, _REQUESTS[what], unescape(rest))
        self.store.deliver()
        self.collect()

    def client(self, name: str) -> Connection:
        if name not in self.clients:
            self.clients[name] = self.store.connect()
        return self.clients[name]

    def ask(self, client: str, tx: str | None, kind: str, payload: bytes) -> None:
        connection = self.client(client)
        if tx is not None and (client, tx) not in self.transactions:
            receive(self.store, connection, Packet(TYPES["TRANSACTION_START"], b"\0").encode())
            (answer,) = self.collect()
            self.transactions[client, tx] = int(answer.payload[:-1])
        tx_id = self.transactions[client, tx] if tx is not None else 0
        receive(self.store, connection, Packet(TYPES[kind], payload, 0, tx_id).encode())
        (answer,) = self.collect()
        if answer.type == XS_ERROR:
            self.refused.append(f"{kind} {escape(payload)}: {escape(answer.payload)}")

    def collect(self) -> list[Packet]:
        """The replies that wait; events are noted as the log notes them."""
        answers = []
        names = {connection: name for name, connection in self.clients.items()}
        for connection in self.store.take_ready():
            for packet in packets(connection.data_to_send(1 << 30)):
                if packet.type == XS_WATCH_EVENT:
                    text = escape(packet.payload)
                    if not text.startswith("@"):
                        self.told[names[connection]].append(text)
                else:
                    answers.append(packet)
        return answers


def test_a_real_access_log() -> None:
    replay = Replay()
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for line in LOG.read_text().splitlines():
        match = _LINE.fullmatch(line)
        if line.startswith("#"):
            continue
        assert match, line
        if match["what"] != "w event":
            replay.replay(match)
        elif not match["rest"].startswith("@"):  # the log does not say when domains shut down
            expected[match["client"]].append(match["rest"])
    assert sum(map(len, expected.values())) == 316, "the log is not what it was"
    for client, events in expected.items():
        told = replay.told[client]
        if client in replay.released:
            told = told[: len(events)]  # the last ones found nobody to read them
        assert (client, told) == (client, events)
    assert not set(replay.told) - set(expected), "these were told something, and really were not"
    # Nothing was refused but what libxl removes without looking whether it is there.
    assert not [text for text in replay.refused if not (text.startswith("RM ") and text.endswith("ENOENT|"))]
