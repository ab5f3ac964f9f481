"""What stops a domain, and that it has stopped then."""

from __future__ import annotations

import struct
import threading

import pytest
from small_domains import COUNT, DATA, HYPERCALL, SHUT_DOWN, SmallDomain, address, make_control

from euxen.abi.domctl import XEN_DOMCTL_setvcpucontext, XenDomctlVcpucontext
from euxen.abi.errno import XEN_EINVAL
from euxen.abi.event_channel import EvtchnReset
from euxen.abi.sched import SHUTDOWN_suspend
from euxen.abi.vcpu import VCPUOP_register_vcpu_info
from euxen.abi.xen import HYPERVISOR_vcpu_op, VcpuInfo
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hypercalls import table
from euxen.hypervisor.running import CpuState

ARGUMENT, VCPU_INFO = 8, 0x100
REGISTER_VCPU_INFO = (
    f"mov ${VCPUOP_register_vcpu_info},%edi; xor %esi,%esi; mov ${address(DATA) + ARGUMENT},%edx;"
    f"mov ${HYPERVISOR_vcpu_op},%eax; syscall; {SHUT_DOWN}"
)


@pytest.fixture
def control(native: None) -> Control:
    return make_control()


def find(control: Control, domain: SmallDomain) -> Domain:
    found = control._hypervisor.find(domain.domid)
    assert found is not None
    return found


def test_what_fails_in_xen_itself(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """The domain crashes. Even if it is resumed at once, it has one thread, of which everybody knows."""
    failures: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: failures.append(arguments.exc_type))
    call, failing = table.call, 0

    def fail(*_arguments: int) -> int:
        nonlocal failing
        failing = threading.get_ident()
        monkeypatch.setattr(table, "call", call)
        raise ValueError

    domain = SmallDomain(control, f"{HYPERCALL}; {COUNT}")
    found = find(control, domain)

    def resume() -> None:
        found.shutdown_code, found.is_shut_down = None, False
        found.unpause()
        with found.machine.lock:  # if there is another thread now, let it run
            found.machine.changed.wait_for(lambda: found.cpu_thread not in (None, failing), timeout=0.5)

    found.on_exit = resume
    monkeypatch.setattr(table, "call", fail)
    domain.run()
    domain.wait_for_progress()
    control.pause_domain(domain.domid)
    count = domain.word
    assert failures == [ValueError]
    assert found.cpu_state is not CpuState.NONE
    assert domain.word == count
    found.on_exit = lambda: None
    domain.destroy()


def test_who_has_been_paused_stands_still(control: Control) -> None:
    """Nobody counts as paused by his managers while they wait for him."""
    domain = SmallDomain(control)
    found = find(control, domain)
    control.unpause_domain(domain.domid)
    control.shutdown_domain(domain.domid, SHUTDOWN_suspend)
    control.pause_domain(domain.domid)
    control.unpause_domain(domain.domid)
    while found.cpu_state is not CpuState.NONE:
        pass
    found.cpu_state = CpuState.RUNNING  # as of a thread that does not look
    pauses = found.record["pause_count"]
    pausing = threading.Thread(target=control.pause_domain, args=(domain.domid,))
    pausing.start()
    while found.record["pause_count"] == pauses:
        pass
    with pytest.raises(XenError) as error:
        control.caller.event_channels.reset(EvtchnReset(dom=domain.domid))
    assert error.value.errno == XEN_EINVAL
    found.enter(CpuState.NONE)
    pausing.join()
    control.caller.event_channels.reset(EvtchnReset(dom=domain.domid))
    domain.destroy()


def test_a_vcpu_that_is_reset_keeps_its_vcpu_info(control: Control) -> None:
    """Others may be sending events to it."""
    domain = SmallDomain(control, REGISTER_VCPU_INFO)
    struct.pack_into("<3Q", domain.mapping.memory, 0, SHUTDOWN_suspend, domain.frames[DATA], VCPU_INFO)
    with control.map_shared_info(domain.domid) as shared_info:
        shared_info[VcpuInfo.evtchn_upcall_mask] = 1
    domain.run()
    assert domain.wait_for_shutdown() == SHUTDOWN_suspend
    control.domctl(XEN_DOMCTL_setvcpucontext, domain.domid, XenDomctlVcpucontext())
    vcpu = find(control, domain).vcpus[0]
    assert vcpu.held_frames() == [domain.frames[DATA]]
    assert vcpu.record["vcpu_info"] % 4096 == VCPU_INFO
    domain.destroy()
    assert [info.domain for info in control.domain_list()] == [0]
