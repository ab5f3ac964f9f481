"""The stream to passt and from it, against a stand-in; what is for the gateway; pings of it."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest
from frames import ICMP, MAC_A, TCP, UDP, HostBytes, checksum, ethernet, ipv4, tcp, udp
from grant_guest import new_hypervisor

from euxen.cpu.native.memory import Memory
from euxen.dom0.net import echo
from euxen.dom0.net.lan import Lan, Port
from euxen.dom0.net.nat import (
    GATEWAY,
    GATEWAY_MAC,
    GATEWAY_WORD,
    NAMESERVER,
    Forward,
    NatError,
    Passt,
    is_for_gateway,
    passt_command,
)
from euxen.dom0.net.packet import OWN, STRIDE, NetPacket, own_packet, word_at
from euxen.hypervisor.control import Control

pytestmark = pytest.mark.usefixtures("native")

STAND_IN = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
{}
"""
ECHO = """
while data := sock.recv(1 << 16):
    sock.sendall(data)
"""
DRIP = """
data = b""
while len(data) < int(sys.argv[2]):
    data += sock.recv(1 << 16)
for n in range(0, len(data), 5):
    sock.send(data[n : n + 5])
sock.recv(1)
"""
PATIENCE = 30.0


class Machine:
    """Domain 0 and packets of its own."""

    def __init__(self) -> None:
        self.hypervisor = new_hypervisor()
        self.free = self.hypervisor.machine.record["free_pages"]
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.lan = Lan(self.control, "xenbr0")
        self.got: list[bytes] = []
        self.changed = threading.Condition()
        self.said: list[str] = []
        self._pages = self.control.allocate_pages(6)
        self._packets = Memory(64 * NetPacket.size)

    def received(self, packets: int, count: int) -> None:
        with self.changed:
            for packet in range(packets, packets + count * STRIDE, STRIDE):
                assert word_at(packet, NetPacket.granter) == OWN
                header, size = word_at(packet, NetPacket.header), word_at(packet, NetPacket.size_)
                self.got.append(ctypes.string_at(header, size))
            self.changed.notify_all()

    def log(self, line: str) -> None:
        with self.changed:
            self.said.append(line)
            self.changed.notify_all()

    def start(self, program: str, *arguments: str) -> Passt:
        def command(fd: int) -> list[str]:
            return [sys.executable, "-c", STAND_IN.format(program), str(fd), *arguments]

        return Passt(self.control, self.received, self.lan.lock, self.log, command)

    def packets(self, frames: list[bytes], flags: int = 0) -> tuple[int, int]:
        """A batch with frames."""
        at = 0
        for number, frame in enumerate(frames):
            self._pages.memory[at : at + len(frame)] = frame
            packet = self._packets.address + number * STRIDE
            own_packet(packet, self._pages.machine_address + at, self._pages.address + at, len(frame), flags)
            at += len(frame)
        return self._packets.address, len(frames)

    def send(self, passt: Passt, frames: list[bytes], flags: int = 0) -> None:
        with self.lan.lock:
            passt.send(*self.packets(frames, flags))

    def expect(self, frames: list[bytes]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= len(frames), PATIENCE), len(self.got)
            assert self.got == frames

    def close(self) -> None:
        self.control.free_pages(self._pages)
        self.lan.close()
        assert self.hypervisor.machine.record["free_pages"] == self.free


@pytest.fixture
def machine() -> Iterator[Machine]:
    """It has as many pages afterwards as before."""
    machine = Machine()
    yield machine
    machine.close()


def frame(number: int, size: int) -> bytes:
    return GATEWAY_MAC + MAC_A + struct.pack(">HI", 0x88B5, number) + bytes([number & 0xFF]) * (size - 18)


def test_frames_there_and_back(machine: Machine) -> None:
    passt = machine.start(ECHO)
    frames = [frame(number, 18 + number * 97) for number in range(40)]
    machine.send(passt, frames)
    machine.expect(frames)
    passt.close()
    assert machine.said == []


def test_frames_in_pieces(machine: Machine) -> None:
    frames = [frame(number, 18 + number * 13) for number in range(20)]
    passt = machine.start(DRIP, str(sum(len(f) + 4 for f in frames)))
    machine.send(passt, frames)
    machine.expect(frames)
    passt.close()


def test_the_largest_frames(machine: Machine) -> None:
    passt = machine.start(ECHO)
    frames = [frame(number, 0xFFFF) for number in range(3)]
    machine.send(passt, frames)
    machine.expect(frames)
    passt.close()


def test_more_than_a_socket_takes(machine: Machine) -> None:
    """What the child does not read yet waits, in its order; and then it is lost."""
    passt = machine.start("import time; time.sleep(0.5)\n" + ECHO)
    frames = [frame(number, 60000) for number in range(4)]
    for _ in range(15):
        machine.send(passt, frames)
    machine.expect(frames * 15)
    assert passt.lost == 0
    passt.close()
    machine.got.clear()
    deaf = machine.start("import time; time.sleep(60)")
    for _ in range(40):
        machine.send(deaf, frames)
    assert 0 < deaf.lost < 160
    deaf.close()


def test_blank_checksums_are_filled_in(machine: Machine) -> None:
    passt = machine.start(ECHO)
    blank = ethernet(ipv4(TCP, tcp(b"something")), GATEWAY_MAC)
    machine.send(passt, [blank], flags=1)
    with machine.changed:
        assert machine.changed.wait_for(lambda: machine.got, PATIENCE)
    (got,) = machine.got
    transport = got[34:]
    assert checksum(got[26:34] + struct.pack(">BBH", 0, TCP, len(transport)) + transport) == 0
    assert got[:50] == blank[:50]
    passt.close()


