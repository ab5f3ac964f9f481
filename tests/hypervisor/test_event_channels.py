"""Event channels between guests that run at the same time, and more of them than the two-level ABI has."""

from __future__ import annotations

import threading
import time
from uuid import uuid4

import pytest
from kernels import DEFAULT_MEMORY, PATIENCE, boot, build, run

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.toolstack.create import RunningDomain, create, destroy
from euxen.toolstack.errors import UserError
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.request import Request

CHANNELS = 16


def test_more_ports_than_the_two_level_abi_has() -> None:
    outcome = boot("fifo", "many_ports", max_event_channels=10000)
    assert (outcome.xen_console, outcome.shutdown_code) == ("done", SHUTDOWN_poweroff), outcome.console
    assert outcome.frames_lost == 0


def test_too_few_ports_for_the_console() -> None:
    with pytest.raises(UserError, match=r"1 event channel at most \(max_event_channels\); .* need 2"):
        boot("events", "upcall", max_event_channels=1)
    assert boot("events", "close_of_one_end", max_event_channels=3).console.endswith("FAIL close_of_one_end\n")


def test_pages_are_held_until_ports_are_reset() -> None:
    outcome = boot("fifo", "pages_stay_writable_pages")
    assert (outcome.console, outcome.xen_console) == ("", "")
    assert (outcome.shutdown_code, outcome.frames_lost) == (SHUTDOWN_poweroff, 0)


class Pair:
    """Two guests of one machine that have channels with each other."""

    def __init__(self, test: str) -> None:
        self.test = test
        self.host = Host(memory_for(3 * DEFAULT_MEMORY))
        self.free_before = self.host.machine.record["free_pages"]
        self.said: dict[int, bytearray] = {}
        self.domains: list[RunningDomain] = []
        # Ports are given from the lowest: behind those of xenstore and the console.
        self.domains = [self._create("2 3 0"), self._create("1 0 3")]
        self.known = {domain.domid: domain for domain in self.host.hypervisor.domains}
        listener, binder = (running.domid for running in self.domains)
        assert (listener, binder) == (1, 2)
        ports = [self.host.control.alloc_unbound(listener, binder) for _ in range(CHANNELS)]
        assert ports == list(range(3, 3 + CHANNELS))

    def _create(self, roles: str) -> RunningDomain:
        command_line = f"{self.test} {roles} {CHANNELS}"
        request = Request(self.test, build("pair"), b"", command_line, DEFAULT_MEMORY, uuid4())
        return create(self.host, request, self.receive)

    def receive(self) -> None:
        """Take what the guests have written."""
        for domid, ring in self.host.services.consoles.items():
            self.said.setdefault(domid, bytearray()).extend(ring.receive())

    def run(self, running: RunningDomain) -> None:
        """Run one of them to its end, and destroy it."""
        run(self.host, self.known[running.domid], PATIENCE)
        with self.host.machine.lock:
            self.receive()
        destroy(self.host, running.domid)

    def run_both(self) -> None:
        """Run both, and look that each came to its end and left nothing."""
        threads = [threading.Thread(target=self.run, args=(running,)) for running in self.domains]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for running in self.domains:
            domain = self.known[running.domid]
            told = self.said[domain.domid].decode()
            assert told.splitlines()[-1:] == [f"PASS {self.test}"], told
            assert domain.shutdown_code == SHUTDOWN_poweroff
            assert domain.record["active_evtchns"] == 0
        assert self.host.machine.record["free_pages"] == self.free_before
        # Domain 0's own ports are gone with the last domain's: the thread that listens closes its own then.
        end = time.monotonic() + PATIENCE
        while self.host.hypervisor.domain0.record["active_evtchns"] and time.monotonic() < end:
            time.sleep(0.001)
        assert self.host.hypervisor.domain0.record["active_evtchns"] == 0


@pytest.mark.parametrize(
    "test",
    ["ping_pong", "ping_pong_by_polling", "storm", "churn", "close_both", "one_goes", "fifo_comes_and_goes", "growth"],
)
def test_two_guests(test: str) -> None:
    Pair(test).run_both()
