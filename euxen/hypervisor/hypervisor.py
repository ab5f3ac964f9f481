"""The hypervisor: one machine and the domains on it, and the control interface for its tools.

``Control`` is what a privileged domain's kernel and tools can ask for: domctl, foreign mappings, memory
for others. Every request is made in the name of a domain, and refused to one without the privilege.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.abi.errno import XEN_EINVAL, XEN_ENOMEM, XEN_ESRCH
from euxen.abi.event_channel import (
    EVTCHN_FIFO_NR_CHANNELS,
    EvtchnAllocUnbound,
    EvtchnBindInterdomain,
    EvtchnBindIpi,
    EvtchnBindVirq,
    EvtchnClose,
    EvtchnSend,
)
from euxen.abi.grant_table import GnttabCopy
from euxen.abi.xen import NR_VIRQS, VIRQ_DOM_EXC
from euxen.cpu.engine import Engine
from euxen.cpu.native.memory import Memory
from euxen.cpu.policy import Tsc, default_policy
from euxen.hypervisor import hypercall_page, sched, xsm
from euxen.hypervisor.domain import DEFAULT_MAX_EVTCHN_PORT, Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channel import send_guest_global_virq, virq_is_global
from euxen.hypervisor.foreign import ForeignPage
from euxen.hypervisor.grant_table import DEFAULT_GRANT_LIMITS, GrantLimits
from euxen.hypervisor.granted import GrantedPages, grant_copy
from euxen.hypervisor.machine import PAGE_SIZE, Machine
from euxen.hypervisor.mm import mmu, pagetable, populate
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.page import ERESTART
from euxen.hypervisor.mm.pagetable import PGT_TABLES
from euxen.hypervisor.vcpu import time_scale

MakeEngine = Callable[[int, int], Engine]
DOM0_MAX_PAGES = 1 << 40


class Hypervisor:
    """Xen: the domains of a machine. Domain 0 is there from the start."""

    def __init__(self, machine: Machine, make_engine: MakeEngine) -> None:
        self.machine = machine
        self.make_engine = make_engine
        self.domains: dict[int, Domain] = {}
        self._dying: list[Domain] = []
        self._global_virq_handlers: dict[int, Domain] = {}
        """Who gets a global virtual interrupt, where it is not Domain 0."""
        self.domain0 = self._new_domain(DOM0_MAX_PAGES, 1, EVTCHN_FIFO_NR_CHANNELS - 1, privileged=True)
        self.domain0.record["is_external"] = 1

    def _new_domain(
        self,
        max_pages: int,
        max_vcpus: int,
        max_evtchn_port: int,
        privileged: bool = False,
        grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS,
    ) -> Domain:
        domid = self.machine.allocate_domid()
        domain = Domain(self.machine, domid, max_pages, max_vcpus, max_evtchn_port, privileged, grant_limits)
        domain.event_channels.domain_at = self.find
        domain.on_exit = lambda: self.send_global_virq(VIRQ_DOM_EXC)
        self.domains[domain.domid] = domain
        return domain

    def find(self, domid: int) -> Domain | None:
        """A domain by its number. One that was killed is there for as long as others have pages of it."""
        self.reap()
        return self.domains.get(domid)

    def kill(self, domain: Domain) -> None:
        """Destroy a domain."""
        with self.machine.lock:
            if domain not in self._dying:
                self._forget_virqs(domain)
                domain.kill()
                self._dying.append(domain)
        self.send_global_virq(VIRQ_DOM_EXC)
        self.reap()

    def reap(self) -> None:
        """Forget the domains that are gone."""
        if not self._dying:
            return
        with self.machine.lock:
            for domain in [domain for domain in self._dying if domain.is_gone]:
                self._dying.remove(domain)
                del self.domains[domain.domid]
                domain.complete_destroy()
                self.send_global_virq(VIRQ_DOM_EXC)

    def send_global_virq(self, virq: int) -> None:
        """Raise a global virtual interrupt in the domain that handles it."""
        handler = self._global_virq_handlers.get(virq, self.domain0)
        send_guest_global_virq(handler.record.address, virq)

    def set_global_virq_handler(self, domain: Domain, virq: int) -> None:
        """Let a domain get a global virtual interrupt, until it dies. Raises XenError."""
        if virq >= NR_VIRQS or not virq_is_global(virq) or domain.record["is_dying"]:
            raise XenError(XEN_EINVAL)
        self._global_virq_handlers[virq] = domain

    def _forget_virqs(self, domain: Domain) -> None:
        """A domain that dies handles no global virtual interrupt any more."""
        for virq in [virq for virq, handler in self._global_virq_handlers.items() if handler is domain]:
            del self._global_virq_handlers[virq]

    def control(self, caller: Domain) -> Control:
        """The control interface, for requests in the name of ``caller``."""
        return Control(self, caller)


class Control:
    """Requests of one domain for itself and, if it has the privilege, for others. All raise XenError."""

    def __init__(self, hypervisor: Hypervisor, caller: Domain) -> None:
        self._hypervisor = hypervisor
        self.caller = caller

    @property
    def lock(self) -> threading.RLock:
        """The machine's lock, which makes Domain 0's daemons one at a time."""
        return self._hypervisor.machine.lock

    def domain(self, domid: int) -> Domain:
        """A domain that the caller may manage."""
        domain = self._hypervisor.find(domid)
        if domain is None:
            raise XenError(XEN_ESRCH)
        if domain is not self.caller:
            xsm.domctl(self.caller, domain)
        return domain

    def create_domain(
        self,
        max_pages: int,
        max_vcpus: int = 1,
        max_evtchn_port: int = DEFAULT_MAX_EVTCHN_PORT,
        grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS,
    ) -> int:
        """XEN_DOMCTL_createdomain: a PV domain without memory; returns its domid."""
        xsm.domctl(self.caller)
        hypervisor = self._hypervisor
        machine = hypervisor.machine
        domain = hypervisor._new_domain(max_pages, max_vcpus, max_evtchn_port, grant_limits=grant_limits)
        engine = hypervisor.make_engine(machine.ram_address, machine.frames)
        domain.attach(engine)
        shift, multiplier = time_scale(machine.tsc_khz)
        domain.set_cpuid(default_policy(Tsc(machine.tsc_khz, multiplier, shift), machine.frames - 1))
        return domain.domid

    def resume_domain(self, domid: int) -> None:
        """XEN_DOMCTL_resumedomain: one that has suspended itself goes on as if it had not (domain_resume)."""
        self.domain(domid).resume()

    def destroy_domain(self, domid: int) -> None:
        """XEN_DOMCTL_destroydomain."""
        self._hypervisor.kill(self.domain(domid))

    def populate_physmap(self, domid: int, first_pfn: int, count: int) -> memoryview:
        """XENMEM_populate_physmap: memory at ``count`` pfns; returns the frames' numbers. All or an error."""
        domain = self.domain(domid)
        frames = Memory(8 * count)
        if populate.populate(domain.record.address, first_pfn, count, frames.address) != count:
            raise XenError(XEN_ENOMEM)
        return frames.words()

    def map_foreign(self, domid: int, frame: int, pages: int = 1) -> memoryview:
        """Map machine frames of a domain, in a row, for whoever builds it: before it runs, as no reference is kept."""
        domain = self.domain(domid)
        machine = self._hypervisor.machine
        for number in range(frame, frame + pages):
            if not 0 <= number < machine.frames:
                raise XenError(XEN_EINVAL)
            page = pg.page_of(machine.record.address, number)
            if not pg.get_page(page, domain.record.address):
                raise XenError(XEN_EINVAL)
            pg.put_page(page)
        return machine.ram[frame * PAGE_SIZE : (frame + pages) * PAGE_SIZE]

    def hold_foreign(self, domid: int, frame: int) -> ForeignPage:
        """Map a machine frame of a domain until it is released."""
        return ForeignPage(self.domain(domid), frame)

    def pin_table(self, domid: int, level: int, frame: int) -> None:
        """MMUEXT_PIN_Ln_TABLE for another domain: its page table is checked, and stays one."""
        domain = self.domain(domid).record.address
        error = -ERESTART
        while error == -ERESTART:
            pagetable.finish_old_guest_table(domain)
            error = mmu.pin(domain, frame, PGT_TABLES[level])
        pagetable.finish_old_guest_table(domain)
        self._result(error)

    def set_vcpu_context(self, domid: int, vcpu: int, context: VcpuGuestContext) -> None:
        """XEN_DOMCTL_setvcpucontext."""
        self.domain(domid).vcpus[vcpu].set_context(context)

    def set_memory_map(self, domid: int, entries: list[tuple[int, int, int]]) -> None:
        """XENMEM_set_memory_map: (address, bytes, E820_*)."""
        self.domain(domid).memory_map = entries

    def hypercall_init(self, domid: int, frame: int) -> None:
        """XEN_DOMCTL_hypercall_init: fill a page with hypercall stubs."""
        self.map_foreign(domid, frame)[:] = hypercall_page.pv_page()

    def shared_info_frame(self, domid: int) -> int:
        """The machine frame of a domain's shared_info (XEN_DOMCTL_getdomaininfo)."""
        return self.domain(domid).shared_info_frame

    def shared_info(self, domid: int) -> memoryview:
        """A domain's shared_info page, mapped."""
        return self.domain(domid).shared_info

    def grant_table(self, domid: int) -> memoryview:
        """The first frame of a domain's grant table, mapped (XENMEM_acquire_resource)."""
        return self._hypervisor.machine.frame(self.domain(domid).grant_table.frames[0])

    def map_grants(self, domid: int, refs: Sequence[int], writable: bool = True) -> GrantedPages:
        """GNTTABOP_map_grant_ref: map frames that a domain lends to the caller. All, or GrantError is raised."""
        return GrantedPages(self.caller, domid, refs, writable)

    def grant_copy(self, operations: Sequence[GnttabCopy]) -> None:
        """GNTTABOP_copy: what became of each is in its ``status``."""
        grant_copy(self.caller, operations)

    # Event channels.

    def alloc_unbound(self, domid: int, remote: int) -> int:
        """A new port of ``domid`` that ``remote`` may bind to."""
        op = EvtchnAllocUnbound(dom=domid, remote_dom=remote)
        self.caller.event_channels.alloc_unbound(op)
        return op.port

    def bind_interdomain(self, remote: int, remote_port: int) -> int:
        """Bind to another domain's port; returns the caller's own."""
        op = EvtchnBindInterdomain(remote_dom=remote, remote_port=remote_port)
        self.caller.event_channels.bind_interdomain(op)
        return op.local_port

    def bind_virq(self, virq: int) -> int:
        """A port of the caller's for a virtual interrupt of its first vCPU."""
        op = EvtchnBindVirq(virq=virq)
        self.caller.event_channels.bind_virq(op)
        return op.port

    def bind_ipi(self) -> int:
        """A port by which the caller notifies itself."""
        op = EvtchnBindIpi()
        self.caller.event_channels.bind_ipi(op)
        return op.port

    def close(self, port: int) -> None:
        """EVTCHNOP_close."""
        self.caller.event_channels.close(EvtchnClose(port=port))

    def notify(self, port: int) -> None:
        """EVTCHNOP_send."""
        self.caller.event_channels.send(EvtchnSend(port=port))

    def block(self) -> None:
        """SCHEDOP_block, for a domain whose kernel is this program: wait until an event is pending."""
        sched.wait_for_event(self.caller.vcpus[0].record.address)

    def set_virq_handler(self, domid: int, virq: int) -> None:
        """XEN_DOMCTL_set_virq_handler: let a domain get a global virtual interrupt."""
        xsm.domctl(self.caller)
        self._hypervisor.set_global_virq_handler(self.domain(domid), virq)

    @staticmethod
    def _result(value: int) -> int:
        if value < 0:
            raise XenError(-value)
        return value
