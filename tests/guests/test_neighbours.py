"""Two Debian guests at work, and a third that misbehaves in every way of the suite: the two never notice."""

from __future__ import annotations

import re
import threading

import kernels

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.hypervisor.audit import audit
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.create import RunningDomain, create, destroy
from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.request import request_for

MEMORY = 160
"""MiB of each Debian."""
PATIENCE = 120.0
"""Seconds for what takes one when the host has nothing else to do."""
PEACEFUL = {"console", "operations", "sched", "time"}
NOT_ALONE = {"block", "net", "pair", "preemption", "privileged", "start_of_day", "unprivileged", "xsa_domctl"}
"""Sources of tests that attack nobody, and of those that need a machine of their own."""
ATTACKS = [
    (path.stem, test)
    for path in sorted(kernels.SOURCES.glob("*.c"))
    if path.stem not in PEACEFUL | NOT_ALONE
    for test in kernels.kernel_tests(path.stem)
]
CRASHES = re.findall(r"^GUEST\((\w+)\)", (kernels.SOURCES / "crashes.c").read_text(), re.MULTILINE)
SEEDS = 6

WORK = r"""
while [ ! -e /tmp/enough ]; do
    head -c 300000 /dev/urandom > /tmp/one; cp /tmp/one /tmp/other; cmp /tmp/one /tmp/other || echo differ
    seq 1 400 | sort -rn | md5sum
    sh -c 'exit 7'; echo $?
done > /tmp/log 2>&1 &
sleep 1; dmesg > /tmp/before
echo at "work"
"""
LOG = "29cc4aeea17aa25aa11078a0cb7d05a9 - 7"
REPORT = r"""
touch /tmp/enough; wait
echo "log:" $(sort -u /tmp/log) end; dmesg | grep -v "crng init" > /tmp/after
grep -v "crng init" /tmp/before | diff - /tmp/after && echo "nothing" noticed
echo rounds: $(grep -c 7$ /tmp/log)
poweroff -f
"""


class Debian:
    """A guest with a shell on its console."""

    def __init__(self, host: Host, files: DebianGuest, name: str) -> None:
        self._host = host
        self._said = ""
        self._changed = threading.Condition(host.machine.lock)
        config = DomainConfig(
            name=name, kernel=files.kernel, ramdisk=files.initramfs, cmdline="console=hvc0 quiet", memory=MEMORY
        )
        self._running: RunningDomain | None = None
        self._running = create(host, request_for(config), self._listen)
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


def test_two_debians_and_a_bad_neighbour(debian_cloud: DebianGuest, native: None) -> None:
    host = Host(memory_for((2 * MEMORY << 20) + 2 * kernels.DEFAULT_MEMORY))
    free = host.machine.record["free_pages"]
    guests = [Debian(host, debian_cloud, f"debian{number}") for number in range(2)]
    for guest in guests:
        guest.expect("# ")
        guest.type(WORK)
        guest.expect("at work")
    for source, test in ATTACKS:
        kernels.boot(source, test, host=host, patience=PATIENCE).check_passed()
    for test in CRASHES:
        assert kernels.boot("crashes", test, host=host, patience=PATIENCE).crash is not None
    for seed in range(SEEDS):
        assert kernels.boot("fuzz", "hypercalls", argument=f"{seed} 2000", host=host).frames_lost == 0
    for guest in guests:
        guest.type(REPORT)
        said = guest.expect("rounds: ")
        assert "nothing noticed" in said and f"log: {LOG} end" in said, said
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
    assert host.machine.record["free_pages"] == free
