"""Random sequences of event channel operations by three domains, compared with a model after each step."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from small_domains import bare_domain

from euxen.abi import event_channel as abi
from euxen.abi.errno import (
    XEN_EACCES,
    XEN_EEXIST,
    XEN_EINVAL,
    XEN_ENOENT,
    XEN_ENOSPC,
    XEN_ENOSYS,
    XEN_EOPNOTSUPP,
    XEN_EPERM,
    XEN_ESRCH,
)
from euxen.abi.xen import SharedInfo
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor import event_channel as native
from euxen.hypervisor import sched
from euxen.hypervisor.caller import Kernel
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import EventChannels, Preempted
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE, Machine

pytestmark = pytest.mark.usefixtures("native")

MAX_PORT = 9
VCPUS = 2
PAGES = 3
PENDING, MASK = SharedInfo.offsetof("evtchn_pending"), SharedInfo.offsetof("evtchn_mask")
BIT = {name: 1 << getattr(abi, f"EVTCHN_FIFO_{name}") for name in ("PENDING", "MASKED", "LINKED")}
GLOBAL_VIRQ, OWN_VIRQ = 3, 0
CLOSED, UNBOUND, INTERDOMAIN, VIRQ, IPI = (
    getattr(abi, f"EVTCHNSTAT_{name}") for name in ("closed", "unbound", "interdomain", "virq", "ipi")
)

domains = st.integers(0, 2)
ports = st.integers(0, MAX_PORT + 2)
vcpus = st.integers(0, VCPUS)


@dataclass
class Port:
    """What the model knows of a port."""

    kind: int = CLOSED
    domain: int | None = None
    """The other domain, by its place among the three."""
    remote: int = 0
    virq: int = 0
    vcpu: int = 0
    pending: bool = False
    masked: bool = False
    linked: bool = False
    """On a queue of the FIFO ABI."""
    early: bool = False
    """An event came before there was a word for it."""


@dataclass
class Model:
    """One domain. Port 0 is there and cannot be used."""

    ports: list[Port] = field(default_factory=lambda: [Port() for _ in range(MAX_PORT + 1)])
    fifo: bool = False
    words: bool = False

    def free(self) -> int | None:
        """The port that is given next."""
        return next((n for n, p in enumerate(self.ports) if n and p.kind == CLOSED and not p.linked), None)

    def raise_event(self, number: int) -> None:
        port = self.ports[number]
        if self.fifo and not self.words:
            port.early = True
        else:
            port.pending = True
            if self.fifo and not port.masked:
                port.linked = True

    def bind(self, number: int, kind: int, **fields: int | None) -> Port:
        old = self.ports[number]
        self.ports[number] = Port(kind, pending=old.pending, masked=old.masked, early=old.early)
        for name, value in fields.items():
            setattr(self.ports[number], name, value)
        return self.ports[number]


def errno_of(call: object, *arguments: object) -> int:
    """What an operation fails with; 0 if it does not."""
    try:
        call(*arguments)  # type: ignore[operator]
    except XenError as error:
        return error.errno
    return 0


class EventChannelMachine(RuleBasedStateMachine):
    """Three domains without kernels, whose memory the test writes as a guest would."""

    @initialize()
    def start(self) -> None:
        self.machine = Machine(16 << 20)
        self.hypervisor = Hypervisor(self.machine, UnicornEngine)
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.free_before = self.machine.record["free_pages"]
        self.domains: list[Domain] = []
        self.frames: list[list[int]] = []
        self.models: list[Model] = []
        for _ in range(3):
            self._create(len(self.domains))

    def _create(self, place: int) -> None:
        domain = bare_domain(self.hypervisor, PAGES, VCPUS, MAX_PORT)
        frames = list(self.control.populate_physmap(domain.domid, 0, PAGES))
        self.domains[place:] = [domain, *self.domains[place + 1 :]]
        self.frames[place:] = [frames, *self.frames[place + 1 :]]
        self.models[place:] = [Model(), *self.models[place + 1 :]]

    def _find(self, domid: int) -> Domain:
        domain = self.hypervisor.find(domid)
        assert domain is not None
        return domain

    def table(self, place: int) -> EventChannels:
        return self.domains[place].event_channels

    # Binding.

    @rule(caller=domains, owner=domains, remote=domains)
    def alloc_unbound(self, caller: int, owner: int, remote: int) -> None:
        op = abi.EvtchnAllocUnbound(dom=self.domains[owner].domid, remote_dom=self.domains[remote].domid)
        free = self.models[owner].free()
        expected = XEN_ENOSPC if free is None else XEN_EPERM if caller != owner else 0
        assert errno_of(self.table(caller).alloc_unbound, op) == expected
        if not expected:
            assert op.port == free
            self.models[owner].bind(op.port, UNBOUND, domain=remote)

    @rule(caller=domains, other=domains, port=ports)
    def bind_interdomain(self, caller: int, other: int, port: int) -> None:
        op = abi.EvtchnBindInterdomain(remote_dom=self.domains[other].domid, remote_port=port)
        free = self.models[caller].free()
        waits = port <= MAX_PORT and self.models[other].ports[port]
        expected = 0
        if free is None:
            expected = XEN_ENOSPC
        elif not waits or waits.kind != UNBOUND or waits.domain != caller:
            expected = XEN_EINVAL
        assert errno_of(self.table(caller).bind_interdomain, op) == expected
        if not expected:
            assert op.local_port == free
            self.models[caller].bind(op.local_port, INTERDOMAIN, domain=other, remote=port)
            remote = self.models[other].ports[port]
            remote.kind, remote.domain, remote.remote = INTERDOMAIN, caller, op.local_port
            self.models[caller].raise_event(op.local_port)

    @rule(caller=domains, virq=st.sampled_from([GLOBAL_VIRQ, OWN_VIRQ, 24]), vcpu=vcpus)
    def bind_virq(self, caller: int, virq: int, vcpu: int) -> None:
        op = abi.EvtchnBindVirq(virq=virq, vcpu=vcpu)
        model = self.models[caller]
        bound = any(p.kind == VIRQ and p.virq == virq and (virq == GLOBAL_VIRQ or p.vcpu == vcpu) for p in model.ports)
        free = model.free()
        expected = 0
        if virq == 24 or (virq == GLOBAL_VIRQ and vcpu):
            expected = XEN_EINVAL
        elif vcpu >= VCPUS:
            expected = XEN_ENOENT
        elif bound:
            expected = XEN_EEXIST
        elif free is None:
            expected = XEN_ENOSPC
        assert errno_of(self.table(caller).bind_virq, op) == expected
        if not expected:
            assert op.port == free
            model.bind(op.port, VIRQ, virq=virq, vcpu=vcpu)

    @rule(caller=domains, vcpu=vcpus)
    def bind_ipi(self, caller: int, vcpu: int) -> None:
        op = abi.EvtchnBindIpi(vcpu=vcpu)
        free = self.models[caller].free()
        expected = XEN_ENOENT if vcpu >= VCPUS else XEN_ENOSPC if free is None else 0
        assert errno_of(self.table(caller).bind_ipi, op) == expected
        if not expected:
            assert op.port == free
            self.models[caller].bind(op.port, IPI, vcpu=vcpu)

    # Using.

    @rule(caller=domains, port=ports)
    def send(self, caller: int, port: int) -> None:
        known = self.models[caller].ports[port] if port <= MAX_PORT else Port()
        expected = 0 if known.kind in (UNBOUND, INTERDOMAIN, IPI) else XEN_EINVAL
        assert errno_of(self.table(caller).send, abi.EvtchnSend(port=port)) == expected
        if known.kind == IPI:
            self.models[caller].raise_event(port)
        elif known.kind == INTERDOMAIN:
            assert known.domain is not None
            self.models[known.domain].raise_event(known.remote)

    @rule(caller=domains, vcpu=st.integers(0, VCPUS - 1))
    def raise_virqs(self, caller: int, vcpu: int) -> None:
        domain = self.domains[caller]
        native.send_vcpu_virq(domain.vcpus[vcpu].record.address, OWN_VIRQ)
        native.send_guest_global_virq(domain.record.address, GLOBAL_VIRQ)
        for number, port in enumerate(self.models[caller].ports):
            if port.kind == VIRQ and (port.virq == GLOBAL_VIRQ or port.vcpu == vcpu):
                self.models[caller].raise_event(number)

    @rule(caller=domains, port=ports, vcpu=vcpus)
    def bind_vcpu(self, caller: int, port: int, vcpu: int) -> None:
        known = self.models[caller].ports[port] if port <= MAX_PORT else Port()
        movable = known.kind in (UNBOUND, INTERDOMAIN) or (known.kind == VIRQ and known.virq == GLOBAL_VIRQ)
        expected = XEN_ENOENT if vcpu >= VCPUS else 0 if movable else XEN_EINVAL
        assert errno_of(self.table(caller).bind_vcpu, abi.EvtchnBindVcpu(port=port, vcpu=vcpu)) == expected
        if not expected:
            known.vcpu = vcpu

    @rule(caller=domains, port=ports)
    def unmask(self, caller: int, port: int) -> None:
        assert errno_of(self.table(caller).unmask, abi.EvtchnUnmask(port=port)) == 0
        model = self.models[caller]
        if port <= MAX_PORT and model.ports[port].kind != CLOSED and (model.words or not model.fifo):
            model.ports[port].masked = False
            if model.ports[port].pending:
                model.raise_event(port)

    @rule(caller=domains, port=ports, priority=st.integers(0, 17))
    def set_priority(self, caller: int, port: int, priority: int) -> None:
        model = self.models[caller]
        known = model.ports[port] if port <= MAX_PORT else Port()
        expected = 0
        if not model.fifo:
            expected = XEN_ENOSYS
        elif known.kind == CLOSED:
            expected = XEN_EACCES
        elif priority > abi.EVTCHN_FIFO_PRIORITY_MIN:
            expected = XEN_EINVAL
        op = abi.EvtchnSetPriority(port=port, priority=priority)
        assert errno_of(self.table(caller).set_priority, op) == expected

    # What the guest does in its own memory.

    def _word(self, place: int, port: int) -> memoryview:
        return self.machine.frame(self.frames[place][1]).cast("I")[port : port + 1]

    def _set_bit(self, place: int, at: int, port: int, value: bool) -> None:
        byte = self.domains[place].shared_info[at + port // 8]
        byte = byte | 1 << port % 8 if value else byte & ~(1 << port % 8)
        self.domains[place].shared_info[at + port // 8] = byte

    @rule(caller=domains, port=st.integers(1, MAX_PORT))
    def mask(self, caller: int, port: int) -> None:
        model = self.models[caller]
        assume(model.words or not model.fifo)
        model.ports[port].masked = True
        if model.fifo:
            self._word(caller, port)[0] |= BIT["MASKED"]
        else:
            self._set_bit(caller, MASK, port, True)

    @rule(caller=domains)
    def handle_events(self, caller: int) -> None:
        """Take every event that is not masked, from whatever queue it is on."""
        model = self.models[caller]
        for number, port in enumerate(model.ports):
            if model.words and port.linked:
                self._word(caller, number)[0] &= BIT["MASKED"]
                port.linked = port.pending = False
            elif not model.fifo and port.pending and not port.masked:
                self._set_bit(caller, PENDING, number, False)
                port.pending = False
        if model.fifo:
            for vcpu in range(VCPUS):
                start = vcpu * 128
                self.machine.frame(self.frames[caller][0])[start : start + 72] = bytes(72)

    # The FIFO ABI.

    @rule(caller=domains)
    def init_control(self, caller: int) -> None:
        model = self.models[caller]
        for vcpu in range(VCPUS):
            op = abi.EvtchnInitControl(control_gfn=self.frames[caller][0], offset=128 * vcpu, vcpu=vcpu)
            expected = XEN_EINVAL if model.fifo and vcpu == 0 else None
            result = errno_of(self.table(caller).init_control, op)
            assert result == (XEN_EINVAL if expected else 0)
            if expected:
                return
        model.fifo = True
        self.machine.frame(self.frames[caller][0])[:] = bytes(PAGE_SIZE)
        self.machine.frame(self.frames[caller][1])[:] = bytes(PAGE_SIZE)
        for port in model.ports:
            port.early |= port.pending
            port.pending = port.masked = port.linked = False

    @rule(caller=domains)
    def expand_array(self, caller: int) -> None:
        model = self.models[caller]
        op = abi.EvtchnExpandArray(array_gfn=self.frames[caller][1])
        if model.words:
            return
        assert errno_of(self.table(caller).expand_array, op) == (0 if model.fifo else XEN_EOPNOTSUPP)
        if model.fifo:
            model.words = True
            for number, port in enumerate(model.ports):
                if port.early:
                    model.raise_event(number)

    # Closing.

    def _closed(self, place: int, number: int) -> None:
        model = self.models[place]
        port = model.ports[number]
        if port.kind == INTERDOMAIN:
            assert port.domain is not None
            remote = self.models[port.domain].ports[port.remote]
            remote.kind, remote.domain, remote.remote = UNBOUND, place, 0
        stays_pending = port.pending and model.fifo and not model.words
        model.ports[number] = Port(pending=stays_pending, masked=port.masked, linked=port.linked, early=port.early)

    @rule(caller=domains, port=ports)
    def close(self, caller: int, port: int) -> None:
        known = self.models[caller].ports[port] if port <= MAX_PORT else Port()
        expected = XEN_EINVAL if known.kind == CLOSED else 0
        assert errno_of(self.table(caller).close, abi.EvtchnClose(port=port)) == expected
        if not expected:
            self._closed(caller, port)

    @rule(caller=domains, other=domains, paused=st.booleans())
    def reset(self, caller: int, other: int, paused: bool) -> None:
        domain = self.domains[other]
        domain.controller_pause_count = int(paused)
        op = abi.EvtchnReset(dom=domain.domid)
        assert errno_of(self.table(caller).reset, op) == (0 if caller == other else XEN_EPERM)
        if caller == other:
            self._was_reset(other)

    @rule(other=domains, paused=st.booleans())
    def reset_by_domain_0(self, other: int, paused: bool) -> None:
        domain = self.domains[other]
        domain.controller_pause_count = int(paused)
        op = abi.EvtchnReset(dom=domain.domid)
        table = self.hypervisor.domain0.event_channels
        assert errno_of(table.reset, op) == (0 if paused else XEN_EINVAL)
        if paused:
            self._was_reset(other)

    def _was_reset(self, place: int) -> None:
        model = self.models[place]
        for number, port in enumerate(model.ports):
            if port.kind != CLOSED:
                self._closed(place, number)
        if model.fifo:
            # Back to bits, which are as they were before; the test's guest clears them.
            model.fifo = model.words = False
            for port in model.ports:
                port.pending = port.masked = port.linked = False
            self.domains[place].shared_info[PENDING : PENDING + 8] = bytes(8)
            self.domains[place].shared_info[MASK : MASK + 8] = bytes(8)

    @rule(place=domains)
    def die_and_be_replaced(self, place: int) -> None:
        """The other ends wait for a domain of a number that nobody will have again."""
        old = self.domains[place]
        for number, port in enumerate(self.models[place].ports):
            if port.kind != CLOSED:
                self._closed(place, number)
        for model in self.models:
            for port in model.ports:
                if port.kind == UNBOUND and port.domain == place:
                    port.domain = None
        self.control.destroy_domain(old.domid)
        assert old.record["active_evtchns"] == 0
        assert errno_of(self.table((place + 1) % 3).status, abi.EvtchnStatus(dom=old.domid, port=1)) == XEN_ESRCH
        self._create(place)

    # What has to be so after each step.

    @invariant()
    def agrees_with_the_model(self) -> None:
        for place, model in enumerate(self.models):
            table = self.table(place)
            for number, port in enumerate(model.ports):
                op = abi.EvtchnStatus(dom=self.domains[place].domid, port=number)
                table.status(op)
                assert op.status == port.kind, (place, number)
                if port.kind == CLOSED:
                    continue
                assert op.vcpu == port.vcpu
                if port.kind == UNBOUND and port.domain is not None:
                    assert op.u.unbound.dom == self.domains[port.domain].domid
                if port.kind == INTERDOMAIN:
                    assert port.domain is not None
                    assert op.u.interdomain.dom == self.domains[port.domain].domid
                    assert op.u.interdomain.port == port.remote
                if port.kind == VIRQ:
                    assert op.u.virq == port.virq
                channel = table._channel(number)
                assert native.is_pending(channel) == port.pending, (place, number)
                if not model.fifo or model.words:
                    assert native.is_masked(channel) == port.masked, (place, number)
                if model.words:
                    assert bool(self._word(place, number)[0] & BIT["LINKED"]) == port.linked, (place, number)

    @invariant()
    def both_ends_agree(self) -> None:
        for domain in self.domains:
            for port in range(domain.event_channels.size):
                channel = domain.event_channels.snapshot(port)
                if channel["state"] == 3:
                    other = self._find(channel["remote_domid"]).event_channels
                    remote = other.snapshot(channel["remote_port"])
                    assert (remote["remote_domid"], remote["remote_port"]) == (domain.domid, port)
                    assert channel["remote"] == other._channel(channel["remote_port"])

    @invariant()
    def counts_are_right(self) -> None:
        for domain, model in zip(self.domains, self.models, strict=True):
            assert domain.record["active_evtchns"] == sum(port.kind != CLOSED for port in model.ports)

    def teardown(self) -> None:
        for domain in getattr(self, "domains", []):
            self.control.destroy_domain(domain.domid)
        if hasattr(self, "machine"):
            assert self.machine.record["free_pages"] == self.free_before


TestEventChannels = EventChannelMachine.TestCase
TestEventChannels.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


def two_domains(max_port: int = 1023, memory: int = 16 << 20) -> tuple[Hypervisor, Domain, Domain]:
    hypervisor = Hypervisor(Machine(memory), UnicornEngine)
    return hypervisor, bare_domain(hypervisor, 8, 1, max_port), bare_domain(hypervisor, 8, 1, max_port)


def test_every_port_that_there_can_be() -> None:
    hypervisor, domain, _other = two_domains(1 << 30)
    table, control = domain.event_channels, Control(hypervisor, hypervisor.kernel)
    frames = list(control.populate_physmap(domain.domid, 0, 2))
    table.init_control(abi.EvtchnInitControl(control_gfn=frames[0]))
    for port in range(1, abi.EVTCHN_FIFO_NR_CHANNELS):
        op = abi.EvtchnBindIpi()
        table.bind_ipi(op)
        assert op.port == port
    assert errno_of(table.bind_ipi, abi.EvtchnBindIpi()) == XEN_ENOSPC
    for _ in range(abi.EVTCHN_FIFO_NR_CHANNELS // 1024):
        table.expand_array(abi.EvtchnExpandArray(array_gfn=frames[1]))
    table.send(abi.EvtchnSend(port=port))
    assert native.is_pending(table._channel(port))
    steps = 0
    reset = abi.EvtchnReset(dom=domain.domid)
    # A reset goes on where it was preempted; another one meanwhile is refused (XSA-344).
    while True:
        try:
            table.reset(reset, resuming=bool(steps), preempt=lambda: True)
        except Preempted:
            steps += 1
            assert errno_of(table.reset, reset) == 16  # EBUSY
        else:
            break
    assert steps == (abi.EVTCHN_FIFO_NR_CHANNELS - 1) // 64
    assert domain.record["active_evtchns"] == 0
    assert table.limit == abi.EVTCHN_2L_NR_CHANNELS
    control.destroy_domain(domain.domid)


def test_channels_of_xen_are_not_the_guests() -> None:
    """A guest can neither send by an end that Xen listens to, nor close, move or reset it."""
    hypervisor, domain, other = two_domains()
    table = domain.event_channels
    port = table.alloc_unbound_xen(0, other.domid)
    bind = abi.EvtchnBindInterdomain(remote_dom=domain.domid, remote_port=port)
    other.event_channels.bind_interdomain(bind)
    assert errno_of(table.send, abi.EvtchnSend(port=port)) == XEN_EINVAL
    assert errno_of(table.close, abi.EvtchnClose(port=port)) == XEN_EINVAL
    assert errno_of(table.bind_vcpu, abi.EvtchnBindVcpu(port=port, vcpu=0)) == XEN_EINVAL
    table.reset(abi.EvtchnReset(dom=domain.domid))
    assert table.snapshot(port)["state"] == 3
    # The other end sends to Xen: the vCPU goes on.
    vcpu = domain.vcpus[0]
    sched.block_enable_events(vcpu.record.address)
    assert vcpu.is_blocked
    other.event_channels.send(abi.EvtchnSend(port=bind.local_port))
    assert not vcpu.is_blocked
    assert not native.is_pending(table._channel(port))
    # And Xen sends to it.
    other.shared_info[PENDING : PENDING + 8] = bytes(8)
    native.notify_via_xen_event_channel(domain.record.address, port)
    assert native.is_pending(other.event_channels._channel(bind.local_port))
    control = Control(hypervisor, hypervisor.kernel)
    control.destroy_domain(domain.domid)
    assert other.event_channels.snapshot(bind.local_port)["state"] == 2


def test_who_gets_a_global_virq() -> None:
    hypervisor, domain, other = two_domains()
    control = Control(hypervisor, hypervisor.kernel)
    ports = []
    for each in (hypervisor.domain0, domain, other):
        op = abi.EvtchnBindVirq(virq=GLOBAL_VIRQ)
        each.event_channels.bind_virq(op)
        ports.append((each.event_channels, op.port))

    def told() -> list[int]:
        found = [native.is_pending(table._channel(port)) for table, port in ports]
        for table, _port in ports:
            table.domain.shared_info[PENDING : PENDING + 8] = bytes(8)
        return found

    hypervisor.send_global_virq(GLOBAL_VIRQ)
    assert told() == [1, 0, 0]
    control.set_virq_handler(domain.domid, GLOBAL_VIRQ)
    other.shutdown(0)
    assert told() == [0, 1, 0]
    assert errno_of(control.set_virq_handler, domain.domid, OWN_VIRQ) == XEN_EINVAL
    assert errno_of(Control(hypervisor, Kernel(domain)).set_virq_handler, domain.domid, GLOBAL_VIRQ) == XEN_EPERM
    # With the handler gone it is Domain 0's again, which hears of that.
    ports.pop(1)
    control.destroy_domain(domain.domid)
    assert told() == [1, 0]
