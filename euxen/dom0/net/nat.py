"""From a bridge to the world through passt, without any right: passt(1), Debian's package of that name.

Each guest has a passt of its own, as passt serves one guest with one address. It is a child process at the other end
of a Unix socket. It answers DHCP, and ARP for every address but its guest's: so it is given only what is meant for the
gateway, and guests reach each other by themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import IO

from euxen.cpu.native.memory import Memory, Record
from euxen.dom0.net import echo, stream
from euxen.dom0.net.coalescing import coalesce
from euxen.dom0.net.copying import Copier
from euxen.dom0.net.lan import Lan, LanLock, Port
from euxen.dom0.net.packet import ETH_HLEN, STRIDE, NetPacket, NetPiece, own_packet, word_at
from euxen.hypervisor.control import Control

NETWORK = IPv4Network("10.0.2.0/24")
GATEWAY, NAMESERVER, FIRST_GUEST = NETWORK[2], NETWORK[3], NETWORK[15]
"""As with QEMU's user networking, which people know. Connections to the gateway reach the host's loopback."""
GATEWAY_WORD = int.from_bytes(GATEWAY.packed, "little")
GATEWAY_MAC = bytes.fromhex("020010000202")
MTU = 1500
STREAM_ORDER = 5
"""128 KiB: more than one frame of any size."""
FRAMES_AT_ONCE = 64
MAX_PENDING = 4 << 20
"""Bytes that wait for a passt that does not read; what comes then is lost."""
SETTLING = 0.3
"""Seconds in which it notices that ports are taken."""
PATIENCE = 5.0
"""Seconds that passt has to end by itself."""
MISSING = (
    "passt is not on this host, so guests on {bridge} reach each other and nobody else; "
    "install Debian's package passt, or your system's equivalent"
)
ARP_REQUEST = bytes.fromhex("08060001080006040001")
IPV4_TYPE = bytes.fromhex("0800")
UDP, DHCP_SERVER = 17, 67


class NatError(Exception):
    """passt cannot be started: one sentence."""


class NatMissing(NatError):
    """There is no passt; everything else works without."""


@dataclass(frozen=True)
class Forward:
    """A port of the host's that leads to a guest."""

    protocol: str
    """"tcp" or "udp"."""
    host_port: int
    guest_port: int


def passt_command(fd: int, address: IPv4Address, forwards: Sequence[Forward]) -> list[str]:
    """How passt is started, with one end of a socket pair."""
    options = [f"--fd={fd}", "--foreground", "--quiet", "--ipv4-only", f"--mtu={MTU}"]
    options += [f"--address={address}", f"--netmask={NETWORK.prefixlen}", f"--gateway={GATEWAY}"]
    options += [f"--mac-addr={GATEWAY_MAC.hex(':')}", f"--dns={NAMESERVER}", f"--dns-forward={NAMESERVER}"]
    for forward in forwards:
        options.append(f"--{forward.protocol}-ports={forward.host_port}:{forward.guest_port}")
    return ["passt", *options]


def is_for_gateway(frame: bytes) -> bool:
    """Whether a frame that is for a group is one that the gateway answers: ARP for it, or DHCP."""
    kind = frame[12:14]
    if frame[12:22] == ARP_REQUEST:
        return frame[38:42] in (GATEWAY.packed, NAMESERVER.packed)
    if kind != IPV4_TYPE or len(frame) < ETH_HLEN + 20:
        return False
    transport = ETH_HLEN + (frame[ETH_HLEN] & 15) * 4
    return frame[ETH_HLEN + 9] == UDP and frame[transport + 2 : transport + 4] == DHCP_SERVER.to_bytes(2, "big")