@pytest.mark.parametrize("size", [13, 0x10000, 0xFFFF_FFFF])
def test_nonsense_ends_it(machine: Machine, size: int) -> None:
    passt = machine.start(f"sock.sendall(({size}).to_bytes(4, 'big') + bytes(100)); sock.recv(1)")
    with machine.changed:
        assert machine.changed.wait_for(lambda: machine.said, PATIENCE)
    assert machine.said == ["passt has ended"]
    machine.send(passt, [frame(1, 60)])
    passt.close()


def test_its_last_words(machine: Machine) -> None:
    passt = machine.start("print('Failed to send 3 bytes to syslog', 'no way\\n', file=sys.stderr, sep='\\n')")
    with machine.changed:
        assert machine.changed.wait_for(lambda: machine.said, PATIENCE)
    assert machine.said == ["passt has ended: no way"]
    assert passt.ends_within(PATIENCE)
    passt.close()


def test_what_cannot_be_started(machine: Machine) -> None:
    with pytest.raises(NatError, match=r"passt cannot be started \(No such file or directory\)"):
        Passt(machine.control, machine.received, machine.lan.lock, machine.log, lambda fd: ["/nowhere/passt"])


def test_command() -> None:
    command = passt_command(7, GATEWAY + 13, [Forward("tcp", 2222, 22), Forward("udp", 53, 5353)])
    assert command[0] == "passt"
    assert {"--fd=7", "--address=10.0.2.15", "--gateway=10.0.2.2", "--tcp-ports=2222:22"} < set(command)
    assert "--udp-ports=53:5353" in command


def arp(target: bytes, operation: int = 1) -> bytes:
    return b"\xff" * 6 + MAC_A + struct.pack(">HHHBBH", 0x0806, 1, 0x800, 6, 4, operation) + bytes(16) + target


def dhcp(port: int = 67, protocol: int = UDP) -> bytes:
    return ethernet(ipv4(protocol, struct.pack(">HHHH", 68, port, 8, 0)), b"\xff" * 6)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (arp(GATEWAY.packed), True),
        (arp(NAMESERVER.packed), True),
        (arp(socket.inet_aton("10.0.2.16")), False),
        (arp(GATEWAY.packed, operation=2), False),
        (dhcp(), True),
        (dhcp(68), False),
        (dhcp(protocol=TCP), False),
        (dhcp()[:30], False),
        (b"\xff" * 6 + MAC_A, False),
    ],
    ids=["ARP", "ARP of DNS", "ARP of a guest", "ARP reply", "DHCP", "to a client", "TCP", "cut", "short"],
)
def test_who_answers_what_is_for_all(data: bytes, expected: bool) -> None:
    """passt answers for every address; so it must not hear of those that guests have."""
    assert is_for_gateway(data) is expected


def ping(size: int, kind: int = 8, target: bytes = GATEWAY.packed, fragment: int = 0) -> bytes:
    message = struct.pack(">BBHHH", kind, 0, 0, 99, 5) + bytes(range(256)) * 6
    message = message[: 8 + size]
    message = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
    packet = ipv4(ICMP, message, fragment=fragment)
    packet = packet[:16] + target + packet[20:]
    packet = packet[:10] + b"\0\0" + packet[12:]
    return ethernet(packet[:10] + struct.pack(">H", checksum(packet[:20])) + packet[12:], GATEWAY_MAC)


@pytest.mark.parametrize("size", [0, 1, 56, 1400])
def test_pings_are_answered(size: int) -> None:
    request = ping(size)
    memory = HostBytes(request + bytes(4))
    assert echo.is_request(memory.address, memory.size, GATEWAY_WORD) == 1
    assert echo.reply(memory.address, memory.size) == 1
    answer = bytes(memory)[:-4]
    assert answer[:12] == MAC_A + GATEWAY_MAC
    assert answer[26:34] == request[30:34] + request[26:30]
    assert checksum(answer[14:34]) == checksum(answer[34:]) == 0
    assert answer[34] == 0 and answer[38:] == request[38:]


@pytest.mark.parametrize(
    "data",
    [ping(56, kind=0), ping(56, target=NAMESERVER.packed), ping(56, fragment=1), ethernet(ipv4(UDP, udp(b"x" * 60)))],
)
def test_what_is_no_ping(data: bytes) -> None:
    memory = HostBytes(data)
    assert echo.is_request(memory.address, memory.size, GATEWAY_WORD) == 0


class Elsewhere(Port):
    """A port that keeps nothing."""

    name = "elsewhere"

    def send(self, packets: int, count: int, source: Port) -> None:
        """It does not come back."""


def test_what_is_remembered_natively_is_forgotten_in_time(machine: Machine) -> None:
    """The generation changes with what the bridge knows, and with nothing else."""
    now = [0.0]
    lan = Lan(machine.control, "br1", clock=lambda: now[0])
    first, second = Elsewhere(), Elsewhere()
    lan.add(first)
    lan.add(second)
    with lan.lock:
        lan.receive(first, *machine.packets([frame(1, 60)]))
    generation = lan.record["generation"]
    now[0] = 10.0
    with lan.lock:
        lan.receive(first, *machine.packets([frame(1, 60)]))
    assert lan.record["generation"] == generation
    lan.remove(first)
    assert lan.record["generation"] > generation
    lan.remove(second)
    lan.close()
