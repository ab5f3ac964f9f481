"""Xen's own oxenstored, running beside a pretend hypervisor, for tests that compare with it.

It comes out of Debian's package xen-utils-4.17 and needs the libraries of libxen-dev; building the pretend hypervisor
needs that package's headers and a C compiler.
"""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from packages import need, package_files

from euxen.abi.io.xs_wire import XENSTORE_RING_SIZE, XS_WATCH_EVENT, XenstoreDomainInterface
from euxen.dom0.xenstore import Packet, PacketReader, Quota

AVAILABLE = Path("/usr/include/xenctrl.h").exists() and shutil.which("cc") is not None

DOMIDS = (0, 1, 2, 3)
_PATIENCE = 10.0  # seconds until a silent oxenstored counts as stuck
_QUOTA_KEYS = {  # Quota's names, and oxenstored.conf's
    "nodes": "quota-maxentity",
    "watches": "quota-maxwatch",
    "transactions": "quota-transaction",
    "requests": "quota-maxrequests",
    "node_size": "quota-maxsize",
    "path_max": "quota-path-max",
}
_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD, _SERVER_FEATURES = (
    XenstoreDomainInterface.offsetof(name) // 4
    for name in ("req_cons", "req_prod", "rsp_cons", "rsp_prod", "server_features")
)
_RSP = XenstoreDomainInterface.offsetof("rsp")


def build_pretend_xen(directory: Path) -> Path:
    """Compile pretend_xen.c."""
    library = directory / "pretend_xen.so"
    source = Path(__file__).with_name("pretend_xen.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wno-unused", "-o", library, source], check=True)
    return library


@functools.cache
def _oxenstored() -> int:
    """The program, which nothing has to install; in a file without a path, because it keeps its path in a node."""
    (program,) = need(lambda: package_files("xen-utils-4.17", "*/lib/xen-4.17/bin/oxenstored"))
    file = os.memfd_create("oxenstored")
    with open(file, "wb", closefd=False) as copy:
        copy.write(program.read_bytes())
    return file


class Oxenstored:
    """One oxenstored with rings for domains 0 to 3, of which Domain 0 is introduced."""

    def __init__(self, directory: Path, library: Path, quotas: dict[str, int]) -> None:
        self._directory = directory
        for domid in DOMIDS:
            (directory / f"ring.{domid}").write_bytes(bytes(4096))
            (directory / f"state.{domid}").write_text("0")
        os.mkfifo(directory / "evtchn")
        (directory / "port").write_text("7")
        settings = {
            "merge-activate": "true",
            "perms-activate": "true",
            "quota-activate": "true",
            "pid-file": directory / "pid",
            "xenstored-kva": directory / "ring.0",
            "xenstored-port": directory / "port",
            "xenstored-log-file": directory / "log",
            "access-log-file": directory / "access.log",
            "conflict-burst-limit": "1000000.0",  # else it ignores for a while whose writes make others fail
        } | {key: quotas.get(name, getattr(Quota(), name)) for name, key in _QUOTA_KEYS.items()}
        (directory / "conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        self._events = os.open(directory / "evtchn", os.O_RDWR)
        self._rings = {domid: _map(directory / f"ring.{domid}") for domid in DOMIDS}
        self._words = {domid: memoryview(ring).cast("I") for domid, ring in self._rings.items()}
        self._readers = {domid: PacketReader() for domid in DOMIDS}
        with (directory / "errors").open("w") as errors:
            self._process = subprocess.Popen(
                ["oxenstored", "--config-file", directory / "conf", "--no-fork", "--disable-socket"],
                executable=f"/proc/self/fd/{_oxenstored()}",
                pass_fds=[_oxenstored()],
                env={"LD_PRELOAD": str(library), "PRETEND_XEN": str(directory)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self._wait(lambda: self._words[0][_SERVER_FEATURES] != 0)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._events)

    def ask(self, domid: int, request: Packet) -> tuple[Packet, dict[int, list[bytes]]]:
        """The reply, and all watch events up to it and those that it gave rise to."""
        self._put(domid, request.encode())
        events: dict[int, list[bytes]] = defaultdict(list)
        answers = self._collect(domid, events)
        # Events come after the reply. They are all there once something asked after it is answered.
        self._settle(events)
        return answers, dict(events)

    def happen(self, words: str) -> dict[int, list[bytes]]:
        """``shut down 1`` or ``gone 1``."""
        what, _, domid = words.rpartition(" ")
        (self._directory / f"state.{domid}").write_text({"shut down": "2", "gone": "1"}[what])
        self._signal(1)
        events: dict[int, list[bytes]] = defaultdict(list)
        self._settle(events)
        (self._directory / f"state.{domid}").write_text("0")
        return dict(events)

    def _settle(self, events: dict[int, list[bytes]]) -> None:
        for domid in DOMIDS:
            if self._words[domid][_SERVER_FEATURES]:
                self._drain(domid, events)
        for _ in range(2):  # GET_DOMAIN_PATH changes nothing, and goes through the same loop as events do
            self._put(0, Packet(10, b"0\0", 0xFFFFFFFF).encode())
            self._collect(0, events)
        for domid in DOMIDS:
            self._drain(domid, events)

    def _collect(self, domid: int, events: dict[int, list[bytes]]) -> Packet:
        found: list[Packet] = []

        def arrived() -> bool:
            found.extend(self._drain(domid, events))
            return bool(found)

        self._wait(arrived)
        (answer,) = found
        return answer

    def _drain(self, domid: int, events: dict[int, list[bytes]]) -> list[Packet]:
        """Take all that is in a ring; the replies among it."""
        ring, words, reader, answers = self._rings[domid], self._words[domid], self._readers[domid], []
        consumer, producer = words[_RSP_CONS], words[_RSP_PROD]
        count = (producer - consumer) % (1 << 32)
        if count:
            reader.feed(bytes(ring[_RSP + (consumer + i) % XENSTORE_RING_SIZE] for i in range(count)))
            words[_RSP_CONS] = producer
            self._signal(100 + domid)
        while (packet := reader.next_packet()) is not None:
            if packet.type == XS_WATCH_EVENT:
                events[domid].append(packet.payload)
            else:
                answers.append(packet)
        return answers

    def _put(self, domid: int, data: bytes) -> None:
        ring, words = self._rings[domid], self._words[domid]
        while data:
            self._wait(lambda: words[_REQ_PROD] - words[_REQ_CONS] < XENSTORE_RING_SIZE)
            consumer, producer = words[_REQ_CONS], words[_REQ_PROD]
            piece = data[: XENSTORE_RING_SIZE - (producer - consumer)]
            for i, byte in enumerate(piece):
                ring[(producer + i) % XENSTORE_RING_SIZE] = byte
            words[_REQ_PROD] = producer + len(piece)
            self._signal(100 + domid)
            data = data[len(piece) :]

    def _signal(self, port: int) -> None:
        os.write(self._events, struct.pack("<I", port))

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert self._process.poll() is None, (self._directory / "errors").read_text()
            assert time.monotonic() < deadline, "oxenstored does not answer"
            time.sleep(0.0002)


def _map(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 4096)