class Passt:
    """One child process, and the stream of frames to and from it."""

    def __init__(
        self,
        control: Control,
        received: Callable[[int, int], None],
        lock: LanLock,
        log: Callable[[str], None],
        command: Callable[[int], Sequence[str]],
    ) -> None:
        """``received`` is given batches, with ``lock``. ``command`` is for the descriptor that the child inherits.

        Raises NatError or XenError.
        """
        self._control, self._received, self._lock, self._log = control, received, lock, log
        self._messages: IO[bytes] = os.fdopen(os.memfd_create("passt", os.MFD_CLOEXEC), "rb")
        self._socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with child:
            try:
                self._process = subprocess.Popen(
                    command(child.fileno()),
                    pass_fds=[child.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._messages,
                )
            except OSError as error:
                self._socket.close()
                raise NatError(f"passt cannot be started ({error.strerror})") from error
        self._copiers = Copier(control), Copier(control)
        self._areas = control.allocate_pages(STREAM_ORDER), control.allocate_pages(STREAM_ORDER)
        self._packets = Memory(FRAMES_AT_ONCE * NetPacket.size)
        self._pieces = Memory(FRAMES_AT_ONCE * NetPiece.size)
        self._in, self._out = self._stream(0), self._stream(1)
        self._pending = bytearray()
        self.lost = 0
        """Packets that passt did not take in time."""
        self._may_send = threading.Event()
        self._closed = False
        self._threads = [
            threading.Thread(target=run, name="euxen-passt", daemon=True) for run in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def _stream(self, number: int) -> Record:
        record = Record(stream.StreamRecord)
        record["copier"], record["area"] = self._copiers[number].address, self._areas[number].machine_address
        record["size_"], record["packets"] = self._areas[number].size, self._packets.address
        record["most"] = FRAMES_AT_ONCE
        return record

    def send(self, packets: int, count: int) -> None:
        """Give passt packets. With the lock."""
        memory = self._areas[1].memory
        while count and not self._closed:
            self._out["at"] = 0
            done = stream.write(self._out.address, packets, count)
            if not self._put(memory[: self._out["at"]]):
                self.lost += done
            packets += done * STRIDE
            count -= done

    def _put(self, data: memoryview) -> bool:
        """Write to the socket what it takes, and have the rest wait."""
        if len(self._pending) > MAX_PENDING:
            return False
        sent = 0
        if not self._pending:
            try:
                sent = self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except OSError:
                return False  # it has ended, and _read says so
        if sent < len(data):
            self._pending += data[sent:]
            self._may_send.set()
        return True

    def _write(self) -> None:
        """Write what waits, in a thread of its own."""
        while self._may_send.wait() and not self._closed:
            with self._lock:
                data = bytes(self._pending[: 1 << 16])
                if not data:
                    self._may_send.clear()
                    continue
            try:
                sent = self._socket.send(data)
            except OSError:
                return
            with self._lock:
                del self._pending[:sent]

    def _read(self) -> None:
        """Hand frames on as they come, in a thread of its own."""
        memory, record = self._areas[0].memory, self._in
        have = 0
        while True:
            try:
                count = self._socket.recv_into(memory[have:])
            except OSError:
                return
            if not count:
                break
            have += count
            record["size_"], record["at"] = have, 0
            if not self._parse():
                break
            rest = have - record["at"]
            ctypes.memmove(self._areas[0].address, self._areas[0].address + record["at"], rest)
            have = rest
        if not self._closed:
            self._closed = True
            self._log(f"passt has ended{self.last_words()}")

    def _parse(self) -> bool:
        """Hand on the frames that are whole; whether the stream makes sense."""
        while count := stream.parse(self._in.address):
            if count < 0:
                return False
            count = coalesce(self._packets.address, count, self._pieces.address)
            with self._lock:
                if self._closed:
                    return False
                self._received(self._packets.address, count)
        return True

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends, because it cannot do what it is asked for."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """What it said last, behind a colon."""
        self._messages.seek(0)
        lines = self._messages.read(1 << 16).decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip() and "syslog" not in line]
        return f": {said[-1]}" if said else ""

    def close(self) -> None:
        """End it. Without the lock."""
        with self._lock:
            self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._may_send.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()
        for area in self._areas:
            self._control.free_pages(area)


class NatPort(Port):
    """The gateway of a bridge: a passt for each of the other ports."""

    def __init__(self, control: Control, lan: Lan, log: Callable[[str], None]) -> None:
        self.name = "nat"
        self._control, self._lan, self._log = control, lan, log
        self._passts: dict[Port, Passt] = {}
        self._addresses: dict[Port, IPv4Address] = {}

    def attach(self, port: Port, forwards: Sequence[Forward] = ()) -> IPv4Address:
        """Serve a port; the address that it is told by DHCP. Raises NatError or XenError."""
        if shutil.which("passt") is None:
            raise NatMissing(MISSING.format(bridge=self._lan.name))
        taken = set(self._addresses.values())
        address = next((a for a in NETWORK.hosts() if a >= FIRST_GUEST and a not in taken), None)
        if address is None:
            raise NatError(f"{self._lan.name} has no address left for {port.name}")
        passt = Passt(
            self._control,
            lambda packets, count: self._lan.receive(self, packets, count),
            self._lan.lock,
            lambda line: self._log(f"{port.name}: {line}"),
            lambda fd: passt_command(fd, address, forwards),
        )
        if forwards and passt.ends_within(SETTLING):
            words = passt.last_words()
            passt.close()
            raise NatError(f"passt cannot forward ports{words}")
        with self._lan.lock:
            self._passts[port], self._addresses[port] = passt, address
        return address

    def _echo(self, request: int) -> None:
        """Answer a ping of the gateway: passt can't everywhere (net.ipv4.ping_group_range)."""
        shop = self._lan.workshop
        size = shop.bring(request)
        if size and echo.reply(shop.address, size):
            own_packet(shop.packets, shop.machine_address, shop.address, size, 0)
            self._lan.receive(self, shop.packets, 1)

    def detach(self, port: Port) -> None:
        """Serve a port no more, if it was served."""
        with self._lan.lock:
            passt = self._passts.pop(port, None)
            self._addresses.pop(port, None)
        if passt is not None:
            passt.close()

    def send(self, packets: int, count: int, source: Port) -> None:
        """To the world, or to the gateway itself."""
        passt = self._passts.get(source)
        if passt is None:
            return
        header = word_at(packets, NetPacket.header)
        if ctypes.string_at(header, 6) == GATEWAY_MAC:
            while count:
                others = echo.next_request(packets, count, GATEWAY_WORD)
                passt.send(packets, others)
                packets += others * STRIDE
                count -= others
                if count:
                    self._echo(packets)
                    packets += STRIDE
                    count -= 1
            return
        for number in range(count):
            packet = packets + number * STRIDE
            header, size = word_at(packet, NetPacket.header), word_at(packet, NetPacket.header_size)
            if ctypes.c_uint8.from_address(header).value & 1 and is_for_gateway(ctypes.string_at(header, size)):
                passt.send(packet, 1)
