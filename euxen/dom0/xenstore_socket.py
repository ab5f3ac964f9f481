"""xenstored's Unix socket: the tools of Domain 0 speak the protocol over it, each with a connection of its own.

libxenstore, and so xenstore-ls and its like, finds it by XENSTORED_PATH.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from euxen.dom0.xenstore import Connection, XenStore, receive, serve

READ_SIZE = 1 << 16
BACKLOG = 64


class SocketClient:
    """One tool. All methods are called with the lock of the server."""

    def __init__(self, store: XenStore, end: socket.socket, epoll: select.epoll) -> None:
        self.connection: Connection = store.connect()
        self._store = store
        self._socket = end
        self._epoll = epoll
        self._unsent = b""
        self._wanted = select.EPOLLIN
        self.is_open = True
        epoll.register(end, self._wanted)

    def flush(self) -> None:
        """Send what is to be sent, as far as the tool reads it, and take the requests that waited for that."""
        try:
            while self.is_open and (self._unsent or self.connection.outstanding):
                self._unsent = self._unsent or self.connection.data_to_send(READ_SIZE)
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
                serve(self._store, self.connection)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if self.connection.broken is not None:
            self.close()
        if self.is_open:
            self._want()

    def _want(self) -> None:
        wanted = select.EPOLLIN if self._store.wants_input(self.connection) else 0
        if self._unsent or self.connection.outstanding:
            wanted |= select.EPOLLOUT
        if wanted != self._wanted:
            self._wanted = wanted
            self._epoll.modify(self._socket, wanted)

    def read(self) -> None:
        """Take what the tool has sent."""
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            receive(self._store, self.connection, data)
        else:
            self.close()

    def close(self) -> None:
        """The tool is gone, or has to go."""
        if self.is_open:
            self.is_open = False
            self._store.disconnect(self.connection)
            self._epoll.unregister(self._socket)
            self._socket.close()


class XenStoreSocket:
    """The socket, and a thread that serves those who connect to it."""

    def __init__(self, store: XenStore, path: Path, lock: threading.RLock, flush: Callable[[], None]) -> None:
        """Listen at ``path``; only the owner may connect. ``flush`` sends what requests cause. Raises OSError."""
        self._store, self._lock, self._flush = store, lock, flush
        self._path = path
        self._clients: dict[int, SocketClient] = {}
        self._files: dict[Connection, int] = {}
        self._listener = _listen(path)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="euxen-xenstored", daemon=True)
        self._thread.start()

    def flush(self, connection: Connection) -> None:
        """Send what a connection has for its tool, if it is one of this socket's. With the lock."""
        file = self._files.get(connection)
        if file is not None:
            self._clients[file].flush()
            self._forget_closed(file)

    def close(self) -> None:
        """Disconnect all, and listen no more."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
            self._files.clear()
        self._epoll.close()
        self._listener.close()
        os.close(self._stop)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def __enter__(self) -> XenStoreSocket:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            for file, events in self._epoll.poll():
                if file == self._stop:
                    return
                with self._lock:
                    if file == self._listener.fileno():
                        self._accept()
                    elif client := self._clients.get(file):
                        self._serve(file, client, events)

    def _accept(self) -> None:
        try:
            end, _address = self._listener.accept()
        except OSError:  # it has gone again, or there are too many files open
            return
        end.setblocking(False)
        client = self._clients[end.fileno()] = SocketClient(self._store, end, self._epoll)
        self._files[client.connection] = end.fileno()

    def _serve(self, file: int, client: SocketClient, events: int) -> None:
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            client.read()
        if client.is_open:
            client.flush()
        self._forget_closed(file)
        self._flush()

    def _forget_closed(self, file: int) -> None:
        client = self._clients[file]
        if not client.is_open:
            del self._clients[file], self._files[client.connection]


def _listen(path: Path) -> socket.socket:
    """A socket for its owner alone. One that nobody listens at any more gives way. Raises OSError."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(os.fspath(path)) == 0:
                raise FileExistsError(errno.EADDRINUSE, "somebody listens there already", os.fspath(path))
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
