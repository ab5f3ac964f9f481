"""xenstored's Unix socket: with clients of our own that behave badly, and with Debian's xenstore-utils."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import need, package_files

from euxen.abi.io.xs_wire import XS_DIRECTORY, XS_READ, XS_WATCH, XS_WATCH_EVENT, XS_WRITE
from euxen.dom0.xenstore import Packet, PacketReader, XenStore
from euxen.dom0.xenstore_socket import XenStoreSocket

PATIENCE = 20.0


class Server:
    """A xenstored with nothing but its socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = XenStore()
        self.socket = XenStoreSocket(self.store, path, threading.RLock(), self._flush)

    def _flush(self) -> None:
        for connection in self.store.take_ready():
            self.socket.flush(connection)


class Tool:
    """A client of it."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(os.fspath(server.path))
        self._reader = PacketReader()

    def send(self, kind: int, payload: bytes, req_id: int = 1) -> None:
        self.socket.sendall(Packet(kind, payload, req_id=req_id).encode())

    def receive(self) -> Packet:
        while (packet := self._reader.next_packet()) is None:
            data = self.socket.recv(1 << 16)
            assert data, "it hung up"
            self._reader.feed(data)
        return packet

    def ask(self, kind: int, payload: bytes) -> bytes:
        self.send(kind, payload)
        return self.receive().payload

    def is_disconnected(self) -> bool:
        """Whether xenstored hangs up."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "socket")
    yield server
    server.socket.close()
    assert not server.path.exists()


def test_it_is_the_owners_alone(server: Server) -> None:
    mode = server.path.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_tools_share_one_store_and_are_told_of_changes(server: Server) -> None:
    first, second = Tool(server), Tool(server)
    assert first.ask(XS_WATCH, b"/tool\0token\0") == b"OK\0"
    assert first.receive().payload == b"/tool\0token\0"
    assert second.ask(XS_WRITE, b"/tool/a\0value") == b"OK\0"
    event = first.receive()
    assert (event.type, event.payload) == (XS_WATCH_EVENT, b"/tool/a\0token\0")
    assert first.ask(XS_READ, b"/tool/a\0") == b"value"


def test_a_request_in_pieces(server: Server) -> None:
    tool = Tool(server)
    for byte in Packet(XS_DIRECTORY, b"/\0").encode():
        tool.socket.send(bytes([byte]))
    assert b"local" in tool.receive().payload


def test_many_requests_at_once(server: Server) -> None:
    tool = Tool(server)
    tool.socket.sendall(b"".join(Packet(XS_WRITE, b"/n\0%d" % n, req_id=n).encode() for n in range(500)))
    assert [tool.receive().req_id for _ in range(500)] == list(range(500))
    assert tool.ask(XS_READ, b"/n\0") == b"499"


def test_who_does_not_read_waits_alone(server: Server) -> None:
    """It is not listened to any more, until it reads; the others do not notice, and nothing is lost."""
    greedy, other = Tool(server), Tool(server)
    other.ask(XS_WRITE, b"/large\0" + b"x" * 2000)
    requests = Packet(XS_READ, b"/large\0").encode() * 64
    greedy.socket.setblocking(False)
    sent = 0
    try:
        while sent < 64 << 20:
            sent += greedy.socket.send(requests)
            other.ask(XS_READ, b"/large\0")
    except BlockingIOError:
        pass
    assert sent < 64 << 20
    assert other.ask(XS_READ, b"/large\0") == b"x" * 2000
    greedy.socket.settimeout(PATIENCE)
    for _ in range(sent // len(Packet(XS_READ, b"/large\0").encode())):
        assert greedy.receive().payload == b"x" * 2000


def test_who_breaks_the_protocol_is_hung_up_on(server: Server) -> None:
    bad, good = Tool(server), Tool(server)
    bad.socket.sendall(b"\xff" * 64)
    assert bad.is_disconnected()
    assert good.ask(XS_READ, b"/local\0") == b""


def test_who_goes_takes_its_watches_along(server: Server) -> None:
    tool, other = Tool(server), Tool(server)
    tool.ask(XS_WATCH, b"/\0token\0")
    tool.send(XS_READ, b"/local\0")
    tool.socket.close()
    for number in range(50):
        assert other.ask(XS_WRITE, b"/n\0%d" % number) == b"OK\0"
    assert not server.store.watches.at(())


def test_two_do_not_listen_at_one_place(server: Server) -> None:
    with pytest.raises(OSError, match="somebody listens there already"):
        Server(server.path)
    assert Tool(server).ask(XS_READ, b"/local\0") == b""


def test_a_socket_that_was_left_behind_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
    server = Server(path)
    assert Tool(server).ask(XS_READ, b"/local\0") == b""
    server.socket.close()


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError):
        Server(path)
    assert path.read_text() == "precious"


NAMES = ("ls", "read", "write", "watch", "list", "exists", "rm", "chmod")
PARTS = {
    "xenstore-utils": "*/bin/xenstore",
    "libxenstore4": "*/libxenstore.so.4.0",
    "libxentoolcore1": "*/libxentoolcore.so.1.0",
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Debian's xenstore-utils, which are one program by many names, and its libraries."""
    directory = tmp_path_factory.mktemp("xenstore-utils")
    program, *libraries = need(lambda: [package_files(name, pattern)[0] for name, pattern in PARTS.items()])
    for name in NAMES:
        (directory / f"xenstore-{name}").symlink_to(program)
    for library in libraries:
        (directory / library.name.rpartition(".")[0]).symlink_to(library)
    return directory


def test_debians_tools(server: Server, tools: Path) -> None:
    environment = {"XENSTORED_PATH": os.fspath(server.path), "LD_LIBRARY_PATH": os.fspath(tools)}

    def tool(name: str, *arguments: str, status: int = 0) -> str:
        command = [os.fspath(tools / f"xenstore-{name}"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == status, done.stderr
        return done.stdout

    tool("write", "/a/b", "one", "/a/c", "two")
    assert tool("read", "/a/b") == "one\n"
    assert tool("list", "/a").split() == ["b", "c"]
    assert tool("ls", "-f", "/a") == '/a/b = "one"\n/a/c = "two"\n'
    tool("chmod", "/a/b", "n0", "r3")
    assert "(n0,r3)" in tool("ls", "-p", "/a")
    tool("exists", "/nope", status=1)
    watching = subprocess.Popen(
        [os.fspath(tools / "xenstore-watch"), "-n", "2", "/a/b"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == "/a/b\n"
    tool("write", "/a/b", "three")
    assert watching.communicate(timeout=PATIENCE)[0] == "/a/b\n"
    tool("rm", "/a")
    assert tool("ls", "-f", "/a", status=1) == ""
