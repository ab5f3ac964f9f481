"""Many domains on one machine: what happens to one disturbs no other, and nothing is left of those that are gone."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from small_domains import (
    BLOCK,
    COUNT,
    CRASH,
    DATA,
    DOMCTL,
    PAGES,
    PAUSE_OTHERS,
    SHUT_DOWN,
    WATCHDOG,
    SmallDomain,
    address,
    make_control,
)

from euxen.abi.arch_x86_xen import VcpuGuestContext, VGCF_in_kernel, VGCF_online
from euxen.abi.domctl import (
    XEN_DOMINF_blocked,
    XEN_DOMINF_dying,
    XEN_DOMINF_paused,
    XEN_DOMINF_running,
    XEN_DOMINF_shutdown,
    XenDomctl,
)
from euxen.abi.errno import XEN_EBUSY, XEN_EINVAL, XEN_ENOMEM, XEN_EPERM, XEN_ESRCH
from euxen.abi.sched import (
    SchedWatchdog,
    SHUTDOWN_crash,
    SHUTDOWN_poweroff,
    SHUTDOWN_reboot,
    SHUTDOWN_suspend,
    SHUTDOWN_watchdog,
)
from euxen.abi.xen import VIRQ_DOM_EXC
from euxen.hypervisor.caller import Kernel
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.grants import transferring
from euxen.hypervisor.mm import reservation

pytestmark = pytest.mark.usefixtures("native")
STATES = 0xFFFF


@pytest.fixture
def control(native: None) -> Control:
    return make_control()


def refused(errno: int, *, by: Callable[[], object]) -> None:
    """Something that is called has to fail with an errno."""
    with pytest.raises(XenError) as error:
        by()
    assert error.value.errno == errno


def find(control: Control, domid: int) -> Domain:
    domain = control._hypervisor.find(domid)
    assert domain is not None
    return domain


def free_pages(control: Control) -> int:
    return control.caller.machine.record["free_pages"]


def test_two_never_notice_what_happens_to_a_third(control: Control) -> None:
    calm = [SmallDomain(control) for _ in range(2)]
    for domain in calm:
        domain.run()
    for number in range(30):
        third = SmallDomain(control, COUNT if number % 3 else CRASH)
        third.run()
        if number % 3 == 0:
            assert third.wait_for_shutdown() == SHUTDOWN_crash
        else:
            third.wait_for_progress()
            for _ in range(3):
                control.pause_domain(third.domid)
                control.unpause_domain(third.domid)
            if number % 3 == 2:
                control.shutdown_domain(third.domid, SHUTDOWN_reboot)
        third.destroy()
        for domain in calm:
            assert domain.flags & STATES == XEN_DOMINF_running
            domain.wait_for_progress()
    for domain in calm:
        domain.destroy()
    assert [info.domain for info in control.domain_list()] == [0]


def test_a_paused_domain_stands_still(control: Control) -> None:
    domain = SmallDomain(control)
    assert domain.flags & STATES == XEN_DOMINF_paused
    domain.run()
    for _ in range(50):
        domain.wait_for_progress()
        control.pause_domain(domain.domid)
        count = domain.word
        assert domain.flags & STATES == XEN_DOMINF_paused
        assert control.get_vcpu_context(domain.domid, 0).user_regs.rsp
        assert domain.word == count
        control.unpause_domain(domain.domid)
    domain.destroy()


def test_a_blocked_domain_can_be_paused_and_destroyed(control: Control) -> None:
    domain = SmallDomain(control, BLOCK)
    domain.run()
    while domain.flags & STATES != XEN_DOMINF_blocked:
        pass
    control.pause_domain(domain.domid)
    assert domain.flags & STATES == XEN_DOMINF_blocked | XEN_DOMINF_paused
    control.unpause_domain(domain.domid)
    domain.destroy()


def test_domain_0_is_told_of_ends(control: Control) -> None:
    port = control.bind_virq(VIRQ_DOM_EXC)
    shared_info = control.map_shared_info(0)

    def was_told() -> bool:
        pending = bool(shared_info.memory[0x800 + port // 8] >> port % 8 & 1)
        shared_info.memory[0x800 + port // 8] = 0
        return pending

    domain = SmallDomain(control, SHUT_DOWN)
    domain.word = SHUTDOWN_suspend
    assert not was_told()
    domain.run()
    assert domain.wait_for_shutdown() == SHUTDOWN_suspend
    assert was_told()
    control.destroy_domain(domain.domid)
    assert was_told()
    assert domain.flags & (XEN_DOMINF_dying | XEN_DOMINF_shutdown) == XEN_DOMINF_dying | XEN_DOMINF_shutdown
    # It is mapped yet. Once it is not, it is gone.
    domain.mapping.release()
    assert was_told()
    refused(XEN_ESRCH, by=lambda: control.domain_info(domain.domid))


def test_resume(control: Control) -> None:
    domain = SmallDomain(control, f"{SHUT_DOWN}; {COUNT}")
    domain.word = SHUTDOWN_suspend
    domain.run()
    assert domain.wait_for_shutdown() == SHUTDOWN_suspend
    control.resume_domain(domain.domid)
    domain.wait_for_progress()
    assert domain.flags & STATES == XEN_DOMINF_running
    domain.destroy()


def test_the_memory_of_the_dead(control: Control) -> None:
    free = free_pages(control)
    domain = SmallDomain(control)
    domain.word = 0x1234
    control.destroy_domain(domain.domid)
    assert control.domain_info(domain.domid).tot_pages == 1
    assert domain.word == 0x1234
    refused(XEN_EBUSY, by=lambda: control.map_foreign(domain.domid, domain.frames[DATA + 1]))
    refused(XEN_ENOMEM, by=lambda: control.populate_physmap(domain.domid, 100, 1))
    refused(XEN_EINVAL, by=lambda: control.alloc_unbound(domain.domid, 0))
    domain.mapping.release()
    assert [info.domain for info in control.domain_list()] == [0]
    assert free_pages(control) == free
    # Whoever gets the frame finds nothing in it.
    other = SmallDomain(control)
    assert other.word == 0
    other.destroy()


def test_a_page_table_is_mapped_by_nobody(control: Control) -> None:
    domain = SmallDomain(control)
    refused(XEN_EBUSY, by=lambda: control.map_foreign(domain.domid, domain.frames[0]))
    held = control.map_foreign(domain.domid, domain.frames[DATA], 1)
    refused(XEN_EINVAL, by=lambda: control.pin_table(domain.domid, 1, domain.frames[DATA]))
    held.release()
    domain.destroy()


def test_claims(control: Control) -> None:
    free = free_pages(control)
    rich, poor = control.create_domain(1 << 30), control.create_domain(1 << 30)
    left = free_pages(control)
    control.claim_pages(rich, left)
    refused(XEN_ENOMEM, by=lambda: control.populate_physmap(poor, 0, 1))
    refused(XEN_ENOMEM, by=lambda: control.claim_pages(poor, 1))
    assert control.domain_info(rich).outstanding_pages == left
    frames = control.populate_physmap(rich, 0, 100)
    assert control.domain_info(rich).outstanding_pages == left - 100
    # It is about how many it has in all, wherever they come from or go to.
    record = find(control, rich).record.address
    for frame in frames[:10]:
        assert reservation.guest_remove_page(record, frame)
    assert control.domain_info(rich).outstanding_pages == left - 90
    assert transferring.reserve_page(record)
    assert control.domain_info(rich).outstanding_pages == left - 91
    transferring.unreserve_page(record)
    assert control.domain_info(rich).outstanding_pages == left - 90
    assert control.physinfo().outstanding_pages == left - 90
    control.destroy_domain(rich)
    control.claim_pages(poor, 1)
    control.populate_physmap(poor, 0, 200)
    assert control.domain_info(poor).outstanding_pages == 0
    control.destroy_domain(poor)
    assert free_pages(control) == free
    assert control.caller.machine.record["outstanding_claims"] == 0


def test_who_is_not_privileged_is_refused_everything(control: Control) -> None:
    victim = SmallDomain(control)
    domid = control.create_domain(PAGES)
    domain = control._hypervisor.find(domid)
    assert domain is not None
    other = Control(control._hypervisor, Kernel(domain))
    for attempt in (
        lambda: other.create_domain(1),
        lambda: other.pause_domain(victim.domid),
        lambda: other.unpause_domain(victim.domid),
        lambda: other.destroy_domain(victim.domid),
        lambda: other.resume_domain(victim.domid),
        lambda: other.shutdown_domain(victim.domid, SHUTDOWN_poweroff),
        lambda: other.domain_info(victim.domid),
        lambda: other.domain_info(domid),
        lambda: other.domain_list(),
        lambda: other.set_max_mem(domid, 100),
        lambda: other.get_vcpu_context(victim.domid, 0),
        lambda: other.map_foreign(victim.domid, victim.frames[DATA]),
        lambda: other.pin_table(victim.domid, 4, victim.frames[0]),
        lambda: other.claim_pages(domid, 5),
        lambda: other.map_grant_table(victim.domid),
        lambda: other.alloc_unbound(victim.domid, domid),
    ):
        refused(XEN_EPERM, by=attempt)
    assert victim.flags & STATES == XEN_DOMINF_paused
    victim.destroy()
    control.destroy_domain(domid)


def test_domain_0_is_there_for_good(control: Control) -> None:
    """Its kernel is this program, which would use memory that is another's by then."""
    domid = control.create_domain(PAGES)
    manager = find(control, domid)
    manager.record["is_privileged"] = 1
    other = Control(control._hypervisor, Kernel(manager))
    refused(XEN_EINVAL, by=lambda: other.destroy_domain(0))
    frame = other.populate_physmap(0, 0, 1)[0]
    other.pin_table(0, 4, frame)
    context = VcpuGuestContext(flags=VGCF_in_kernel | VGCF_online, ctrlreg=(0, 0, 0, frame << 12, 0, 0, 0, 0))
    refused(XEN_EINVAL, by=lambda: other.set_vcpu_context(0, 0, context))
    other.pause_domain(0)
    other.unpause_domain(0)
    assert not other.domain_info(0).flags & XEN_DOMINF_shutdown
    port = control.bind_ipi()
    control.notify(port)
    control.close(port)
    control.destroy_domain(domid)


