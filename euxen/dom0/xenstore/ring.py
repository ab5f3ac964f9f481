"""The ring: one page that a domain and xenstored share, with a queue of bytes in each direction.

The domain can write any byte of the page at any moment. So each index of its is read once into a
variable, checked, and only then used; xenstored's own indices are kept here and only published in
the page; and a queue that cannot be disconnects this domain, and no other.
Specified in docs/misc/xenstore-ring.txt; struct xenstore_domain_interface in
xen/include/public/io/xs_wire.h.
"""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi.io.xs_wire import (
    XENSTORE_CONNECTED,
    XENSTORE_ERROR_NONE,
    XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT,
    XENSTORE_RING_SIZE,
    XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION,
    XenstoreDomainInterface,
)
from euxen.dom0.xenstore.connection import Connection
from euxen.dom0.xenstore.server import receive, serve
from euxen.dom0.xenstore.store import XenStore

XENSTORE_SERVER_FEATURE_WATCHDEPTH = 4  # bit 2 of xenstore-ring.txt; xs_wire.h of 4.17 has no name for it

# The fields after the two queues, as indices into the page taken as 32-bit words.
_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD, _SERVER_FEATURES, _CONNECTION, _ERROR = (
    XenstoreDomainInterface.offsetof(name) // 4
    for name in ("req_cons", "req_prod", "rsp_cons", "rsp_prod", "server_features", "connection", "error")
)


class XenStoreRing:
    """xenstored's end of one domain's ring.

    ``page`` is the shared page; ``notify`` signals the event channel to the domain. Call
    ``service`` whenever the domain has signalled, and ``flush`` when ``XenStore.take_ready`` names
    the connection.
    """

    def __init__(self, store: XenStore, connection: Connection, page: memoryview, notify: Callable[[], None]) -> None:
        self.connection = connection
        self._store = store
        self._notify = notify
        whole = page.cast("B")
        self._requests = _field(whole, "req")
        self._replies = _field(whole, "rsp")
        self._words = whole.cast("I")  # a word is read and written at once, never byte by byte
        self._req_cons = self._words[_REQ_CONS]
        self._rsp_prod = self._words[_RSP_PROD]
        self._words[_SERVER_FEATURES] = (
            XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR | XENSTORE_SERVER_FEATURE_WATCHDEPTH
        )

    def service(self) -> bool:
        """Take the requests that are in the ring, and hand over what is to be sent as far as it fits.

        Returns whether to call again, as the domain did something meanwhile, for which it does not signal: it need
        not where it sees that it is being served. A domain that never stops sending gets one ring full at a time, and
        others have their turn.
        """
        reconnected = self._words[_CONNECTION] == XENSTORE_RECONNECT
        if reconnected:
            self._reconnect()
        moved = self._send()  # first, since requests are taken only from who reads the replies
        serve(self._store, self.connection)
        moved |= self._take()
        while self._send():
            moved = True
            serve(self._store, self.connection)
        self._finish(moved or reconnected)
        return (moved or reconnected) and self._has_more()

    def _has_more(self) -> bool:
        """Whether there is something to take, or room for what is to be sent.

        Sending the signal was a memory barrier: the domain has seen our indices, or we see what it did before.
        """
        if self.connection.outstanding and self._queued(self._rsp_prod, self._words[_RSP_CONS]) < XENSTORE_RING_SIZE:
            return self.connection.broken is None
        return self._store.wants_input(self.connection) and self._queued(self._words[_REQ_PROD], self._req_cons) > 0

    def flush(self) -> None:
        """Hand over what is to be sent, as far as it fits into the ring."""
        self._finish(self._send())

    def close(self) -> None:
        """Let go of the page."""
        for view in (self._requests, self._replies, self._words):
            view.release()

    def _take(self) -> bool:
        """Take requests out of the ring; whether there were any."""
        if not self._store.wants_input(self.connection):
            return False
        count = self._queued(self._words[_REQ_PROD], self._req_cons)
        if not count:
            return False
        start = self._req_cons % XENSTORE_RING_SIZE
        data = bytes(self._requests[start : start + count])
        data += bytes(self._requests[: count - len(data)])
        self._req_cons = (self._req_cons + count) & 0xFFFFFFFF
        self._words[_REQ_CONS] = self._req_cons  # after the copy: now the domain may write there again
        receive(self._store, self.connection, data)
        return True

    def _send(self) -> bool:
        """Put replies and events into the ring; whether there were any."""
        if not self.connection.outstanding:
            return False
        room = XENSTORE_RING_SIZE - self._queued(self._rsp_prod, self._words[_RSP_CONS])
        data = self.connection.data_to_send(room)
        start = self._rsp_prod % XENSTORE_RING_SIZE
        first = data[: XENSTORE_RING_SIZE - start]
        self._replies[start : start + len(first)] = first
        self._replies[: len(data) - len(first)] = data[len(first) :]
        self._rsp_prod = (self._rsp_prod + len(data)) & 0xFFFFFFFF
        self._words[_RSP_PROD] = self._rsp_prod  # after the data that it makes valid
        return bool(data)

    def _queued(self, producer: int, consumer: int) -> int:
        """How many bytes a queue holds; where that is impossible, the connection is broken and holds none."""
        count = (producer - consumer) & 0xFFFFFFFF
        if count <= XENSTORE_RING_SIZE:
            return count
        self._store.fail(
            self.connection, XENSTORE_ERROR_RINGIDX, f"ring indices {producer} and {consumer} are {count} bytes apart"
        )
        return 0

    def _reconnect(self) -> None:
        """Bring ring and connection into their initial state, as the domain asked. xenstore-ring.txt"""
        self._store.reset(self.connection)
        self._req_cons = self._rsp_prod = 0
        for word in (_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD):
            self._words[word] = 0
        self._words[_ERROR] = XENSTORE_ERROR_NONE
        self._words[_CONNECTION] = XENSTORE_CONNECTED  # last: until then the domain ignores the rest

    def _finish(self, changed: bool) -> None:
        """Make an error visible, and signal if there is anything new to see."""
        broken = self.connection.broken
        if broken is not None and self._words[_ERROR] != broken:
            self._words[_ERROR] = broken
            changed = True
        if changed:
            self._notify()


def _field(page: memoryview, name: str) -> memoryview:
    start = XenstoreDomainInterface.offsetof(name)
    return page[start : start + XENSTORE_RING_SIZE]
