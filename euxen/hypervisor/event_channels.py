"""Event channels: the operations, with Xen's checks in Xen's order. Source: xen/common/event_channel.c.

Every operation takes the domain that asks and the operation's structure, whose OUT fields it fills in;
a guest's hypercall and Domain 0's own code call the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from euxen.abi import event_channel as abi
from euxen.abi.errno import (
    XEN_EAGAIN,
    XEN_EBUSY,
    XEN_EEXIST,
    XEN_EINVAL,
    XEN_ENOENT,
    XEN_ENOSPC,
    XEN_EOPNOTSUPP,
    XEN_EPERM,
    XEN_ESRCH,
)
from euxen.abi.xen import DOMID_SELF, NR_VIRQS
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor import event_channel as native
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_2l import COMPAT_2L_NR_CHANNELS
from euxen.hypervisor.event_channel import EVTCHNS_PER_BUCKET
from euxen.hypervisor.event_fifo import MAX_OFFSET, EvtchnFifo, raise_saved, save_pending
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
    from euxen.hypervisor.vcpu import Vcpu

VIRQS = VcpuRecord.offsetof("virq_to_evtchn") // 8
NR_IRQS_GSI = 16
"""Interrupts of a machine without an I/O APIC."""
NR_PIRQS = NR_IRQS_GSI + 32
"""Those, and as many as Xen keeps for each guest (extra_guest_irqs)."""
RESET_STEP = 64
"""After so many ports a reset, and the end of a domain, look whether others want to go on."""
INT_MAX = (1 << 31) - 1
STATUS = {
    ECS_FREE: abi.EVTCHNSTAT_closed,
    ECS_RESERVED: abi.EVTCHNSTAT_closed,
    ECS_UNBOUND: abi.EVTCHNSTAT_unbound,
    ECS_INTERDOMAIN: abi.EVTCHNSTAT_interdomain,
    ECS_PIRQ: abi.EVTCHNSTAT_pirq,
    ECS_VIRQ: abi.EVTCHNSTAT_virq,
    ECS_IPI: abi.EVTCHNSTAT_ipi,
}


class Preempted(Exception):
    """A reset that takes long lets others go first."""


def _check(result: int) -> None:
    if result < 0:
        raise XenError(-result)


class EventChannels:
    """The ports of one domain. Port 0 is never used. There are more as they are needed, a bucket at a time.

    Whoever binds ports has the machine's lock (Xen's event_lock); nothing else needs it.
    """

    def __init__(self, domain: Domain, max_port: int) -> None:
        """``max_port`` is the highest port that the domain may have."""
        self.domain = domain
        self._max_port = min(max_port, INT_MAX)
        self.domain_at: Callable[[int], Domain | None] = lambda domid: None
        self._address = domain.record.address
        self._buckets = Memory(abi.EVTCHN_FIFO_NR_CHANNELS // EVTCHNS_PER_BUCKET * 8)
        self._bucket_memory: list[Memory] = []
        self._fifo: EvtchnFifo | None = None
        self._next_reset = 0
        """Where a reset of this domain goes on; 0 if none is under way (next_evtchn)."""
        domain.record["evtchn_buckets"] = self._buckets.address
        self._add_bucket()
        self.record(0)["state"] = ECS_RESERVED
        domain.record["evtchn_hint"] = 1

    # Ports.

    @property
    def size(self) -> int:
        """How many ports there are (valid_evtchns); they are numbered below it."""
        return int(self.domain.record["valid_evtchns"])

    @property
    def limit(self) -> int:
        """How many ports there can be, with the limit of the domain and that of the ABI that it uses."""
        few = COMPAT_2L_NR_CHANNELS if self.domain.record["has_32bit_shinfo"] else abi.EVTCHN_2L_NR_CHANNELS
        ports = abi.EVTCHN_FIFO_NR_CHANNELS if self._fifo else few
        return min(self._max_port + 1, ports)

    def _add_bucket(self) -> None:
        first = self.size
        pool = self.domain.machine.evtchn_buckets
        memory = pool.pop() if pool else Memory(EVTCHNS_PER_BUCKET * EvtchnRecord.size)
        self._bucket_memory.append(memory)
        for port in range(EVTCHNS_PER_BUCKET):
            record = Record(EvtchnRecord, memory, port * EvtchnRecord.size)
            record["domain"], record["port"] = self._address, first + port
            record["state"] = ECS_FREE
            record["priority"] = record["last_queue"] = record["pending"] = 0
        self._buckets.words()[first // EVTCHNS_PER_BUCKET] = memory.address
        # Last: whoever sees it uses the bucket.
        self.domain.record["valid_evtchns"] = first + EVTCHNS_PER_BUCKET

    def record(self, port: int) -> Record:
        """The record of a port that exists."""
        memory = self._bucket_memory[port // EVTCHNS_PER_BUCKET]
        return Record(EvtchnRecord, memory, port % EVTCHNS_PER_BUCKET * EvtchnRecord.size)

    def snapshot(self, port: int) -> Record:
        """A copy of a port's record, as it is at one moment. Raises XenError if there is no such port."""
        if not 0 <= port < self.size:
            raise XenError(XEN_EINVAL)
        copy = Record(EvtchnRecord)
        native.snapshot(self._channel(port), copy.address)
        return copy

    def _channel(self, port: int) -> int:
        """The address of a port's record, or 0."""
        return native.evtchn_of(self._address, port)

    def _free_port(self) -> tuple[int, int]:
        """The lowest free port, and its record's address (get_free_port). Raises XenError."""
        if self.domain.record["is_dying"]:
            raise XenError(XEN_EINVAL)
        limit = self.limit
        port = native.get_free_port(self._address, limit)
        if port >= limit:
            raise XenError(XEN_ENOSPC)
        if port >= self.size:
            self._add_bucket()
        return port, self._channel(port)

    def _domain_named(self, domid: int) -> Domain:
        """A domain, by its number or DOMID_SELF (rcu_lock_domain_by_any_id)."""
        if domid in (DOMID_SELF, self.domain.domid):
            return self.domain
        other = self.domain_at(domid)
        if other is None:
            raise XenError(XEN_ESRCH)
        return other

    def _vcpu(self, vcpu_id: int) -> Vcpu:
        """A vCPU of this domain (domain_vcpu)."""
        if vcpu_id >= len(self.domain.vcpus):
            raise XenError(XEN_ENOENT)
        return self.domain.vcpus[vcpu_id]

    # Binding.

    def alloc_unbound(self, op: abi.EvtchnAllocUnbound) -> None:
        """EVTCHNOP_alloc_unbound."""
        domain = self._domain_named(op.dom)
        with self.domain.machine.lock:
            port, channel = domain.event_channels._free_port()
            xsm.evtchn_unbound(self.domain, domain)
            remote = self.domain.domid if op.remote_dom == DOMID_SELF else op.remote_dom
            native.bind_unbound(channel, remote, 0, 0)
        op.port = port

    def alloc_unbound_xen(self, vcpu: int, remote: int, notify: int = 0) -> int:
        """A port of this domain's at which Xen listens, and to which ``remote`` may bind; returns it.

        ``notify`` is the address of a native function (vcpu, port), by default one that wakes the vCPU
        (alloc_unbound_xen_event_channel). The guest can neither close nor use the port.
        """
        with self.domain.machine.lock:
            port, channel = self._free_port()
            native.bind_unbound(channel, remote, vcpu, notify or native.default_xen_notification.address)
        return port

    def bind_interdomain(self, op: abi.EvtchnBindInterdomain) -> None:
        """EVTCHNOP_bind_interdomain."""
        remote_domain = self._domain_named(op.remote_dom)
        with self.domain.machine.lock:
            port, channel = self._free_port()
            remote = remote_domain.event_channels._channel(op.remote_port)
            if not remote:
                raise XenError(XEN_EINVAL)
            xsm.evtchn_interdomain(self.domain, remote_domain)
            _check(native.bind_interdomain(channel, remote))
        op.local_port = port

    def bind_virq(self, op: abi.EvtchnBindVirq) -> None:
        """EVTCHNOP_bind_virq. Any domain may bind a global one, and the domain that handles it gets it."""
        if op.virq >= NR_VIRQS:
            raise XenError(XEN_EINVAL)
        if native.virq_is_global(op.virq) and op.vcpu != 0:
            raise XenError(XEN_EINVAL)
        vcpu = self._vcpu(op.vcpu)
        with self.domain.machine.lock:
            if self._virq_port(vcpu, op.virq):
                raise XenError(XEN_EEXIST)
            port, channel = self._free_port()
            native.bind_virq(channel, op.vcpu, op.virq)
        op.port = port

    @staticmethod
    def _virq_port(vcpu: Vcpu, virq: int) -> int:
        start = (vcpu.record.address - vcpu.record.memory.address) // 8 + VIRQS
        return int(vcpu.record.memory.words()[start + virq])

    def bind_ipi(self, op: abi.EvtchnBindIpi) -> None:
        """EVTCHNOP_bind_ipi."""
        self._vcpu(op.vcpu)
        with self.domain.machine.lock:
            port, channel = self._free_port()
            native.bind_ipi(channel, op.vcpu)
        op.port = port

    def bind_pirq(self, op: abi.EvtchnBindPirq) -> None:
        """EVTCHNOP_bind_pirq. No domain has been given the interrupt of a device (pirq_access_permitted)."""
        raise XenError(XEN_EINVAL if op.pirq >= NR_PIRQS else XEN_EPERM)

    # Using.

    def bind_vcpu(self, op: abi.EvtchnBindVcpu) -> None:
        """EVTCHNOP_bind_vcpu."""
        self._vcpu(op.vcpu)
        _check(native.evtchn_bind_vcpu(self._address, op.port, op.vcpu))

    def send(self, op: abi.EvtchnSend) -> None:
        """EVTCHNOP_send."""
        _check(native.evtchn_send(self._address, op.port))

    def unmask(self, op: abi.EvtchnUnmask) -> None:
        """EVTCHNOP_unmask."""
        _check(native.evtchn_unmask(self._address, op.port))

    def set_priority(self, op: abi.EvtchnSetPriority) -> None:
        """EVTCHNOP_set_priority."""
        _check(native.evtchn_set_priority(self._address, op.port, op.priority))

    def status(self, op: abi.EvtchnStatus) -> None:
        """EVTCHNOP_status."""
        domain = self._domain_named(op.dom)
        channel = domain.event_channels.snapshot(op.port)
        xsm.evtchn_status(self.domain, domain)
        state = channel["state"]
        op.status = STATUS[state]
        if state == ECS_UNBOUND:
            op.u.unbound.dom = channel["remote_domid"]
        elif state == ECS_INTERDOMAIN:
            op.u.interdomain.dom = channel["remote_domid"]
            op.u.interdomain.port = channel["remote_port"]
        elif state == ECS_VIRQ:
            op.u.virq = channel["virq"]
        op.vcpu = channel["notify_vcpu"]

    # The FIFO ABI.

    def init_control(self, op: abi.EvtchnInitControl) -> None:
        """EVTCHNOP_init_control: a vCPU's control block; the first makes the ports FIFO ports."""
        vcpu = self._vcpu(op.vcpu)
        if op.offset > MAX_OFFSET or op.offset & 7:
            raise XenError(XEN_EINVAL)
        with self.domain.machine.lock:
            fifo = self._fifo or EvtchnFifo(self.domain)
            try:
                fifo.map_control_block(vcpu, op.control_gfn, op.offset)
            except XenError:
                if fifo is not self._fifo:
                    fifo.destroy()
                raise
            if fifo is not self._fifo:
                self._fifo = fifo
                fifo.install()
                for port in range(1, min(self.size, abi.EVTCHN_2L_NR_CHANNELS)):
                    save_pending(self._channel(port))
        op.link_bits = abi.EVTCHN_FIFO_LINK_BITS

    def expand_array(self, op: abi.EvtchnExpandArray) -> None:
        """EVTCHNOP_expand_array: a page of event words."""
        with self.domain.machine.lock:
            if self._fifo is None:
                raise XenError(XEN_EOPNOTSUPP)
            first, end = self._fifo.add_page(op.array_gfn)
            for port in range(first, min(end, self.size)):
                raise_saved(self._channel(port))

    # Closing.

    def close(self, op: abi.EvtchnClose) -> None:
        """EVTCHNOP_close."""
        _check(native.evtchn_close(self._address, op.port, 1))

    def reset(self, op: abi.EvtchnReset, resuming: bool = False, preempt: Callable[[], bool] = lambda: False) -> None:
        """EVTCHNOP_reset: close every port that the guest may close, and go back to the two-level ABI.

        Raises Preempted when ``preempt`` says so; the caller goes on by ``resuming``.
        """
        domain = self._domain_named(op.dom)
        xsm.evtchn_reset(self.domain, domain)
        if domain is not self.domain and not domain.controller_pause_count:
            raise XenError(XEN_EINVAL)
        domain.event_channels._reset(resuming, preempt)

    def _reset(self, resuming: bool, preempt: Callable[[], bool]) -> None:
        with self.domain.machine.lock:
            first = self._next_reset if resuming else int(not self._next_reset)
            if not first:
                raise XenError(XEN_EBUSY)
            self._next_reset = max(self._next_reset, first)
            record = self.domain.record
            for port in range(first, self.size):
                if record["active_evtchns"] <= record["xen_evtchns"]:
                    break
                native.evtchn_close(self._address, port, 1)
                if port % RESET_STEP == 0 and preempt():
                    self._next_reset = port + 1  # at least one port each time
                    raise Preempted
            self._next_reset = 0
            if record["active_evtchns"] > record["xen_evtchns"]:
                raise XenError(XEN_EAGAIN)
            self._leave_fifo()

    @property
    def fifo_frames(self) -> list[int]:
        """The machine frames of the domain's in which the FIFO ABI has its words."""
        return self._fifo.frames if self._fifo is not None else []

    def _leave_fifo(self) -> None:
        if self._fifo is not None:
            self._fifo.destroy()
            self._fifo = None

    def destroy(self) -> Iterator[None]:
        """The domain dies: close every port, Xen's as well (evtchn_destroy). No other can be bound.

        Step by step, with the machine's lock held in each.
        """
        assert self.domain.record["is_dying"]
        for port in range(1, self.size):
            native.evtchn_close(self._address, port, 0)
            if port % RESET_STEP == 0:
                yield
        self._leave_fifo()
        self.domain.record["valid_evtchns"] = 0
        self.domain.machine.evtchn_buckets += self._bucket_memory
        self._bucket_memory.clear()