def test_two_guests_that_pause_each_other(control: Control) -> None:
    pair = [SmallDomain(control, PAUSE_OTHERS) for _ in range(2)]
    for domain, other in (pair, reversed(pair)):
        record = control._hypervisor.find(domain.domid)
        assert record is not None
        record.record["is_privileged"] = 1
        op = XenDomctl(domain=other.domid)
        op.pack_into(domain.mapping.memory, DOMCTL - address(DATA))
    for domain in pair:
        domain.run()
    for _ in range(30):
        for domain in pair:
            domain.wait_for_progress()
    for domain in pair:
        domain.destroy()
    assert [info.domain for info in control.domain_list()] == [0]


@pytest.mark.parametrize("privileged", [True, False])
def test_guests_that_manage_all_the_time_keep_nobody_from_it(control: Control, privileged: bool) -> None:
    """They have the lock again as soon as they gave it away, or are refused again and again, and Domain 0 gets it."""
    victim, calm = SmallDomain(control), SmallDomain(control)
    hogs = [SmallDomain(control, PAUSE_OTHERS) for _ in range(3)]
    for hog in hogs:
        domain = control._hypervisor.find(hog.domid)
        assert domain is not None
        domain.record["is_privileged"] = int(privileged)
        XenDomctl(domain=victim.domid).pack_into(hog.mapping.memory, DOMCTL - address(DATA))
    for domain_to_run in (victim, calm, *hogs):
        domain_to_run.run()
    for _ in range(100):
        control.pause_domain(calm.domid)
        assert control.physinfo().nr_nodes == 1
        control.unpause_domain(calm.domid)
        calm.wait_for_progress()
    for hog in hogs:
        hog.wait_for_progress()
    for domain_to_end in (*hogs, victim, calm):
        domain_to_end.destroy()
    assert [info.domain for info in control.domain_list()] == [0]


