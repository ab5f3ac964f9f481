"""Random hypercalls: nothing comes of them but a spoiled guest, and what would come of a bug is found."""

from __future__ import annotations

import threading

import pytest

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.abi.xen import HYPERVISOR_vm_assist
from euxen.hypervisor.hypercalls import table
from euxen.hypervisor.hypercalls.table import HYPERCALLS, Hypercall
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.pcpu import Pcpu
from euxen.hypervisor.vcpu import Vcpu
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.create import create, destroy
from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.fuzz import campaign
from euxen.toolstack.fuzz.guest import MEMORY
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.request import request_for

SEEDS, COUNT = 12, 2000
DEBIAN_MEMORY = 192 << 20
PATIENCE = 60.0


@pytest.fixture(scope="module")
def host(native: None) -> Host:
    """One machine for all."""
    return campaign.make_host()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_found(host: Host, seed: int) -> None:
    report = campaign.run(host, seed, COUNT)
    assert report.finding is None
    assert report.made == COUNT
    assert report.succeeded > COUNT // 10


def test_the_same_seed_makes_the_same_calls(native: None) -> None:
    first, second = (campaign.run(campaign.make_host(), 3, 300) for _ in range(2))
    assert first == second


def _with_bug(monkeypatch: pytest.MonkeyPatch, bug: table.Handler) -> campaign.Finding:
    """What the campaign finds on a machine with a bug in vm_assist."""
    monkeypatch.setitem(HYPERCALLS, HYPERVISOR_vm_assist, Hypercall("vm_assist", bug))
    report = campaign.run(campaign.make_host(), 0, 20_000)
    assert report.finding is not None
    return report.finding


def test_an_exception_is_found(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(vcpu: Vcpu, *_arguments: int) -> int:
        raise IndexError("a bug")

    finding = _with_bug(monkeypatch, bug)
    assert finding.what[-1] == "IndexError: a bug"
    assert any(call.number == HYPERVISOR_vm_assist for call in finding.calls)


def test_a_reference_that_is_lost_is_found(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(vcpu: Vcpu, *_arguments: int) -> int:
        record = vcpu.domain.record
        pg.get_page_from_mfn(record.address, vcpu.record["guest_table"])
        return 0

    finding = _with_bug(monkeypatch, bug)
    assert any("references are to be found" in line for line in finding.what)


def test_debian_boots_on_the_machine_afterwards(native: None, debian_cloud: DebianGuest) -> None:
    host = Host(memory_for(MEMORY + DEBIAN_MEMORY) + campaign.SPARE, run=lambda domain: None)
    assert campaign.run(host, 99, 4 * COUNT).finding is None
    config = DomainConfig(
        name="debian",
        kernel=debian_cloud.kernel,
        ramdisk=debian_cloud.initramfs,
        cmdline="console=hvc0 quiet",
        memory=DEBIAN_MEMORY >> 20,
    )
    running = create(host, request_for(config), lambda: None)
    running.console.send(b"poweroff -f\n")
    domain = host.hypervisor.find(running.domid)
    assert domain is not None
    host.control.unpause_domain(domain.domid)
    pcpu = Pcpu(domain)
    alarm = threading.Timer(PATIENCE, pcpu.stop)
    alarm.start()
    pcpu.run()
    alarm.cancel()
    console, ending = running.console.receive(), domain.shutdown_code
    destroy(host, domain.domid)
    assert ending == SHUTDOWN_poweroff, console
