"""What Xen once got wrong about event channels, where one domain's kernel is not enough to try it again."""

from __future__ import annotations

import itertools
from types import TracebackType

import pytest
from small_domains import SmallDomain, bare_domain, make_control

from euxen.abi import event_channel as abi
from euxen.abi.errno import XEN_EEXIST, XEN_EINVAL, XEN_EOPNOTSUPP
from euxen.abi.xen import VIRQ_DOM_EXC
from euxen.hypervisor import event_channel as native
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import RESET_STEP

pytestmark = pytest.mark.usefixtures("native")
PORTS = 5000


@pytest.fixture
def control(native: None) -> Control:
    return make_control()


def guest(control: Control, vcpus: int = 1) -> tuple[Domain, list[int]]:
    """A domain that cannot run, and its frames."""
    domain = bare_domain(control._hypervisor, 8, vcpus, PORTS)
    return domain, list(control.populate_physmap(domain.domid, 0, 8))


def test_an_array_is_expanded_while_ports_are_reset(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread has the lock, and resets the ports before it lets go of it."""
    domain, frames = guest(control)
    table = domain.event_channels
    table.init_control(abi.EvtchnInitControl(control_gfn=frames[0]))
    lock = control.lock

    class Contended:
        """The machine's lock, before which the other thread was faster."""

        def __enter__(self) -> None:
            monkeypatch.setattr(domain.machine, "lock", lock)
            table.reset(abi.EvtchnReset(dom=domain.domid))
            lock.acquire()

        def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
            lock.release()

    monkeypatch.setattr(domain.machine, "lock", Contended())
    with pytest.raises(XenError) as refused:
        table.expand_array(abi.EvtchnExpandArray(array_gfn=frames[1]))
    assert refused.value.errno == XEN_EOPNOTSUPP
    assert table.fifo_frames == []


def test_the_end_of_a_domain_with_many_ports_lets_others_go_first(control: Control) -> None:
    free = control.physinfo().free_pages
    domain, frames = guest(control)
    table, hypervisor = domain.event_channels, control._hypervisor
    table.init_control(abi.EvtchnInitControl(control_gfn=frames[0]))
    for _ in range(PORTS):
        table.bind_ipi(abi.EvtchnBindIpi())
    bound: list[int] = []

    def preempt() -> bool:
        bound.append(domain.record["active_evtchns"])
        return True

    while not hypervisor.kill(domain, preempt):
        assert hypervisor.find(domain.domid) is domain
        if domain.record["active_evtchns"]:
            with pytest.raises(XenError):
                table.bind_ipi(abi.EvtchnBindIpi())
    assert bound[0] >= PORTS - RESET_STEP
    assert bound[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(bound)) <= RESET_STEP
    assert control.physinfo().free_pages == free


def test_a_vcpu_without_a_control_block(control: Control) -> None:
    """Its ports were bound by the two-level ABI, or are moved to it: what is sent there is lost, and harms nobody."""
    domain, frames = guest(control, vcpus=2)
    table = domain.event_channels
    own, moved = abi.EvtchnBindIpi(vcpu=1), abi.EvtchnAllocUnbound(dom=domain.domid, remote_dom=domain.domid)
    table.bind_ipi(own)
    table.alloc_unbound(moved)
    end = abi.EvtchnBindInterdomain(remote_dom=domain.domid, remote_port=moved.port)
    table.bind_interdomain(end)
    table.init_control(abi.EvtchnInitControl(control_gfn=frames[0], vcpu=0))
    table.expand_array(abi.EvtchnExpandArray(array_gfn=frames[1]))
    table.bind_vcpu(abi.EvtchnBindVcpu(port=moved.port, vcpu=1))
    words = domain.machine.frame(frames[1]).cast("I")
    before = bytes(words)
    for _ in range(3):
        table.send(abi.EvtchnSend(port=own.port))
        table.send(abi.EvtchnSend(port=end.local_port))
    assert bytes(words) == before
    table.init_control(abi.EvtchnInitControl(control_gfn=frames[2], vcpu=1))
    table.send(abi.EvtchnSend(port=own.port))
    table.send(abi.EvtchnSend(port=end.local_port))
    assert all(native.is_pending(table._channel(port)) for port in (own.port, moved.port))
    assert int.from_bytes(bytes(domain.machine.frame(frames[2])[:4]), "little") == 1 << 7
    control.destroy_domain(domain.domid)


def test_domain_0_is_told_whatever_guests_bind(control: Control) -> None:
    """VIRQ_DOM_EXC is any domain's to bind, rightly or wrongly, and comes to the one that it is for."""
    port = control.bind_virq(VIRQ_DOM_EXC)
    info = control.map_shared_info(0)
    domain, _frames = guest(control)
    bind = abi.EvtchnBindVirq(virq=VIRQ_DOM_EXC)
    domain.event_channels.bind_virq(bind)
    for vcpu, errno in ((0, XEN_EEXIST), (1, XEN_EINVAL)):
        with pytest.raises(XenError) as refused:
            domain.event_channels.bind_virq(abi.EvtchnBindVirq(virq=VIRQ_DOM_EXC, vcpu=vcpu))
        assert refused.value.errno == errno
    domain.event_channels.close(abi.EvtchnClose(port=bind.port))
    domain.event_channels.bind_virq(bind)
    info.memory[0x800 + port // 8] = 0
    SmallDomain(control).destroy()
    assert info.memory[0x800 + port // 8] >> port % 8 & 1
    assert not native.is_pending(domain.event_channels._channel(bind.port))
    control.destroy_domain(domain.domid)