def test_a_watchdog_fires_while_its_domain_is_paused(control: Control) -> None:
    domain = SmallDomain(control, WATCHDOG)
    SchedWatchdog(id=0, timeout=1).pack_into(domain.mapping.memory)
    domain.run()
    while not domain.watchdog_is_set:
        pass
    control.pause_domain(domain.domid)
    assert domain.wait_for_shutdown() == SHUTDOWN_watchdog
    domain.destroy()


def test_a_domain_that_manages_itself_away(control: Control) -> None:
    refused(XEN_EINVAL, by=lambda: control.destroy_domain(0))
    refused(XEN_EINVAL, by=lambda: control.pause_domain(0))
    refused(XEN_ESRCH, by=lambda: control.pin_table(0, 4, 1))


def test_several_threads_manage_at_once(control: Control) -> None:
    """Each has domains of its own, and all pause and list those of the others."""
    failures: list[BaseException] = []

    def manage() -> None:
        try:
            for _ in range(8):
                domain = SmallDomain(control)
                domain.run()
                domain.wait_for_progress()
                for info in control.domain_list(1):
                    try:
                        control.pause_domain(info.domain)
                        control.unpause_domain(info.domain)
                    except XenError as error:
                        assert error.errno == XEN_ESRCH
                domain.wait_for_progress()
                domain.destroy()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=manage) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [info.domain for info in control.domain_list()] == [0]


def test_a_host_without_descriptors(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_pages(control)

    def fail(*_arguments: int, **_options: bool) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", fail)
    refused(XEN_ENOMEM, by=lambda: control.create_domain(PAGES))
    assert free_pages(control) == free
    monkeypatch.undo()
    monkeypatch.setattr(control._hypervisor, "make_engine", fail)
    refused(XEN_ENOMEM, by=lambda: control.create_domain(PAGES))
    assert free_pages(control) == free
    assert [info.domain for info in control.domain_list()] == [0]


def test_a_host_without_threads(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    domain = SmallDomain(control)
    monkeypatch.setattr(threading.Thread, "start", fail)
    domain.run()
    assert domain.wait_for_shutdown() == SHUTDOWN_crash
    monkeypatch.undo()
    domain.destroy()
    assert [info.domain for info in control.domain_list()] == [0]


def resident() -> int:
    """How much memory this process has that is not a machine's, in KiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0])


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_a_thousand_domains_leave_nothing() -> None:
    control = make_control()

    def create_and_destroy(count: int) -> tuple[int, int, int, int]:
        for number in range(count):
            domid = control.create_domain(PAGES)
            if number % 10 == 0:
                control.populate_physmap(domid, 0, PAGES)
            control.destroy_domain(domid)
        gc.collect()
        return free_pages(control), len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), mappings()

    before = create_and_destroy(50)
    memory = resident()
    after = create_and_destroy(950)
    assert after[:3] == before[:3]
    assert after[3] <= before[3] + 20
    assert resident() - memory < 950 * 8, "8 KiB or more are left of each"
    assert [info.domain for info in control.domain_list()] == [0]
