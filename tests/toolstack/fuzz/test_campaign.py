"""Random hypercalls: nothing comes of them but a spoiled guest, and what would come of a bug is found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from euxen.abi import domctl, sysctl
from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.abi.xen import HYPERVISOR_multicall, HYPERVISOR_vm_assist, MulticallEntry
from euxen.hypervisor.domctl import table as domctl_table
from euxen.hypervisor.domctl.request import Domctl
from euxen.hypervisor.hypercalls import table
from euxen.hypervisor.hypercalls.table import HYPERCALLS, Hypercall
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.pcpu import Pcpu
from euxen.hypervisor.sysctl import table as sysctl_table
from euxen.hypervisor.vcpu import Vcpu
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.create import create, destroy
from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.fuzz import campaign
from euxen.toolstack.fuzz.calls import Call
from euxen.toolstack.fuzz.guest import MEMORY
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.request import request_for

T = TypeVar("T")
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


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_found_by_privileged_guests(native: None, seed: int) -> None:
    report = campaign.run_privileged(seed, COUNT)
    assert report.finding is None
    assert report.made == COUNT
    assert report.succeeded > COUNT // 10


def test_the_same_seed_makes_the_same_calls(native: None) -> None:
    first, second = (campaign.run(campaign.make_host(), 3, 300) for _ in range(2))
    assert first == second


def test_the_same_seed_makes_the_same_calls_of_privileged_guests(native: None) -> None:
    first, second = (campaign.run_privileged(3, 300) for _ in range(2))
    assert first == second


def answered(monkeypatch: pytest.MonkeyPatch, operations: dict[int, Callable[[T], None]], command: int) -> list[T]:
    """The requests that get an answer from now on, other than an error."""
    answers: list[T] = []
    operation = operations[command]

    def answer(request: T) -> None:
        operation(request)
        answers.append(request)

    monkeypatch.setitem(operations, command, answer)
    return answers


def test_privileged_guests_manage_domains(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls reach what they are for: a domain is built, paused, looked at, and Domain 0 is let be."""
    commands = (
        domctl.XEN_DOMCTL_createdomain,
        domctl.XEN_DOMCTL_destroydomain,
        domctl.XEN_DOMCTL_pausedomain,
        domctl.XEN_DOMCTL_setvcpucontext,
        domctl.XEN_DOMCTL_max_mem,
        domctl.XEN_DOMCTL_getpageframeinfo3,
    )
    requests = [answered(monkeypatch, domctl_table.OPERATIONS, command) for command in commands]
    asked = answered(monkeypatch, sysctl_table.OPERATIONS, sysctl.XEN_SYSCTL_getdomaininfolist)
    assert campaign.run_privileged(1, 4 * COUNT).finding is None
    own = 1
    for of_command in requests:
        of_guests = [request for request in of_command if request.caller.domain.domid == own]
        assert of_guests
        assert all(request.domid for request in of_guests if request.command != domctl.XEN_DOMCTL_createdomain)
    assert asked


def test_the_end_of_domain_0_is_no_finding(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A privileged guest may do away with it, and gets another machine."""

    def bug(vcpu: Vcpu, *_arguments: int) -> int:
        vcpu.domain.hypervisor.kill(vcpu.domain.hypervisor.domain0)
        return 0

    monkeypatch.setitem(HYPERCALLS, HYPERVISOR_vm_assist, Hypercall("vm_assist", bug))
    report = campaign.run_privileged(0, COUNT)
    assert report.finding is None
    assert report.guests > COUNT // 1000


def test_a_reference_to_a_foreign_page_that_is_lost_is_found(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    getpageframeinfo3 = domctl_table.OPERATIONS[domctl.XEN_DOMCTL_getpageframeinfo3]

    def bug(request: Domctl) -> None:
        frame = request.domain.shared_info_frame
        pg.get_page_from_mfn(request.domain.record.address, frame)
        getpageframeinfo3(request)

    monkeypatch.setitem(domctl_table.OPERATIONS, domctl.XEN_DOMCTL_getpageframeinfo3, bug)
    finding = campaign.run_privileged(0, 20_000).finding
    assert finding is not None
    assert any("references are to be found" in line for line in finding.what)


def _with_bug(monkeypatch: pytest.MonkeyPatch, bug: table.Handler) -> campaign.Finding:
    """What the campaign finds on a machine with a bug in vm_assist."""
    monkeypatch.setitem(HYPERCALLS, HYPERVISOR_vm_assist, Hypercall("vm_assist", bug))
    report = campaign.run(campaign.make_host(), 0, 20_000)
    assert report.finding is not None
    return report.finding


def numbers(call: Call) -> list[int]:
    """The hypercall's, and of those that are in it if it is a multicall."""
    inner = range(0, len(call.memory) if call.number == HYPERVISOR_multicall else 0, MulticallEntry.size)
    return [call.number, *(MulticallEntry.unpack_from(call.memory, at).op for at in inner)]


def test_an_exception_is_found(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(vcpu: Vcpu, *_arguments: int) -> int:
        raise IndexError("a bug")

    finding = _with_bug(monkeypatch, bug)
    assert finding.what[-1] == "IndexError: a bug"
    assert any(HYPERVISOR_vm_assist in numbers(call) for call in finding.calls)


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
