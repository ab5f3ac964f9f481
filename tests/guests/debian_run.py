"""Debian in a guest that runs in the tests' own process: what its script says, and what its disks are asked."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from pathlib import Path

from euxen.dom0.backends.block.backend import block_drivers
from euxen.dom0.storage import Storage, open_storage
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.create import create, destroy, request_for
from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.initramfs import Entry, newc
from euxen.toolstack.machine import Host, memory_for

PATIENCE = 180.0
"""Seconds after which a guest that does not end is stopped, and its test fails."""
Opening = Callable[[str, str, bool], Storage]


def ramdisk_with(guest: DebianGuest, script: str, path: Path) -> Path:
    """A RAM disk that runs a script and powers off."""
    entry = Entry("script", stat.S_IFREG | 0o755, script.encode())
    path.write_bytes(guest.initramfs.read_bytes() + newc([entry]))
    return path


def run_debian(
    guest: DebianGuest,
    script: str,
    scratch: Path,
    *disks: str,
    opening: Opening = open_storage,
    told: Callable[[str], None] = lambda console: None,
    log: Callable[[bytes], None] = lambda text: None,
    memory: int = 256,
    extra: str = "",
) -> str:
    """Run a script in a guest with disks, and return its console.

    ``told`` is called with all of it so far whenever there is more, in another thread; ``log`` with Domain 0's words.
    """
    ramdisk = ramdisk_with(guest, script, scratch / "initramfs.cpio")
    lines = [
        "name='disks'",
        f"kernel='{guest.kernel}'",
        f"ramdisk='{ramdisk}'",
        f"extra='console=hvc0 quiet {extra}'",
        f"memory={memory}",
        f"disk={list(disks)}",
    ]
    request = request_for(DomainConfig.from_text("\n".join(lines) + "\n", "test"))
    host = Host(memory_for(request.most_memory))
    host.hypervisor.domain0.console_write = log
    services = host.services
    services.backends.drivers.update(block_drivers(host.control, services.events, services.log, opening))
    console = bytearray()

    def receive() -> None:
        for ring in services.consoles.values():
            console.extend(ring.receive())
        told(console.decode(errors="replace").replace("\r\n", "\n"))

    running = create(host, request, receive)
    ended = threading.Event()
    with services.watching_domains(ended.set):
        host.control.unpause_domain(running.domid)
        assert ended.wait(PATIENCE), console.decode(errors="replace")
        host.control.pause_domain(running.domid)
    with host.machine.lock:
        receive()
    destroy(host, running.domid)
    assert services.backends.devices == []
    return console.decode(errors="replace").replace("\r\n", "\n")
