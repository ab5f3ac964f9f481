"""A client of xenstored in Domain 0 itself, for the toolstack: requests as methods (libxenstore)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from euxen.abi.io import xs_wire
from euxen.dom0.xenstore import Packet, XenStore, reply


class XenStoreRefused(Exception):
    """xenstored's error, by its name: ``ENOENT``."""


class XenStoreClient:
    """Synchronous requests with Domain 0's rights. ``flush`` sends what they cause for other clients.

    ``lock`` is held while xenstored is at work.
    """

    def __init__(self, store: XenStore, flush: Callable[[], None], lock: threading.RLock) -> None:
        self._store = store
        self._lock = lock
        self._connection = store.connect()
        self._flush = flush

    def _ask(self, kind: int, *arguments: str, tail: bytes = b"") -> bytes:
        payload = b"".join(argument.encode() + b"\0" for argument in arguments) + tail
        with self._lock:
            answer = reply(self._store, self._connection, Packet(kind, payload))
            self._store.deliver()
            self._flush()
        if answer.type == xs_wire.XS_ERROR:
            raise XenStoreRefused(answer.payload.rstrip(b"\0").decode())
        return answer.payload

    def read(self, path: str) -> str:
        """The value of a node. Raises XenStoreRefused."""
        return self._ask(xs_wire.XS_READ, path).decode()

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
