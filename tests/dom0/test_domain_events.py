"""Daemons of Domain 0 and the ends of domains: whoever destroys a domain, they let go of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from uuid import uuid4

import kernels
import pytest

from euxen.abi.io import xs_wire
from euxen.abi.io.console import XenconsInterface
from euxen.dom0.console.ring import ConsoleRing
from euxen.dom0.domain_events import Fate
from euxen.dom0.xenstore import Connection, Packet, reply
from euxen.toolstack.create import RunningDomain, create, destroy
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.request import Request

PATIENCE = 20.0


@pytest.fixture
def host(native: None) -> Iterator[Host]:
    """A machine; after the test nobody is left on it and no frame is missing."""
    host = Host(memory_for(2 * kernels.DEFAULT_MEMORY))
    free = host.machine.record["free_pages"]
    yield host
    for domain in host.hypervisor.domains[1:]:
        destroy(host, domain.domid)
    assert host.machine.record["free_pages"] == free


def make(host: Host, guest: str = "shut_down", reason: str = "0") -> RunningDomain:
    """A guest that shuts itself down, not yet let go."""
    image, command_line = kernels.build("sched"), f"{guest} {reason}"
    return create(host, Request("guest", image, b"", command_line, kernels.DEFAULT_MEMORY, uuid4()), lambda: None)


def watch_releases(host: Host) -> Connection:
    """A tool that watches for ends of domains."""
    with host.machine.lock:
        tool = host.services.store.connect()
        reply(host.services.store, tool, Packet(xs_wire.XS_WATCH, b"@releaseDomain\0token\0"))
        host.services.store.deliver()
        tool.data_to_send(1 << 20)
    return tool


def events(tool: Connection) -> int:
    """How many events there are for a tool."""
    return tool.data_to_send(1 << 20).count(b"@releaseDomain")


def wait_until(host: Host, condition: Callable[[], bool]) -> bool:
    """Wait until something has come of what VIRQ_DOM_EXC tells."""
    changed = threading.Event()
    with host.services.watching_domains(changed.set):
        for _ in range(200):
            with host.machine.lock:
                if condition():
                    return True
            changed.wait(PATIENCE / 200)
            changed.clear()
    return False


def test_a_domain_that_somebody_else_destroys(host: Host) -> None:
    """Not by the tools that made it: the daemons hear of it from Xen."""
    domid = make(host).domid
    tool = watch_releases(host)
    free = host.machine.record["free_pages"]
    host.control.destroy_domain(domid)
    assert wait_until(host, lambda: domid not in host.services.consoles and domid not in host.services.store.domains)
    assert events(tool) == 1
    assert host.services.domain_events.fate_of(domid) is Fate.GONE
    assert host.machine.record["free_pages"] >= free + kernels.DEFAULT_MEMORY // 4096


def test_a_domain_that_ends_itself_is_told_of_once(host: Host) -> None:
    domid = make(host).domid
    tool = watch_releases(host)
    assert host.services.domain_events.fate_of(domid) is Fate.ALIVE
    host.control.unpause_domain(domid)
    assert wait_until(host, lambda: host.services.store.domains[domid].shut_down)
    assert events(tool) == 1
    assert host.services.domain_events.fate_of(domid) is Fate.SHUT_DOWN
    host.services.domain_events.tell()
    assert events(tool) == 0
    destroy(host, domid)
    assert events(tool) == 1
    assert domid not in host.services.consoles


def test_one_of_two(host: Host) -> None:
    """Who listens goes on listening for the other."""
    first, second = make(host).domid, make(host).domid
    destroy(host, first)
    assert set(host.services.consoles) == {second}
    host.control.destroy_domain(second)
    assert wait_until(host, lambda: not host.services.consoles and second not in host.services.store.domains)


def test_last_words() -> None:
    """What a guest wrote before its end can still be read, once, and its page is not looked at any more."""
    page = bytearray(4096)
    ring = ConsoleRing(memoryview(page), lambda: None)
    out = XenconsInterface.offsets["out"]
    page[out : out + 4] = b"last"
    page[XenconsInterface.offsets["out_prod"]] = 4
    ring.close()
    page[out : out + 4] = b"XXXX"
    assert ring.receive() == b"last"
    assert ring.receive() == b""
    assert ring.send(b"who is there?") == 13
    page.clear()  # nobody holds on to it
