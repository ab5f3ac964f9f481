"""A client of xenstored in Domain 0 itself, for the toolstack and for XenBus: requests as methods (libxenstore)."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping

from euxen.abi.io import xs_wire
from euxen.dom0.xenstore import Connection, Packet, PacketReader, XenStore, reply

ALL_THERE_IS = 1 << 30


class XenStoreRefused(Exception):
    """xenstored's error, by its name: ``ENOENT``."""


class XenStoreClient:
    """Synchronous requests with Domain 0's rights. ``flush`` sends what they cause for other clients.

    ``lock`` is held while xenstored is at work. What is watched is told in a thread that is there while there is
    something to tell (Linux's xenwatch), one thing at a time and without the lock.
    """

    def __init__(self, store: XenStore, flush: Callable[[], None], lock: threading.RLock) -> None:
        self._store = store
        self._lock = lock
        self.connection: Connection = store.connect()
        """Whoever delivers what is to be sent calls ``take_events`` where it is for this one."""
        self._flush = flush
        self._reader = PacketReader()
        self._tokens = itertools.count(1)
        self._watches: dict[str, tuple[str, Callable[[str], None]]] = {}
        self._told: dict[tuple[str, str], None] = {}
        """Tokens and paths of events that nobody was told of yet; each once, however often it came."""
        self._later: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    def _ask(self, kind: int, *arguments: str, tail: bytes = b"") -> bytes:
        payload = b"".join(argument.encode() + b"\0" for argument in arguments) + tail
        with self._lock:
            answer = reply(self._store, self.connection, Packet(kind, payload))
            self._store.deliver()
            self._flush()
        if answer.type == xs_wire.XS_ERROR:
            raise XenStoreRefused(answer.payload.rstrip(b"\0").decode())
        return answer.payload

    def read(self, path: str) -> str:
        """The value of a node; bytes that are no text come as os.fsdecode makes them. Raises XenStoreRefused."""
        return os.fsdecode(self._ask(xs_wire.XS_READ, path))

    def write(self, path: str, value: str) -> None:
        """Set a node's value, making it if it is absent. Bytes that are no text come as os.fsdecode makes them."""
        self._ask(xs_wire.XS_WRITE, path, tail=os.fsencode(value))

    def write_all(self, directory: str, values: Mapping[str, str]) -> None:
        """Set many nodes below a directory."""
        for name, value in values.items():
            self.write(f"{directory}/{name}", value)

    def mkdir(self, path: str) -> None:
        """Make a node if it is absent."""
        self._ask(xs_wire.XS_MKDIR, path)

    def list(self, path: str) -> list[str]:
        """The names of a node's children."""
        answer = self._ask(xs_wire.XS_DIRECTORY, path)
        return [name.decode() for name in answer.split(b"\0")[:-1]]

    def remove(self, path: str) -> None:
        """Remove a node and all below it."""
        self._ask(xs_wire.XS_RM, path)

    def set_permissions(self, path: str, *permissions: str) -> None:
        """Set who owns a node and who may do what: ``"n0", "r5"``."""
        self._ask(xs_wire.XS_SET_PERMS, path, *permissions)

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Tell xenstored of a domain's ring."""
        self._ask(xs_wire.XS_INTRODUCE, str(domid), str(gfn), str(port))

    def release(self, domid: int) -> None:
        """Tell xenstored that a domain is gone."""
        self._ask(xs_wire.XS_RELEASE, str(domid))

    # Watches.

    def watch(self, path: str, changed: Callable[[], None], depth: int | None = None) -> str:
        """Have ``changed`` called now and whenever a node has changed, down to ``depth`` below it; what ends it."""
        return self.watch_paths(path, lambda _path: changed(), depth)

    def watch_paths(self, path: str, changed: Callable[[str], None], depth: int | None = None) -> str:
        """The same, with the path that has changed."""
        with self._lock:
            token = str(next(self._tokens))
            self._watches[token] = path, changed
            self._ask(xs_wire.XS_WATCH, path, token, *([] if depth is None else [str(depth)]))
            return token

    def unwatch(self, token: str) -> None:
        """End a watch. A call that has begun may still be going on, where this is not called by one."""
        with self._lock:
            path, _changed = self._watches.pop(token)
            self._ask(xs_wire.XS_UNWATCH, path, token)

    def wait_until(self, path: str, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so that comes with a change of a node; whether it came in time."""
        event = threading.Event()
        token = self.watch(path, lambda: event.set() if reached() else None)
        try:
            return event.wait(seconds)
        finally:
            self.unwatch(token)

    def later(self, call: Callable[[], None]) -> None:
        """From any thread: call something in the thread in which watches are told."""
        with self._lock:
            self._later.append(call)
            self._start()

    def take_events(self) -> None:
        """xenstored has events for us. With the lock."""
        self._reader.feed(self.connection.data_to_send(ALL_THERE_IS))
        while packet := self._reader.next_packet():
            path, token, _end = packet.payload.split(b"\0")
            self._told[token.decode(), os.fsdecode(path)] = None
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="euxen-xenwatch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while call := self._next_call():
            try:
                call()
            except Exception:  # a daemon with an error in it: say so, and let the others live
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))

    def _next_call(self) -> Callable[[], None] | None:
        """What is to be done next; None ends the thread."""
        with self._lock:
            while self._later or self._told:
                if self._later:
                    return self._later.popleft()
                token, path = next(iter(self._told))
                del self._told[token, path]
                if token in self._watches:
                    changed = self._watches[token][1]
                    return lambda: changed(path)
            self._thread = None
            return None
