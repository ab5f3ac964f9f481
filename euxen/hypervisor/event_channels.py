"""Event channels: making, binding and closing ports. Source: xen/common/event_channel.c.

Every operation takes the domain that asks and the operation's structure, whose OUT fields it fills in;
a guest's hypercall and Domain 0's own code call the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from euxen.abi import event_channel as abi
from euxen.abi.errno import XEN_EEXIST, XEN_EINVAL, XEN_ENOENT, XEN_ENOSPC, XEN_EPERM, XEN_ESRCH
from euxen.abi.xen import DOMID_SELF, NR_VIRQS
from euxen.cpu.native.memory import Memory
from euxen.hypervisor import event_channel as native
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.records import (
    ECS_FREE,
    ECS_INTERDOMAIN,
    ECS_IPI,
    ECS_PIRQ,
    ECS_RESERVED,
    ECS_UNBOUND,
    ECS_VIRQ,
    EvtchnRecord,
    VcpuRecord,
)

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

VIRQS = VcpuRecord.offsetof("virq_to_evtchn") // 8
PER_VCPU_VIRQS = {0, 1, 7, 13}
PORTS_PER_BUCKET = 128
NR_IRQS_GSI = 16
"""Interrupts of a machine without an I/O APIC."""
NR_PIRQS = NR_IRQS_GSI + 32
"""Those, and as many as Xen keeps for each guest (extra_guest_irqs)."""
WORDS = EvtchnRecord.size // 8
STATUS = {
    ECS_FREE: abi.EVTCHNSTAT_closed,
    ECS_RESERVED: abi.EVTCHNSTAT_closed,
    ECS_UNBOUND: abi.EVTCHNSTAT_unbound,
    ECS_INTERDOMAIN: abi.EVTCHNSTAT_interdomain,
    ECS_PIRQ: abi.EVTCHNSTAT_pirq,
    ECS_VIRQ: abi.EVTCHNSTAT_virq,
    ECS_IPI: abi.EVTCHNSTAT_ipi,
}


class EventChannels:
    """The ports of one domain. Port 0 is never used. There are more as they are needed, a bucket at a time."""

    def __init__(self, domain: Domain, max_port: int) -> None:
        self.domain = domain
        self._max_port = min(max_port, native.MAX_PORTS - 1)
        self.domain_at: Callable[[int], Domain | None] = lambda domid: None
        self.handlers: dict[int, Callable[[], None]] = {}
        """For a domain whose kernel is this program: what an event on a port calls."""
        self._table = Memory(native.MAX_PORTS * EvtchnRecord.size)
        self._words = self._table.words()
        domain.record["evtchns"], domain.record["max_evtchns"] = self._table.address, PORTS_PER_BUCKET
        self._words[0] = ECS_RESERVED

    def _get(self, port: int, field: int) -> int:
        return self._words[port * WORDS + field // 8]

    def _set(self, port: int, **fields: int) -> None:
        for name, value in fields.items():
            self._words[port * WORDS + EvtchnRecord.offsets[name] // 8] = value

    @property
    def size(self) -> int:
        """How many ports there are (valid_evtchns); they are numbered below it."""
        return int(self.domain.record["max_evtchns"])

    def pending(self, port: int) -> bool:
        """Whether an event is pending on a port."""
        word = self.domain.shared_info[native.EVTCHN_PENDING + port // 8]
        return bool(word >> (port & 7) & 1)

    def state(self, port: int) -> int:
        """ECS_* of a port. Raises XenError for a port that does not exist."""
        if not 0 < port < self.size:
            raise XenError(XEN_EINVAL)
        return self._get(port, EvtchnRecord.state)

    def _free_port(self) -> int:
        for port in range(1, min(self.size, self._max_port + 1)):
            if self._get(port, EvtchnRecord.state) == ECS_FREE:
                return port
        if self.size > self._max_port:
            raise XenError(XEN_ENOSPC)
        port = self.size
        self.domain.record["max_evtchns"] = port + PORTS_PER_BUCKET
        return port

    def _vcpu_exists(self, vcpu: int) -> None:
        if vcpu >= self.domain.max_vcpus:
            raise XenError(XEN_ENOENT)

    def _named(self, domid: int) -> EventChannels:
        """The table of a domain that the caller names: its own, or any if the caller is privileged."""
        table = self._of(domid)
        self._may_manage(table)
        return table

    def _of(self, domid: int) -> EventChannels:
        """The table of a domain, for a caller of whom it is not yet known what he may do with it."""
        if domid in (DOMID_SELF, self.domain.domid):
            return self
        other = self.domain_at(domid)
        if other is None:
            raise XenError(XEN_ESRCH)
        return other.event_channels

    def _may_manage(self, table: EventChannels) -> None:
        if table is not self and not self.domain.privileged:
            raise XenError(XEN_EPERM)

    def alloc_unbound(self, op: abi.EvtchnAllocUnbound) -> None:
        """EVTCHNOP_alloc_unbound."""
        table = self._named(op.dom)
        port = table._free_port()
        remote = self.domain.domid if op.remote_dom == DOMID_SELF else op.remote_dom
        table._set(port, state=ECS_UNBOUND, remote_domain=remote, notify_vcpu=0)
        op.port = port

    def bind_interdomain(self, op: abi.EvtchnBindInterdomain) -> None:
        """EVTCHNOP_bind_interdomain."""
        remote_domid = self.domain.domid if op.remote_dom == DOMID_SELF else op.remote_dom
        remote_domain = self.domain if remote_domid == self.domain.domid else self.domain_at(remote_domid)
        if remote_domain is None:
            raise XenError(XEN_ESRCH)
        port = self._free_port()
        remote = remote_domain.event_channels
        if remote.state(op.remote_port) != ECS_UNBOUND:
            raise XenError(XEN_EINVAL)
        if remote._get(op.remote_port, EvtchnRecord.remote_domain) != self.domain.domid:
            raise XenError(XEN_EINVAL)
        self._set(port, state=ECS_INTERDOMAIN, remote_domain=remote_domid, remote_port=op.remote_port, notify_vcpu=0)
        remote._set(op.remote_port, state=ECS_INTERDOMAIN, remote_domain=self.domain.domid, remote_port=port)
        op.local_port = port
        # An event may have been sent before anybody listened.
        self.raise_event(port)

    def bind_virq(self, op: abi.EvtchnBindVirq) -> None:
        """EVTCHNOP_bind_virq."""
        if op.virq >= NR_VIRQS:
            raise XenError(XEN_EINVAL)
        if op.virq not in PER_VCPU_VIRQS and op.vcpu != 0:
            raise XenError(XEN_EINVAL)
        self._vcpu_exists(op.vcpu)
        virqs = self._virqs(op.vcpu)
        if virqs[op.virq]:
            raise XenError(XEN_EEXIST)
        port = self._free_port()
        self._set(port, state=ECS_VIRQ, notify_vcpu=op.vcpu, number=op.virq)
        virqs[op.virq] = port
        op.port = port

    def _virqs(self, vcpu: int) -> memoryview:
        record = self.domain.vcpus[vcpu].record
        start = (record.address - record.memory.address) // 8 + VIRQS
        return record.memory.words()[start : start + NR_VIRQS]

    def bind_ipi(self, op: abi.EvtchnBindIpi) -> None:
        """EVTCHNOP_bind_ipi."""
        self._vcpu_exists(op.vcpu)
        port = self._free_port()
        self._set(port, state=ECS_IPI, notify_vcpu=op.vcpu)
        op.port = port

    def bind_pirq(self, op: abi.EvtchnBindPirq) -> None:
        """EVTCHNOP_bind_pirq. No domain has been given the interrupt of a device."""
        raise XenError(XEN_EINVAL if op.pirq >= NR_PIRQS else XEN_EPERM)

    def bind_vcpu(self, op: abi.EvtchnBindVcpu) -> None:
        """EVTCHNOP_bind_vcpu."""
        self._vcpu_exists(op.vcpu)
        state = self.state(op.port)
        per_vcpu = state == ECS_VIRQ and self._get(op.port, EvtchnRecord.number) in PER_VCPU_VIRQS
        if per_vcpu or state not in (ECS_VIRQ, ECS_UNBOUND, ECS_INTERDOMAIN, ECS_PIRQ):
            raise XenError(XEN_EINVAL)
        self._set(op.port, notify_vcpu=op.vcpu)

    def close(self, port: int) -> None:
        """EVTCHNOP_close."""
        state = self.state(port)
        if state in (ECS_FREE, ECS_RESERVED):
            raise XenError(XEN_EINVAL)
        if state == ECS_VIRQ:
            virq = self._get(port, EvtchnRecord.number)
            # A global one stays the first vCPU's, whoever is notified of it.
            vcpu = self._get(port, EvtchnRecord.notify_vcpu) if virq in PER_VCPU_VIRQS else 0
            self._virqs(vcpu)[virq] = 0
        if state == ECS_INTERDOMAIN:
            other = self.domain_at(self._get(port, EvtchnRecord.remote_domain))
            remote_port = self._get(port, EvtchnRecord.remote_port)
            if other is not None:
                other.event_channels._set(
                    remote_port, state=ECS_UNBOUND, remote_domain=self.domain.domid, remote_port=0
                )
        self._forget(port)

    def _forget(self, port: int) -> None:
        """Make a port free, with nothing pending on it."""
        native.clear_pending(self.domain.record.address, port)
        self.handlers.pop(port, None)
        self._set(port, state=ECS_FREE, notify_vcpu=0, remote_domain=0, remote_port=0, number=0)

    def close_all(self) -> None:
        """Close every port, as when the domain dies or resets."""
        for port in range(1, self.size):
            if self._get(port, EvtchnRecord.state) != ECS_FREE:
                self.close(port)

    def reset(self, op: abi.EvtchnReset) -> None:
        """EVTCHNOP_reset."""
        self._named(op.dom).close_all()

    def status(self, op: abi.EvtchnStatus) -> None:
        """EVTCHNOP_status."""
        table = self._of(op.dom)
        if op.port >= table.size:
            raise XenError(XEN_EINVAL)
        self._may_manage(table)
        state = table._get(op.port, EvtchnRecord.state)
        op.status = STATUS[state]
        remote = table._get(op.port, EvtchnRecord.remote_domain)
        if state == ECS_UNBOUND:
            op.u.unbound.dom = remote
        elif state == ECS_INTERDOMAIN:
            op.u.interdomain.dom = remote
            op.u.interdomain.port = table._get(op.port, EvtchnRecord.remote_port)
        elif state == ECS_VIRQ:
            op.u.virq = table._get(op.port, EvtchnRecord.number)
        op.vcpu = table._get(op.port, EvtchnRecord.notify_vcpu)

    def send(self, port: int) -> None:
        """EVTCHNOP_send."""
        state = self.state(port)
        if state == ECS_INTERDOMAIN:
            other = self.domain_at(self._get(port, EvtchnRecord.remote_domain))
            if other is not None:
                other.event_channels.raise_event(self._get(port, EvtchnRecord.remote_port))
        elif state == ECS_IPI:
            self.raise_event(port)
        elif state != ECS_UNBOUND:  # events to a port that nobody listens to are lost
            raise XenError(XEN_EINVAL)

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask. Port 0 is as good as any."""
        if port >= self.size:
            raise XenError(XEN_EINVAL)
        domain = self.domain.record.address
        native.unmask(domain, self._notified(port), port)

    def _notified(self, port: int) -> int:
        return native.vcpu_of(self.domain.record.address, self._get(port, EvtchnRecord.notify_vcpu))

    def raise_event(self, port: int) -> None:
        """An event arrives on one of this domain's ports."""
        handler = self.handlers.get(port)
        if handler is not None:
            handler()
        else:
            native.set_pending(self.domain.record.address, self._notified(port), port)
