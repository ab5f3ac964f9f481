"""What the kernel and the tools of the built-in Domain 0 ask of Xen: hypercalls, as methods.

Each method lends the hypercall its structures and makes it. There is no other way in: what a guest in Domain 0's place
would be refused, this is refused as well. All methods raise XenError.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from euxen.abi import domctl as dom
from euxen.abi import memory as mem
from euxen.abi import sysctl as sys
from euxen.abi.arch_x86_xen import VcpuGuestContext, XenArchDomainconfig
from euxen.abi.errno import XEN_ENOMEM
from euxen.abi.event_channel import (
    EvtchnAllocUnbound,
    EvtchnBindInterdomain,
    EvtchnBindIpi,
    EvtchnBindVirq,
    EvtchnClose,
    EvtchnSend,
)
from euxen.abi.grant_table import GnttabCopy
from euxen.abi.hvm_op import HVMOP_set_param, XenHvmParam
from euxen.abi.sched import SchedRemoteShutdown
from euxen.abi.structure import Structure
from euxen.abi.xen import DOMID_SELF, CONSOLEIO_write
from euxen.cpu.native.memory import Memory
from euxen.hypervisor import sched
from euxen.hypervisor.caller import Kernel
from euxen.hypervisor.domctl.table import do_domctl
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.foreign import ForeignMapping, PageOwner
from euxen.hypervisor.grant_table import MAX_GRANT_VERSION
from euxen.hypervisor.granted import GrantedPage, GrantedPages, grant_copy, map_each, unmap_each
from euxen.hypervisor.hypercalls.console import console_io
from euxen.hypervisor.hypercalls.extents import changing
from euxen.hypervisor.hypercalls.hvm_op import hvm_op
from euxen.hypervisor.hypercalls.memory import memory_op
from euxen.hypervisor.hypercalls.mmu import check_owner
from euxen.hypervisor.hypercalls.sched import remote_shutdown
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE, Machine
from euxen.hypervisor.mm import mmuext
from euxen.hypervisor.mm.page import ERESTART
from euxen.hypervisor.mm.pagetable import PGT_TABLES, finish_old_guest_table
from euxen.hypervisor.sysctl.table import do_sysctl

Part = TypeVar("Part", bound=Structure)
DEFAULT_MAX_EVTCHN_PORT = 1023
"""What xl asks for where nothing else is said: xl.cfg(5), event_channels."""
DOMCTL_SIZE, DOMCTL_PART = dom.XenDomctl.size, dom.XenDomctl.offsetof("u")
SYSCTL_SIZE, SYSCTL_PART = sys.XenSysctl.size, sys.XenSysctl.offsetof("u")
DOMCTL_HEADER = struct.Struct("<IIHHHH")
SYSCTL_HEADER = struct.Struct("<II")
KIB_SHIFT, PAGE_SHIFT = 10, 12
E820 = struct.Struct("<QQI")


@dataclass(frozen=True)
class GrantLimits:
    """How much a domain may lend and borrow: XEN_DOMCTL_createdomain. Of frames, -1 is what Xen has chosen for all."""

    max_grant_frames: int = -1
    max_maptrack_frames: int = -1
    max_version: int = MAX_GRANT_VERSION


DEFAULT_GRANT_LIMITS = GrantLimits()


class OwnPages:
    """Frames in a row that a domain whose kernel is this program has for itself."""

    def __init__(self, machine: Machine, first: int, order: int) -> None:
        self.first, self.order = first, order
        """The first frame, and the logarithm of how many there are."""
        self.size = PAGE_SIZE << order
        self.memory = machine.ram[first * PAGE_SIZE : first * PAGE_SIZE + self.size]
        self.machine_address = first * PAGE_SIZE
        self.address = machine.ram_address + self.machine_address
        """Where native code finds them."""


class Control:
    """The hypercalls of one kernel that is this program."""

    def __init__(self, hypervisor: Hypervisor, kernel: Kernel) -> None:
        self._hypervisor = hypervisor
        self._kernel = kernel
        self.caller = kernel.domain

    @property
    def lock(self) -> threading.RLock:
        """The machine's lock, which makes Domain 0's daemons one at a time."""
        return self._hypervisor.machine.lock

    # Hypercalls with structures.

    def domctl(self, command: int, domid: int, part: Part) -> tuple[Part, int]:
        """HYPERVISOR_domctl: the command's part of the structure, and the domain, as they come back."""
        data = DOMCTL_HEADER.pack(command, dom.XEN_DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0) + bytes(part)
        with self._kernel.lend(data.ljust(DOMCTL_SIZE, b"\0")) as op:
            do_domctl(self._kernel, op.address)
            domid = DOMCTL_HEADER.unpack_from(op.data)[2]
            return part.unpack_from(op.data, DOMCTL_PART), domid

    def _domctl(self, command: int, domid: int) -> None:
        """One that has no part of its own."""
        self.domctl(command, domid, dom.XenDomctlAddressSize())

    def sysctl(self, command: int, part: Part) -> Part:
        """HYPERVISOR_sysctl: the command's part of the structure, as it comes back."""
        data = SYSCTL_HEADER.pack(command, sys.XEN_SYSCTL_INTERFACE_VERSION) + bytes(part)
        with self._kernel.lend(data.ljust(SYSCTL_SIZE, b"\0")) as op:
            do_sysctl(self._kernel, op.address)
            return part.unpack_from(op.data, SYSCTL_PART)

    def memory_op(self, command: int, part: Structure) -> int:
        """HYPERVISOR_memory_op."""
        with self._kernel.lend(bytes(part)) as op:
            while True:
                try:
                    return memory_op(self._kernel, command, op.address)
                except Continuation as continuation:
                    command = continuation.arguments[0]

    # Domains.

    def create_domain(
        self,
        max_pages: int,
        max_vcpus: int = 1,
        max_evtchn_port: int = DEFAULT_MAX_EVTCHN_PORT,
        handle: bytes = bytes(16),
        domid: int = 0,
        grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS,
        flags: int = 0,
        emulation_flags: int = 0,
    ) -> int:
        """A domain without memory, paused; returns its domid, which is any for 0. ``flags`` are XEN_DOMCTL_CDF_*.

        XEN_DOMCTL_createdomain, XEN_DOMCTL_max_vcpus and XEN_DOMCTL_max_mem.
        """
        config = dom.XenDomctlCreatedomain(
            handle=handle,
            max_vcpus=max_vcpus,
            max_evtchn_port=max_evtchn_port,
            max_grant_frames=grant_limits.max_grant_frames,
            max_maptrack_frames=grant_limits.max_maptrack_frames,
            grant_opts=grant_limits.max_version,
            flags=flags,
            arch=XenArchDomainconfig(emulation_flags=emulation_flags),
        )
        _config, domid = self.domctl(dom.XEN_DOMCTL_createdomain, domid, config)
        try:
            self.domctl(dom.XEN_DOMCTL_max_vcpus, domid, dom.XenDomctlMaxVcpus(max=max_vcpus))
            self.set_max_mem(domid, max_pages)
        except XenError:
            self.destroy_domain(domid)
            raise
        return domid

    def destroy_domain(self, domid: int) -> None:
        """XEN_DOMCTL_destroydomain."""
        self._domctl(dom.XEN_DOMCTL_destroydomain, domid)

    def pause_domain(self, domid: int) -> None:
        """XEN_DOMCTL_pausedomain: it does not run when this returns."""
        self._domctl(dom.XEN_DOMCTL_pausedomain, domid)

    def unpause_domain(self, domid: int) -> None:
        """XEN_DOMCTL_unpausedomain: it may run, once this was called as often as it was paused."""
        self._domctl(dom.XEN_DOMCTL_unpausedomain, domid)

    def resume_domain(self, domid: int) -> None:
        """XEN_DOMCTL_resumedomain: let a domain that has shut down go on."""
        self._domctl(dom.XEN_DOMCTL_resumedomain, domid)

    def shutdown_domain(self, domid: int, reason: int) -> None:
        """SCHEDOP_remote_shutdown: SHUTDOWN_*."""
        remote_shutdown(self._kernel, SchedRemoteShutdown(domain_id=domid, reason=reason))

    def domain_info(self, domid: int) -> dom.XenDomctlGetdomaininfo:
        """XEN_DOMCTL_getdomaininfo, of the domain or the next one."""
        return self.domctl(dom.XEN_DOMCTL_getdomaininfo, domid, dom.XenDomctlGetdomaininfo())[0]

    def domain_list(self, first: int = 0, most: int = 1024) -> list[dom.XenDomctlGetdomaininfo]:
        """XEN_SYSCTL_getdomaininfolist."""
        size = dom.XenDomctlGetdomaininfo.size
        with self._kernel.lend(bytes(most * size)) as buffer:
            op = sys.XenSysctlGetdomaininfolist(first_domain=first, max_domains=most, buffer=buffer.address)
            count = self.sysctl(sys.XEN_SYSCTL_getdomaininfolist, op).num_domains
            return [dom.XenDomctlGetdomaininfo.unpack_from(buffer.data, number * size) for number in range(count)]

    def physinfo(self) -> sys.XenSysctlPhysinfo:
        """XEN_SYSCTL_physinfo."""
        return self.sysctl(sys.XEN_SYSCTL_physinfo, sys.XenSysctlPhysinfo())

    def console_write(self, text: str) -> None:
        """CONSOLEIO_write: say something on Xen's console."""
        data = text.encode(errors="replace")
        with self._kernel.lend(data) as buffer:
            console_io(self._kernel, CONSOLEIO_write, len(data), buffer.address)

    def set_virq_handler(self, domid: int, virq: int) -> None:
        """XEN_DOMCTL_set_virq_handler: let a domain get a global virtual interrupt."""
        self.domctl(dom.XEN_DOMCTL_set_virq_handler, domid, dom.XenDomctlSetVirqHandler(virq=virq))

    # Its vCPUs.

    def set_vcpu_context(self, domid: int, vcpu: int, context: VcpuGuestContext) -> None:
        """XEN_DOMCTL_setvcpucontext."""
        with self._kernel.lend(bytes(context)) as buffer:
            op = dom.XenDomctlVcpucontext(vcpu=vcpu, ctxt=buffer.address)
            self.domctl(dom.XEN_DOMCTL_setvcpucontext, domid, op)

    def get_vcpu_context(self, domid: int, vcpu: int) -> VcpuGuestContext:
        """XEN_DOMCTL_getvcpucontext."""
        with self._kernel.lend(bytes(VcpuGuestContext.size)) as buffer:
            op = dom.XenDomctlVcpucontext(vcpu=vcpu, ctxt=buffer.address)
            self.domctl(dom.XEN_DOMCTL_getvcpucontext, domid, op)
            return VcpuGuestContext.unpack_from(buffer.data)

    def get_hvm_context(self, domid: int) -> bytes:
        """XEN_DOMCTL_gethvmcontext: the records of a domain that is not PV."""
        size = self.domctl(dom.XEN_DOMCTL_gethvmcontext, domid, dom.XenDomctlHvmcontext())[0].size_
        with self._kernel.lend(bytes(size)) as buffer:
            op = dom.XenDomctlHvmcontext(size_=size, buffer=buffer.address)
            filled = self.domctl(dom.XEN_DOMCTL_gethvmcontext, domid, op)[0].size_
            return bytes(buffer.data[:filled])

    def set_hvm_context(self, domid: int, records: bytes) -> None:
        """XEN_DOMCTL_sethvmcontext."""
        with self._kernel.lend(records) as buffer:
            op = dom.XenDomctlHvmcontext(size_=len(records), buffer=buffer.address)
            self.domctl(dom.XEN_DOMCTL_sethvmcontext, domid, op)

    def set_hvm_param(self, domid: int, index: int, value: int) -> None:
        """HVMOP_set_param: HVM_PARAM_*."""
        with self._kernel.lend(bytes(XenHvmParam(domid=domid, index=index, value=value))) as op:
            hvm_op(self._kernel, HVMOP_set_param, op.address)

    # Its memory.

    def set_max_mem(self, domid: int, pages: int) -> None:
        """XEN_DOMCTL_max_mem."""
        op = dom.XenDomctlMaxMem(max_memkb=pages << PAGE_SHIFT - KIB_SHIFT)
        self.domctl(dom.XEN_DOMCTL_max_mem, domid, op)

    def set_paging_mempool_size(self, domid: int, size: int) -> None:
        """XEN_DOMCTL_set_paging_mempool_size: how many bytes Xen may use for the domain's p2m."""
        op = dom.XenDomctlPagingMempool(size_=size)
        self.domctl(dom.XEN_DOMCTL_set_paging_mempool_size, domid, op)

    def populate_physmap(self, domid: int, first_pfn: int, count: int) -> memoryview:
        """XENMEM_populate_physmap: memory at ``count`` pfns. All or an error.

        Returns the machine frames' numbers for a PV domain, the same pfns for another.
        """
        pfns = struct.pack(f"<{count}Q", *range(first_pfn, first_pfn + count))
        with self._kernel.lend(pfns) as buffer:
            op = mem.XenMemoryReservation(extent_start=buffer.address, nr_extents=count, domid=domid)
            if self.memory_op(mem.XENMEM_populate_physmap, op) != count:
                raise XenError(XEN_ENOMEM)
            frames = Memory(8 * count)
            frames.view[:] = buffer.data
        return frames.words()

    def allocate_pages(self, order: int) -> OwnPages:
        """XENMEM_increase_reservation: ``2 ** order`` more frames in a row for the caller itself."""
        with self.lock, self._kernel.lend(bytes(8)) as buffer:
            op = mem.XenMemoryReservation(
                extent_start=buffer.address, nr_extents=1, extent_order=order, domid=DOMID_SELF
            )
            if self.memory_op(mem.XENMEM_increase_reservation, op) != 1:
                raise XenError(XEN_ENOMEM)
            first = int.from_bytes(buffer.data, "little")
        return OwnPages(self.caller.machine, first, order)

    def free_pages(self, pages: OwnPages) -> None:
        """XENMEM_decrease_reservation: give back what ``allocate_pages`` gave. Nobody looks at it any more."""
        pages.memory.release()
        with self.lock, self._kernel.lend(pages.first.to_bytes(8, "little")) as buffer:
            op = mem.XenMemoryReservation(
                extent_start=buffer.address, nr_extents=1, extent_order=pages.order, domid=DOMID_SELF
            )
            self.memory_op(mem.XENMEM_decrease_reservation, op)

    def claim_pages(self, domid: int, pages: int) -> None:
        """XENMEM_claim_pages: promise a domain that it can have so many pages; 0 takes that back."""
        self.memory_op(mem.XENMEM_claim_pages, mem.XenMemoryReservation(nr_extents=pages, domid=domid))

    def set_memory_map(self, domid: int, entries: list[tuple[int, int, int]]) -> None:
        """XENMEM_set_memory_map: (address, bytes, E820_*)."""
        with self._kernel.lend(b"".join(E820.pack(*entry) for entry in entries)) as buffer:
            op = mem.XenForeignMemoryMap(domid=domid)
            op.map.nr_entries, op.map.buffer = len(entries), buffer.address
            self.memory_op(mem.XENMEM_set_memory_map, op)

    def map_foreign(self, domid: int, frame: int, pages: int = 1) -> ForeignMapping:
        """Map frames of a domain, in a row, until they are released: MMU_NORMAL_PT_UPDATE with its domid.

        Machine frames of a PV domain, guest frames of another.
        """
        return ForeignMapping(self.caller, domid, frame, pages)

    def copy_to_foreign(self, domid: int, frame: int, data: bytes | memoryview, offset: int = 0) -> None:
        """Write to frames of a domain, in a row, from a byte of the first on, mapping them as ``map_foreign`` does."""
        size = memoryview(data).nbytes
        mapping = self.map_foreign(domid, frame, (offset + size + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT)
        try:
            mapping.write(data, offset)
        finally:
            mapping.release()

    def pin_table(self, domid: int, level: int, frame: int) -> None:
        """MMUEXT_PIN_Ln_TABLE for another domain: its page table is checked, and stays one."""
        owner = PageOwner(self.caller, domid)
        check_owner(self.caller, owner)
        assert owner.domain is not None
        domain, error = owner.record.address, -ERESTART
        with changing(self._kernel, owner.domain):
            while error == -ERESTART:
                finish_old_guest_table(domain)
                error = mmuext.pin(domain, frame, PGT_TABLES[level])
            finish_old_guest_table(domain)
        if error:
            raise XenError(-error)

    def hypercall_init(self, domid: int, frame: int) -> None:
        """XEN_DOMCTL_hypercall_init: fill a page with hypercall stubs."""
        self.domctl(dom.XEN_DOMCTL_hypercall_init, domid, dom.XenDomctlHypercallInit(gmfn=frame))

    def shared_info_frame(self, domid: int) -> int:
        """The machine frame of a domain's shared_info (XEN_DOMCTL_getdomaininfo)."""
        return self.domain_info(domid).shared_info_frame

    def map_shared_info(self, domid: int) -> ForeignMapping:
        """A domain's shared_info page, mapped."""
        return self.map_foreign(domid, self.shared_info_frame(domid))

    def map_grant_table(self, domid: int) -> ForeignMapping:
        """The first frame of a domain's grant table, mapped (XENMEM_acquire_resource)."""
        with self._kernel.lend(bytes(8)) as buffer:
            op = mem.XenMemAcquireResource(
                domid=domid, type=mem.XENMEM_resource_grant_table, nr_frames=1, frame_list=buffer.address
            )
            self.memory_op(mem.XENMEM_acquire_resource, op)
            frame = int.from_bytes(buffer.data, "little")
            # A machine frame of any domain: MMU_PT_UPDATE_NO_TRANSLATE.
            return ForeignMapping(self.caller, domid, frame, translate=False)

    # What others lend.

    def map_grants(self, domid: int, refs: Sequence[int], writable: bool = True) -> GrantedPages:
        """GNTTABOP_map_grant_ref: map frames that a domain lends to the caller. All, or GrantError is raised."""
        return GrantedPages(self.caller, domid, refs, writable)

    def map_each_grant(self, domid: int, refs: Sequence[int], writable: bool = True) -> list[GrantedPage | int]:
        """The same, each for itself: the page, or GNTST_* of what can't be mapped."""
        return map_each(self.caller, domid, refs, writable)

    def unmap_grants(self, pages: Iterable[GrantedPage]) -> None:
        """GNTTABOP_unmap_grant_ref: let go of pages that ``map_each_grant`` gave."""
        unmap_each(self.caller, pages)

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
