"""Debian's own network front end on our back end: to the world through passt, and from guest to guest."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import run

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.hypervisor.audit import audit
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.create import RunningDomain, create, destroy
from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.initramfs import Entry, newc
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.request import request_for

MIB = 1 << 20
MEMORY = 192
PATIENCE = 180.0
"""Seconds for what takes a few when the host has nothing else to do."""

pytestmark = pytest.mark.usefixtures("native")

DHCP = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
"""


def files_with(guest: DebianGuest, path: Path, script: str | None) -> Path:
    """A RAM disk with a script for udhcpc, and perhaps one that is run instead of a shell."""
    entries = [Entry("etc", stat.S_IFDIR | 0o755), Entry("bin/dhcp", stat.S_IFREG | 0o755, DHCP.encode())]
    if script is not None:
        entries.append(Entry("script", stat.S_IFREG | 0o755, script.encode()))
    path.write_bytes(guest.initramfs.read_bytes() + newc(entries))
    return path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The port of a server on the host's loopback that serves ``tmp_path``."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


WORLD = """
set -x
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -n -q -t 10 -s /bin/dhcp
ip -o -4 addr show dev eth0 scope global
ip route
ping -c 3 -W 5 10.0.2.2
wget -q -O /tmp/data http://10.0.2.2:{port}/data && sha256sum /tmp/data
dmesg | grep -i -e 'xen_netfront: ' -e 'backend supports'
nc -l -p 22 > /tmp/said < /bin/dhcp & echo "listening"
wait; cat /tmp/said
"""


