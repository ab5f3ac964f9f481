"""The hypervisor: one machine and the domains on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from euxen.abi.arch_x86_xen import XEN_X86_EMU_ALL, XEN_X86_EMU_LAPIC, XEN_X86_EMU_PIT, XEN_X86_MSR_RELAXED
from euxen.abi.domctl import (
    XEN_DOMCTL_CDF_MAX,
    XEN_DOMCTL_CDF_hap,
    XEN_DOMCTL_CDF_hvm,
    XEN_DOMCTL_CDF_iommu,
    XEN_DOMCTL_CDF_nested_virt,
    XEN_DOMCTL_CDF_s3_integrity,
    XEN_DOMCTL_CDF_vpmu,
    XEN_DOMCTL_GRANT_version_mask,
    XenDomctlCreatedomain,
)
from euxen.abi.errno import XEN_EEXIST, XEN_EINVAL, XEN_ENODEV, XEN_ENOMEM, XEN_EOPNOTSUPP
from euxen.abi.event_channel import EVTCHN_FIFO_NR_CHANNELS
from euxen.abi.xen import DOMID_FIRST_RESERVED, DOMID_IO, DOMID_XEN, NR_VIRQS, VIRQ_DOM_EXC
from euxen.cpu.engine import Engine
from euxen.cpu.native.language import load64, native
from euxen.cpu.native.memory import Record
from euxen.cpu.policy import Tsc, default_hvm_policy, default_policy
from euxen.hypervisor.caller import Caller, Kernel
from euxen.hypervisor.destruction import complete_destroy, is_gone, kill
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.domain_list import enlist
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.event_channel import send_guest_global_virq, virq_is_global
from euxen.hypervisor.grant_table import MAX_GRANT_VERSION
from euxen.hypervisor.machine import Machine
from euxen.hypervisor.records import DomainRecord, MachineRecord
from euxen.hypervisor.vcpu import time_scale


class MakeEngine(Protocol):
    """Makes engines: for RAM at a host address, of so many frames, and for the kind of guest."""

    def __call__(self, ram: int, frames: int, *, hvm: bool = False) -> Engine: ...


DOM0_MAX_PAGES = (1 << 32) - 1
MAX_VIRT_CPUS = 1
"""How many vCPUs a domain can have: nobody lets several of one take turns yet."""
CPUPOOL_0 = 0


@native
def domain_gone(machine: int) -> int:
    """``MachineRecord.domain_gone``: tell who manages domains."""
    return send_guest_global_virq(load64(machine + MachineRecord.dom_exc_handler), VIRQ_DOM_EXC)


def sanitise_domain_config(config: XenDomctlCreatedomain) -> None:
    """Whether a domain can be created so, in a Xen without IOMMU and nested guests. Raises XenError.

    sanitise_domain_config and arch_sanitise_domain_config.
    """
    flags = config.flags
    is_hvm = flags & XEN_DOMCTL_CDF_hvm
    wrong = (
        flags & ~(2 * XEN_DOMCTL_CDF_MAX - 1)
        or config.grant_opts & ~XEN_DOMCTL_GRANT_version_mask
        or config.max_vcpus < 1
        or flags & (XEN_DOMCTL_CDF_iommu | XEN_DOMCTL_CDF_vpmu)
        or (flags & XEN_DOMCTL_CDF_hap and not is_hvm)
        or config.iommu_opts
        or config.vmtrace_size
        or config.max_vcpus > MAX_VIRT_CPUS
        or flags & (XEN_DOMCTL_CDF_s3_integrity | XEN_DOMCTL_CDF_nested_virt)
        or config.arch.misc_flags & ~XEN_X86_MSR_RELAXED
    )
    if wrong:
        raise XenError(XEN_EINVAL)


def check_emulation(config: XenDomctlCreatedomain) -> None:
    """Whether Xen has the devices that it shall emulate (emulation_flags_ok). Raises XenError.

    An HVM guest with a board is not to be had, nor one whose p2m Xen would have to shadow.
    """
    emulation = config.arch.emulation_flags
    if emulation & ~XEN_X86_EMU_ALL:
        raise XenError(XEN_EINVAL)
    if config.flags & XEN_DOMCTL_CDF_hvm:
        possible = emulation == XEN_X86_EMU_LAPIC and config.flags & XEN_DOMCTL_CDF_hap
    else:
        possible = emulation in (0, XEN_X86_EMU_PIT)
    if not possible:
        raise XenError(XEN_EOPNOTSUPP)


class Hypervisor:
    """Xen: the domains of a machine. Domain 0 is there from the start."""

    def __init__(
        self, machine: Machine, make_engine: MakeEngine, run: Callable[[Domain], None] = lambda domain: None
    ) -> None:
        """``run`` is called when a domain may run, with the machine's lock; by default whoever wants runs it."""
        self.machine = machine
        self.make_engine = make_engine
        self._run = run
        self._domains: dict[int, Domain] = {}
        self._dying: list[Domain] = []
        self._rover = 0
        self._managing = False
        """Whether somebody changes a domain and has to wait meanwhile (domctl_lock)."""
        self._global_virq_handlers: dict[int, Domain] = {}
        """Who gets a global virtual interrupt, where it is not Domain 0."""
        self._former_handlers: list[Domain] = []
        """Dead domains whose records stay: a thread may be about to tell them something."""
        self.system_domains = {domid: self._system_domain(domid) for domid in (DOMID_IO, DOMID_XEN)}
        """Owners of pages that are no domain's: their DomainRecords, by domid."""
        machine.give_m2p(self.system_domains[DOMID_XEN].address)
        config = XenDomctlCreatedomain(
            max_vcpus=1,
            max_evtchn_port=EVTCHN_FIFO_NR_CHANNELS - 1,
            max_grant_frames=-1,
            max_maptrack_frames=-1,
            grant_opts=MAX_GRANT_VERSION,
        )
        self.domain0 = Domain(machine, 0, config, privileged=True)
        self.domain0.record["max_pages"] = DOM0_MAX_PAGES
        self.domain0.record["is_external"] = 1
        self.domain0.create_vcpus()
        self.domain0.creation_finished = True
        self._insert(self.domain0)
        machine.record["dom_exc_handler"] = self.domain0.record.address
        machine.record["domain_gone"] = domain_gone.address
        self.kernel = Kernel(self.domain0)
        """The kernel of Domain 0."""

    def _system_domain(self, domid: int) -> Record:
        record = Record(DomainRecord)
        record["domain_id"], record["machine"], record["refcnt"] = domid, self.machine.record.address, 1
        return record

    # The list of domains.

    def _insert(self, domain: Domain) -> None:
        domain.hypervisor = self
        domain.event_channels.domain_at = self.find
        domain.on_exit = lambda: self.send_global_virq(VIRQ_DOM_EXC)
        domain.on_runnable = lambda: self._run(domain)
        self._domains[domain.domid] = domain
        enlist(self.machine.record.address, domain.record.address)

    def forget_gone(self) -> None:
        """Free the dead domains whose pages nobody refers to any more."""
        for domain in [domain for domain in self._dying if is_gone(domain)]:
            self._dying.remove(domain)
            del self._domains[domain.domid]
            complete_destroy(domain)

    def find(self, domid: int) -> Domain | None:
        """The domain with a number, dead or alive (rcu_lock_domain_by_id)."""
        domain = self._domains.get(domid)
        if domain is not None and is_gone(domain):
            with self.machine.lock:
                self.forget_gone()
            return self._domains.get(domid)
        return domain

    @property
    def domains(self) -> list[Domain]:
        """All domains, by their numbers (for_each_domain)."""
        with self.machine.lock:
            self.forget_gone()
            return [self._domains[domid] for domid in sorted(self._domains)]

    def free_domid(self, wanted: int) -> int:
        """A domid that nobody has: ``wanted``, if that can be one, or any. Raises XenError."""
        if 0 < wanted < DOMID_FIRST_RESERVED:
            if self.find(wanted) is not None:
                raise XenError(XEN_EEXIST)
            return wanted
        domid = self._rover + 1
        while domid != self._rover:
            if domid == DOMID_FIRST_RESERVED:
                domid = 1
            if self.find(domid) is None:
                self._rover = domid
                return domid
            domid += 1
        raise XenError(XEN_ENOMEM)

    def create(self, wanted: int, config: XenDomctlCreatedomain) -> Domain:
        """A domain without memory and vCPUs, paused (domain_create). Raises XenError."""
        self.forget_gone()
        domid = self.free_domid(wanted)
        sanitise_domain_config(config)
        check_emulation(config)
        if config.cpupool_id != CPUPOOL_0:
            raise XenError(XEN_ENODEV)
        machine = self.machine
        try:
            domain = self._make(domid, config)
        except OSError as error:
            raise XenError(XEN_ENOMEM) from error
        shift, multiplier = time_scale(machine.tsc_khz)
        tsc = Tsc(machine.tsc_khz, multiplier, shift)
        domain.set_cpuid(default_hvm_policy(tsc, domid) if domain.is_hvm else default_policy(tsc, machine.frames - 1))
        domain.controller_pause_count = domain.record["pause_count"] = 1
        self._insert(domain)
        return domain

    def _make(self, domid: int, config: XenDomctlCreatedomain) -> Domain:
        """A domain that has an engine. Raises XenError or OSError."""
        hvm = bool(config.flags & XEN_DOMCTL_CDF_hvm)
        engine = self.make_engine(self.machine.ram_address, self.machine.frames, hvm=hvm)
        try:
            domain = Domain(self.machine, domid, config)
        except (XenError, OSError):
            engine.close()
            raise
        domain.attach(engine)
        return domain

    def kill(self, domain: Domain, preempt: Callable[[], bool] = lambda: False) -> bool:
        """Destroy a domain; it is gone once nobody refers to its pages. False if it has to be called again.

        Raises XenError for Domain 0.
        """
        if domain is self.domain0:
            raise XenError(XEN_EINVAL)  # this program goes on using what is mapped
        for virq in [virq for virq, handler in self._global_virq_handlers.items() if handler is domain]:
            self._set_handler(virq, self.domain0)
            self._former_handlers.append(domain)
        if domain not in self._dying:
            self._dying.append(domain)
        if not kill(domain, preempt):
            return False
        self.forget_gone()
        self.machine.return_free_memory()
        return True

    # Virtual interrupts that are for one domain.

    def send_global_virq(self, virq: int) -> None:
        """Raise a global virtual interrupt in the domain that handles it."""
        handler = self._global_virq_handlers.get(virq, self.domain0)
        send_guest_global_virq(handler.record.address, virq)

    def set_global_virq_handler(self, domain: Domain, virq: int) -> None:
        """Let a domain get a global virtual interrupt, until it dies. Raises XenError."""
        if virq >= NR_VIRQS or not virq_is_global(virq) or domain.is_dying:
            raise XenError(XEN_EINVAL)
        self._set_handler(virq, domain)

    def _set_handler(self, virq: int, domain: Domain) -> None:
        self._global_virq_handlers[virq] = domain
        if virq == VIRQ_DOM_EXC:
            self.machine.record["dom_exc_handler"] = domain.record.address

    @contextlib.contextmanager
    def managing(self, caller: Caller, *arguments: int) -> Iterator[None]:
        """Change a domain, with the machine's lock held but while waiting for a vCPU to stop.

        One at a time: two guests could wait for each other else. A guest that comes second makes its hypercall again,
        with ``arguments``; Domain 0's own code waits.
        """
        with self.machine.lock:
            while self._managing:
                if caller is not self.kernel:
                    raise Continuation(*arguments)
                self.machine.changed.wait()
            self._managing = True
            try:
                yield
            finally:
                self._managing = False
                self.machine.changed.notify_all()
