"""The hypervisor: one machine and the domains on it, and the control interface for its tools.

``Control`` is what a privileged domain's kernel and tools can ask for: domctl, foreign mappings, memory
for others. Every request is made in the name of a domain, and refused to one without the privilege.
"""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.abi.errno import XEN_EINVAL, XEN_ENOMEM, XEN_EPERM, XEN_ESRCH
from euxen.abi.event_channel import EvtchnAllocUnbound, EvtchnBindInterdomain
from euxen.cpu.engine import Engine
from euxen.cpu.native.memory import Memory
from euxen.cpu.policy import Tsc, default_policy
from euxen.hypervisor import hypercall_page
from euxen.hypervisor.domain import DEFAULT_MAX_EVTCHN_PORT, Domain
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.event_channel import MAX_PORTS
from euxen.hypervisor.foreign import ForeignPage
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
        self.domain0 = self._new_domain(DOM0_MAX_PAGES, 1, MAX_PORTS - 1, privileged=True)

    def _new_domain(self, max_pages: int, max_vcpus: int, max_evtchn_port: int, privileged: bool = False) -> Domain:
        domid = self.machine.allocate_domid()
        domain = Domain(self.machine, domid, max_pages, max_vcpus, max_evtchn_port, privileged)
        domain.event_channels.domain_at = self.domains.get
        self.domains[domain.domid] = domain
        return domain

    def control(self, caller: Domain) -> Control:
        """The control interface, for requests in the name of ``caller``."""
        return Control(self, caller)


class Control:
    """Requests of one domain for itself and, if it has the privilege, for others. All raise XenError."""

    def __init__(self, hypervisor: Hypervisor, caller: Domain) -> None:
        self._hypervisor = hypervisor
        self.caller = caller

    def _check_privilege(self) -> None:
        if not self.caller.privileged:
            raise XenError(XEN_EPERM)

    def domain(self, domid: int) -> Domain:
        """A domain that the caller may manage."""
        domain = self._hypervisor.domains.get(domid)
        if domain is None:
            raise XenError(XEN_ESRCH)
        if domain is not self.caller:
            self._check_privilege()
        return domain

    def create_domain(self, max_pages: int, max_vcpus: int = 1, max_evtchn_port: int = DEFAULT_MAX_EVTCHN_PORT) -> int:
        """XEN_DOMCTL_createdomain: a PV domain without memory; returns its domid."""
        self._check_privilege()
        hypervisor = self._hypervisor
        machine = hypervisor.machine
        domain = hypervisor._new_domain(max_pages, max_vcpus, max_evtchn_port)
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
        domain = self.domain(domid)
        domain.destroy()
        del self._hypervisor.domains[domid]

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
        table = self.domain(domid).grant_table
        try:
            table.grow()
        except GrantError as error:
            raise XenError(XEN_ENOMEM) from error
        return self._hypervisor.machine.frame(table.frames[0])

    # Event channels.

    def alloc_unbound(self, domid: int, remote: int) -> int:
        """A new port of ``domid`` that ``remote`` may bind to."""
        op = EvtchnAllocUnbound(dom=domid, remote_dom=remote)
        self.caller.event_channels.alloc_unbound(op)
        return op.port

    def bind_interdomain(self, remote: int, remote_port: int, handler: Callable[[], None]) -> int:
        """Bind to another domain's port; ``handler`` is called, in any thread, when an event comes."""
        op = EvtchnBindInterdomain(remote_dom=remote, remote_port=remote_port)
        table = self.caller.event_channels
        table.bind_interdomain(op)
        table.handlers[op.local_port] = handler
        return op.local_port

    def notify(self, port: int) -> None:
        """EVTCHNOP_send."""
        self.caller.event_channels.send(port)

    @staticmethod
    def _result(value: int) -> int:
        if value < 0:
            raise XenError(-value)
        return value