def test_the_world(debian_cloud: DebianGuest, tmp_path: Path, server: int) -> None:
    """DHCP, pings of the gateway, a download from the host, a port of the host's that leads to the guest, a capture."""
    if shutil.which("passt") is None:
        pytest.fail("this test needs passt", pytrace=False)
    data = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(6 * MIB // 32))
    (tmp_path / "data").write_bytes(data)
    ramdisk = files_with(debian_cloud, tmp_path / "ramdisk", WORLD.format(port=server))
    config = tmp_path / "guest.cfg"
    config.write_text(
        f"name='net'\nkernel='{debian_cloud.kernel}'\nramdisk='{ramdisk}'\nextra='console=hvc0 quiet'\n"
        f"memory={MEMORY}\nvif=['bridge=xenbr0,mac=00:16:3e:12:34:56']\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said: list[bytes] = []
    caller = threading.Thread(target=_call, args=(port, said), daemon=True)
    caller.start()
    capture = tmp_path / "bridge.pcap"
    done = run("run", str(config), "--forward", f"tcp:{port}:22", "--pcap", str(capture), "--log")
    console = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    assert done.returncode == 0, console + done.stderr.decode()
    assert "lease of 10.0.2.15 obtained from 10.0.2.2" in console, console
    assert "inet 10.0.2.15/24" in console and "default via 10.0.2.2 dev eth0" in console
    assert "3 packets transmitted, 3 packets received, 0% packet loss" in console, console
    assert f"{hashlib.sha256(data).hexdigest()}  /tmp/data" in console, console
    assert "hello from outside" in console
    caller.join(PATIENCE)
    assert b"".join(said) == DHCP.encode()
    assert not re.search(r"BUG|WARNING|Oops|Call Trace", console)
    seen = subprocess.run(["tcpdump", "-n", "-r", capture], capture_output=True, text=True, check=True).stdout
    assert "BOOTP/DHCP, Request from 00:16:3e:12:34:56" in seen
    assert "10.0.2.2 > 10.0.2.15: ICMP echo reply" in seen
    assert seen.count(f"10.0.2.2.{server} > 10.0.2.15") > len(data) // 65536


def _call(port: int, said: list[bytes]) -> None:
    """Connect to the guest, once it listens."""
    while not said:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
                connection.sendall(b"hello from outside\n")
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(1 << 16):
                    said.append(data)
        except OSError:
            threading.Event().wait(0.2)


class Debian:
    """A guest with a shell on its console."""

    def __init__(self, host: Host, files: DebianGuest, ramdisk: Path, name: str, vif: str) -> None:
        self._said = ""
        self._changed = threading.Condition(host.machine.lock)
        text = (
            f"name='{name}'\nkernel='{files.kernel}'\nramdisk='{ramdisk}'\nextra='console=hvc0 quiet'\n"
            f"memory={MEMORY}\nvif=['{vif}']\n"
        )
        self._running: RunningDomain | None = None
        self._running = create(host, request_for(DomainConfig.from_text(text, "test")), self._listen)
        self.domid = self._running.domid
        host.control.unpause_domain(self.domid)

    def _listen(self) -> None:
        with self._changed:
            if self._running is not None:
                self._said += self._running.console.receive().decode(errors="replace")
            self._changed.notify_all()

    def type(self, text: str) -> None:
        """Type on its console."""
        with self._changed:
            assert self._running is not None and self._running.console.send(text.encode()) == len(text)

    def expect(self, text: str) -> str:
        """Wait until it has said something; all that it said until then, since the last time."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in self._said, PATIENCE), self._said
            said, self._said = self._said.split(text, 1)
        return said

    def do(self, command: str) -> str:
        """What a command says."""
        self.type(f"{command}; echo fini''shed\n")
        self.expect("\n")
        return self.expect("finished").replace("\r\n", "\n")


TRAFFIC = 64 * MIB


def test_guests_on_a_bridge(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    """They ping each other and send data both ways; one that is rate-limited works, too."""
    ramdisk = files_with(debian_cloud, tmp_path / "ramdisk", None)
    host = Host(memory_for(2 * MEMORY * MIB, 2))
    free = host.machine.record["free_pages"]
    vifs = "bridge=br1", "bridge=br1,rate=800Mb/s"
    guests = [Debian(host, debian_cloud, ramdisk, f"debian{n}", vif) for n, vif in enumerate(vifs)]
    for number, guest in enumerate(guests):
        guest.expect("# ")
        guest.do(f"ip addr add 10.9.9.{number + 1}/24 dev eth0; ip link set eth0 up")
    for number, guest in enumerate(guests):
        said = guest.do(f"ping -c 4 -i 0.2 -W 10 10.9.9.{2 - number}")
        assert "4 packets received, 0% packet loss" in said, said
    data = debian_cloud.busybox.read_bytes()
    times = TRAFFIC // len(data) + 1
    expected = hashlib.sha1(data * times).hexdigest()
    for address in (2, 1):
        receiver, sender = guests[address - 1], guests[2 - address]
        receiver.type("nc -l -p 5000 | sha1sum; echo recei''ved\n")
        receiver.expect("\n")
        sender.do("sleep 1")
        sender.do(f"for i in $(seq {times}); do cat /bin/busybox; done | nc 10.9.9.{address} 5000")
        assert expected in receiver.expect("received")
    for guest in guests:
        counters = guest.do("cat /sys/class/net/eth0/statistics/[rt]x_errors; dmesg | grep -c -e BUG -e WARNING")
        assert counters.split()[-3:] == ["0", "0", "0"], counters
        guest.type("poweroff -f\n")
    domains = [host.hypervisor.find(guest.domid) for guest in guests]
    changed = threading.Event()
    with host.services.watching_domains(changed.set):
        while not all(domain is not None and domain.is_shut_down for domain in domains):
            assert changed.wait(PATIENCE)
            changed.clear()
    assert [domain and domain.shutdown_code for domain in domains] == [SHUTDOWN_poweroff] * 2
    assert audit(host.hypervisor) == []
    for guest in guests:
        destroy(host, guest.domid)
    assert host.services.backends.devices == [] and host.services.networks.lans == {}
    assert host.machine.record["free_pages"] == free
