"""Domains: what Xen knows of a guest (struct domain, xen/include/xen/sched.h)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from euxen.abi.errno import XEN_ENOMEM
from euxen.abi.sched import SHUTDOWN_crash
from euxen.abi.xen import SharedInfo
from euxen.cpu import cpuid
from euxen.cpu.cpuid import Leaf
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor import domain_list
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import EventChannels
from euxen.hypervisor.grant_table import DEFAULT_GRANT_LIMITS, GrantLimits, GrantTable
from euxen.hypervisor.machine import PAGE_SIZE, Machine, OutOfMemory
from euxen.hypervisor.mm import heap, outside_writes, teardown
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import DomainRecord, DOMDYING_dead, DOMDYING_dying, MachineRecord, VcpuRecord
from euxen.hypervisor.vcpu import Vcpu
from euxen.hypervisor.watchdog import Watchdogs

if TYPE_CHECKING:
    from euxen.cpu.engine import Engine
    from euxen.hypervisor.foreign import ForeignPage

SECOND = 1_000_000_000
DEFAULT_MAX_EVTCHN_PORT = 1023
"""What xl asks for where nothing else is said: xl.cfg(5), event_channels."""


class Domain:
    """A guest, or Domain 0. Its memory and its vCPUs are given to it by whoever builds it."""

    def __init__(
        self,
        machine: Machine,
        domid: int,
        max_pages: int,
        max_vcpus: int = 1,
        max_evtchn_port: int = DEFAULT_MAX_EVTCHN_PORT,
        privileged: bool = False,
        grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS,
    ) -> None:
        """Raises XenError, with nothing left behind."""
        self.machine = machine
        self.domid = domid
        self.handle = uuid.UUID(int=0)
        self.record = Record(DomainRecord)
        self.max_vcpus = max_vcpus
        self._vcpu_records = Memory(VcpuRecord.size * max_vcpus)
        self.engine: Engine | None = None
        self.cpuid: list[Leaf] = []
        self.shutdown_code: int | None = None
        self.controller_pause_count = 0
        """How often a privileged domain has paused this one, and not yet let it go on."""
        self.reported_shutdown_code: int | None = None
        self.crash_reason: str | None = None
        self.watchdogs = Watchdogs(self)
        self.foreign_pages: list[ForeignPage] = []
        """Pages that Domain 0 has mapped."""
        self.memory_map: list[tuple[int, int, int]] = []
        """What XENMEM_memory_map answers: (address, bytes, E820_*)."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called once when the domain has ended, by itself or by a crash."""
        self.console_write: Callable[[bytes], None] = lambda data: None
        """Where the domain's writes to Xen's own console go."""
        record = self.record
        record["domain_id"], record["machine"] = domid, machine.record.address
        record["is_privileged"] = int(privileged)
        record["vcpus"], record["max_vcpus"] = self._vcpu_records.address, max_vcpus
        record["max_pages"] = max_pages
        self.event_channels = EventChannels(self, max_evtchn_port)
        self.grant_table = GrantTable(self, grant_limits)
        try:
            self.shared_info_frame = self.share_page()
        except OutOfMemory:
            self.grant_table.destroy()
            raise XenError(XEN_ENOMEM) from None
        record["shared_info_frame"] = self.shared_info_frame
        record["shared_info"] = machine.ram_address + self.shared_info_frame * PAGE_SIZE
        self.shared_info = machine.frame(self.shared_info_frame)
        self.vcpus = [Vcpu(self, number, self._vcpu_records) for number in range(max_vcpus)]
        self.update_wall_clock()
        domain_list.enlist(machine.record.address, record.address)

    def __repr__(self) -> str:
        return f"d{self.domid}"

    @property
    def privileged(self) -> bool:
        """Whether this is a domain that may manage others (is_control_domain)."""
        return bool(self.record["is_privileged"])

    def share_page(self) -> int:
        """A frame of Xen's that the guest may map writable (share_xen_page_with_guest)."""
        frame = self.machine.alloc_xen_frame()
        pg.share_xen_page_with_guest(self.record.address, frame)
        return frame

    def allocate(self, count: int = 1) -> list[int]:
        """Give the domain ``count`` more frames. Raises OutOfMemory, having given none."""
        if self.record["tot_pages"] + count > self.record["max_pages"]:
            raise OutOfMemory
        if self.machine.record["free_pages"] < count:
            raise OutOfMemory
        frames = [self.machine.alloc_xen_frame() for _ in range(count)]
        for frame in frames:
            pg.assign_page(self.record.address, frame)
        return frames

    def allocate_extent(self, order: int) -> int | None:
        """``2 ** order`` more frames in a row, by the first; None if there are none, or the limit forbids it."""
        count = 1 << order
        if self.record["tot_pages"] + count > self.record["max_pages"]:
            return None
        first = self.machine.allocate_run(order)
        if first is not None:
            for frame in range(first, first + count):
                pg.assign_page(self.record.address, frame)
        return first

    def held_frames(self) -> list[int]:
        """The frames of the domain's memory that Xen and Domain 0 have mapped writable, as often as they have."""
        mapped = [page.frame for page in self.foreign_pages] + self.event_channels.fifo_frames
        return mapped + [frame for vcpu in self.vcpus for frame in vcpu.held_frames()]

    @property
    def max_pfn(self) -> int:
        """The highest pfn that the guest says that it has, 0 if it does not say (domain_get_maximum_gpfn)."""
        offset = SharedInfo.offsetof("arch.max_pfn")
        return max(int.from_bytes(self.shared_info[offset : offset + 8], "little"), 1) - 1

    def attach(self, engine: Engine) -> None:
        """Let an engine run this domain's vCPUs."""
        self.engine = engine
        engine.block["on_code"] = outside_writes.on_code.address
        engine.block["write_clock"] = self.machine.record.address + MachineRecord.write_clock
        self.record["block"] = engine.block.address

    def set_cpuid(self, policy: list[Leaf]) -> None:
        """Choose the CPU that the guest sees."""
        assert self.engine is not None
        self.cpuid = policy
        self._cpuid_memory = cpuid.install(policy)
        self.engine.block["cpuid"] = self._cpuid_memory.address
        self.engine.block["cpuid_entries"] = len(policy)
        self.engine.set_features(policy)

    def update_wall_clock(self) -> None:
        """Tell the guest what time of day it was at system time 0 (update_domain_wallclock_time)."""
        at_zero = self.machine.clock.wall_clock() - self.machine.now()
        seconds, nanoseconds = divmod(at_zero, SECOND)
        info = self.shared_info
        version = SharedInfo.fields["wc_version"].unpack(info, SharedInfo.offsets["wc_version"])
        for field, value in (
            ("wc_version", version + 1),
            ("wc_sec", seconds & 0xFFFF_FFFF),
            ("wc_sec_hi", seconds >> 32),
            ("wc_nsec", nanoseconds),
            ("wc_version", version + 2),
        ):
            SharedInfo.fields[field].pack(info, SharedInfo.offsets[field], value)

    def shutdown(self, reason: int) -> None:
        """The domain ends: SHUTDOWN_* (domain_shutdown)."""
        if self.shutdown_code is None:
            self.shutdown_code = reason if self.reported_shutdown_code is None else self.reported_shutdown_code
            self.on_exit()

    def resume(self) -> None:
        """Go on behind a shutdown (domain_resume)."""
        self.shutdown_code = None

    def crash(self, reason: str) -> None:
        """The domain did what no domain may do (domain_crash). ``reason`` is one sentence for people."""
        self.crash_reason = reason
        self.shutdown_code = SHUTDOWN_crash
        self.on_exit()

    def kill(self) -> None:
        """Give up all that the domain holds (domain_kill). What others have mapped of it stays until they let go."""
        machine, domain = self.machine.record.address, self.record.address
        if self.record["is_dying"]:
            return
        self.record["is_dying"] = DOMDYING_dying
        # First: after it nobody sends to this domain, and all that makes an event pending can go.
        self.event_channels.destroy()
        for vcpu in self.vcpus:
            vcpu.release()
        self.grant_table.release_mappings()
        while teardown.relinquish(machine, domain):
            if self.engine is not None:
                # It was for the domain's vCPUs, and they run no more.
                self.engine.block["kicked"] = 0
        if self.engine is not None:
            outside_writes.detach(domain)
            self.engine.close()
            self.engine = None
        self.record["is_dying"] = DOMDYING_dead

    @property
    def is_gone(self) -> bool:
        """Whether it was killed and nobody has any of its pages."""
        return bool(domain_list.is_gone(self.record.address))

    def complete_destroy(self) -> None:
        """Once it is gone: give its name and Xen's own pages for it back (complete_domain_destroy)."""
        machine = self.machine.record.address
        domain_list.retire(machine, self.record.address)
        self.grant_table.destroy()
        heap.free_frame(machine, self.shared_info_frame)
        self.machine.return_free_memory()
