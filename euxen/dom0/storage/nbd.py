"""Disks in other formats, through QEMU's qemu-nbd(8), which serves one to us over a Unix socket.

The protocol is NBD, of which the simplest part is enough: "fixed newstyle" negotiation and simple replies.
Specified in https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from euxen.dom0.storage.raw import Raw
from euxen.dom0.storage.storage import SECTOR, Geometry, StorageError

QEMU_FORMATS = {"qcow": "qcow", "qcow2": "qcow2", "vhd": "vpc", "qed": "qed", "vmdk": "vmdk", "vhdx": "vhdx"}
"""xl's names of formats, and a few that it lacks, and QEMU's."""
CONNECTIONS = 8
"""How many requests can be under way at once."""
PATIENCE = 10.0
"""Seconds that qemu-nbd has to open a disk, and to close it."""

INIT_MAGIC, OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
REQUEST_MAGIC, REPLY_MAGIC = 0x2560_9513, 0x6744_6698
FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2
OPT_EXPORT_NAME = 1
FLAG_SEND_TRIM = 1 << 5
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM = 0, 1, 2, 3, 4
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
EXPORT = struct.Struct(">QH")


class NbdClient:
    """One connection, with one request at a time on it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
            self.size, self.flags = self._negotiate()
        except OSError:
            self._socket.close()
            raise

    def _negotiate(self) -> tuple[int, int]:
        greeting = self._receive(18)
        if greeting[:16] != INIT_MAGIC + OPTION_MAGIC or not greeting[17] & FLAG_FIXED_NEWSTYLE:
            raise OSError(errno.EPROTO, "this is no NBD server")
        self._socket.sendall(struct.pack(">I", FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES))
        self._socket.sendall(OPTION_MAGIC + struct.pack(">II", OPT_EXPORT_NAME, 0))
        size, flags = EXPORT.unpack(self._receive(EXPORT.size))
        if not greeting[17] & FLAG_NO_ZEROES:
            self._receive(124)
        return size, flags

    def request(
        self,
        command: int,
        offset: int,
        size: int,
        send: Sequence[memoryview] = (),
        receive: Sequence[memoryview] = (),
    ) -> None:
        """Make a request and wait for its end."""
        header = REQUEST.pack(REQUEST_MAGIC, 0, command, 0, offset, size)
        self._send_all([memoryview(header), *send])
        magic, error, _handle = REPLY.unpack(self._receive(REPLY.size))
        if magic != REPLY_MAGIC:
            raise OSError(errno.EPROTO, "this is no answer of an NBD server")
        if error:
            raise OSError(error, os.strerror(error))
        for buffer in receive:
            self._fill(buffer)

    def _send_all(self, buffers: list[memoryview]) -> None:
        while buffers:
            sent = self._socket.sendmsg(buffers[:512])
            while buffers and sent >= len(buffers[0]):
                sent -= len(buffers.pop(0))
            if sent:
                buffers[0] = buffers[0][sent:]

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, buffer: memoryview) -> None:
        while buffer:
            count = self._socket.recv_into(buffer)
            if not count:
                raise OSError(errno.EPIPE, "qemu-nbd has ended")
            buffer = buffer[count:]

    def close(self) -> None:
        """Say good-bye."""
        with contextlib.suppress(OSError):
            self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0))
        self._socket.close()


class QemuNbd:
    """A disk that qemu-nbd has opened for us. It ends with us, whatever happens to us."""

    can_try = False

    def __init__(self, path: Path, format: str, writable: bool) -> None:
        """Open it. Raises StorageError."""
        program = shutil.which("qemu-nbd")
        if program is None:
            raise StorageError(
                f"{path} has the format {format}, for which qemu-nbd is needed, and that is not on this host; "
                "install it (on Debian: the package qemu-utils), or convert the disk to a raw file"
            )
        _check_file(path, writable)
        self._free: list[NbdClient] = []
        self._lock = threading.Lock()
        self._directory = tempfile.TemporaryDirectory(prefix="euxen-nbd-")
        self._socket = Path(self._directory.name) / "socket"
        command = [program, f"--socket={self._socket}", f"--format={format}", f"--shared={CONNECTIONS}"]
        command += ["--discard=unmap"] if writable else ["--read-only"]
        # It does not go on when the last connection ends, as it has no --persistent.
        self._process = subprocess.Popen(
            [*command, "--", str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self._free.append(self._connect_first(path))
        except BaseException:
            self._end()
            raise
        size, flags = self._free[0].size, self._free[0].flags
        self.geometry = Geometry(
            size - size % SECTOR, discard_granularity=4096 if writable and flags & FLAG_SEND_TRIM else 0
        )

    def _connect_first(self, path: Path) -> NbdClient:
        """Wait until it listens. Raises StorageError with what it says instead."""
        deadline = time.monotonic() + PATIENCE
        assert self._process.stderr is not None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                return NbdClient(self._socket)
            if select.select([self._process.stderr], [], [], 0.01)[0]:
                said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
                reason = said[-1].removeprefix("qemu-nbd: ") if said else "it ended"
                raise StorageError(f"{path} cannot be opened by qemu-nbd ({reason})")
        raise StorageError(f"{path} cannot be opened by qemu-nbd, which does not answer")

    @contextlib.contextmanager
    def _client(self) -> Iterator[NbdClient]:
        with self._lock:
            client = self._free.pop() if self._free else None
        if client is None:
            client = NbdClient(self._socket)
        try:
            yield client
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EPROTO):
                client.close()
                raise
            with self._lock:
                self._free.append(client)
            raise
        with self._lock:
            self._free.append(client)

    def try_read(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """It always takes a while."""
        return False

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """NBD_CMD_READ."""
        with self._client() as client:
            client.request(CMD_READ, offset, sum(map(len, buffers)), receive=buffers)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """NBD_CMD_WRITE."""
        with self._client() as client:
            client.request(CMD_WRITE, offset, sum(map(len, buffers)), send=buffers)

    def flush(self) -> None:
        """NBD_CMD_FLUSH."""
        with self._client() as client:
            client.request(CMD_FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        """NBD_CMD_TRIM, of which one request takes less than 4 GiB."""
        with self._client() as client:
            while size:
                part = min(size, 1 << 30)
                client.request(CMD_TRIM, offset, part)
                offset, size = offset + part, size - part

    def close(self) -> None:
        """Let qemu-nbd write what it has, and end."""
        for client in self._free:
            client.close()
        self._free.clear()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._directory.cleanup()


def _check_file(path: Path, writable: bool) -> None:
    """What Raw says of a file is clearer than what qemu-nbd says. Raises StorageError."""
    Raw(path, writable, sector_size=1).close()
