"""Domains: what Xen knows of a guest (struct domain, xen/include/xen/sched.h)."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from euxen.abi.compat import CompatSharedInfo
from euxen.abi.domctl import XEN_DOMCTL_CDF_hvm, XenDomctlCreatedomain
from euxen.abi.errno import XEN_ENOMEM
from euxen.abi.xen import SharedInfo
from euxen.cpu import cpuid
from euxen.cpu.cpuid import Leaf
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import EventChannels
from euxen.hypervisor.grant_table import GrantTable
from euxen.hypervisor.hvm.domain import HvmDomain
from euxen.hypervisor.machine import PAGE_SIZE, Machine, OutOfMemory
from euxen.hypervisor.mm import heap, outside_writes, p2m
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import (
    DomainRecord,
    MachineRecord,
    VcpuRecord,
)
from euxen.hypervisor.running import Running
from euxen.hypervisor.vcpu import Vcpu
from euxen.hypervisor.watchdog import Watchdogs

if TYPE_CHECKING:
    from euxen.cpu.engine import Engine
    from euxen.hypervisor.foreign import ForeignMapping
    from euxen.hypervisor.hypervisor import Hypervisor

SECOND = 1_000_000_000


class Domain(Running):
    """A guest, or Domain 0. Its memory and its vCPUs are given to it by whoever builds it."""

    def __init__(
        self,
        machine: Machine,
        domid: int,
        config: XenDomctlCreatedomain,
        privileged: bool = False,
    ) -> None:
        """Raises XenError, or OSError where the host has no more room, with nothing left behind."""
        super().__init__()
        self.machine = machine
        self.domid = domid
        self.config = config
        """What it was created with."""
        self.handle = uuid.UUID(bytes=config.handle)
        max_vcpus = config.max_vcpus
        self.record = Record(DomainRecord)
        self.max_vcpus = max_vcpus
        self._vcpu_records = Memory(VcpuRecord.size * max_vcpus)
        self.engine: Engine | None = None
        self.cpuid: list[Leaf] = []
        self.debugger_attached = False
        self.node_affinity: int | None = None
        """A bit map of NUMA nodes, or None for those that follow from the CPUs."""
        self.time_offset_seconds = 0
        """What its wall clock is ahead of UTC."""
        self.tsc_mode, self.tsc_incarnation = 0, 0
        self.teardown: Iterator[None] = iter(())
        """What is left to be done of its end."""
        self.watchdogs = Watchdogs(self)
        self.foreign_mappings: list[ForeignMapping] = []
        """What the domain has mapped of others, if its kernel is this program."""
        self.hypervisor: Hypervisor
        """Where it is in the list of domains."""
        self.memory_map: list[tuple[int, int, int]] = []
        """What XENMEM_memory_map answers: (address, bytes, E820_*)."""
        self.console_write: Callable[[bytes], None] = lambda data: None
        """Where the domain's writes to Xen's own console go."""
        record = self.record
        record["refcnt"] = 1
        record["domain_id"], record["machine"] = domid, machine.record.address
        record["is_privileged"] = int(privileged)
        record["vcpus"], record["max_vcpus"] = self._vcpu_records.address, max_vcpus
        self.hvm = HvmDomain(record) if config.flags & XEN_DOMCTL_CDF_hvm else None
        """What it has as an HVM domain."""
        try:
            self._allocate(config)
        except OutOfMemory:
            raise XenError(XEN_ENOMEM) from None
        self.vcpus: list[Vcpu] = []
        """Those that there are: none, or all."""
        self.update_wall_clock()

    def _allocate(self, config: XenDomctlCreatedomain) -> None:
        """Take what there may be too little of, all or nothing. Raises XenError, OutOfMemory or OSError."""
        machine, record = self.machine, self.record
        with contextlib.ExitStack() as undo:
            self.grant_table = GrantTable(self)
            undo.callback(self.grant_table.destroy)
            self.shared_info_frame = self.share_page()
            undo.callback(heap.free_frame, machine.record.address, self.shared_info_frame)
            record["shared_info_frame"] = self.shared_info_frame
            record["shared_info"] = machine.ram_address + self.shared_info_frame * PAGE_SIZE
            self.shared_info = machine.frame(self.shared_info_frame)
            self.all_vcpus = [Vcpu(self, number, self._vcpu_records) for number in range(self.max_vcpus)]
            """Those that it was promised."""
            # Last, as its records come from a place to which they would have to be brought back.
            self.event_channels = EventChannels(self, config.max_evtchn_port)
            undo.pop_all()

    def __repr__(self) -> str:
        return f"d{self.domid}"

    @property
    def is_hvm(self) -> bool:
        """Whether it is an HVM domain, not a PV one (is_hvm_domain)."""
        return self.hvm is not None

    def create_vcpus(self) -> None:
        """Make the vCPUs that the domain was promised (XEN_DOMCTL_max_vcpus)."""
        self.vcpus = self.all_vcpus

    @property
    def privileged(self) -> bool:
        """Whether this is a domain that may manage others (is_control_domain)."""
        return bool(self.record["is_privileged"])

    def share_page(self) -> int:
        """A frame of Xen's that the guest may map writable (share_xen_page_with_guest)."""
        frame = self.machine.alloc_xen_frame()
        pg.share_xen_page_with_guest(self.record.address, frame)
        return frame

    def allocate_extent(self, order: int) -> int | None:
        """``2 ** order`` more frames in a row, by the first; None if there are none, or the limit forbids it."""
        count = 1 << order
        if self.is_dying or self.record["tot_pages"] + count > self.record["max_pages"]:
            return None
        first = self.machine.allocate_run(order, self.record.address)
        if first is not None:
            for frame in range(first, first + count):
                pg.assign_page(self.record.address, frame)
        return first

    def mfn_of(self, frame: int) -> int | None:
        """The machine frame that others mean by a frame of this domain's; None where it has none there."""
        return frame if self.hvm is None else self.hvm.p2m.mfn(frame & (1 << 64) - 1)

    def gfn_of(self, mfn: int) -> int:
        """What others call a machine frame of this domain's; all ones for one that has no place in its p2m."""
        return mfn if self.hvm is None else p2m.gfn_of(self.record.address, mfn) & (1 << 64) - 1

    def held_frames(self) -> list[int]:
        """The frames of memory that Xen has mapped writable for the domain, and what it has mapped of others itself."""
        foreign = [frame for mapping in self.foreign_mappings for frame in mapping.frames]
        held = [frame for vcpu in self.vcpus for frame in vcpu.held_frames()]
        return foreign + self.event_channels.fifo_frames + held

    @property
    def max_pfn(self) -> int:
        """The highest pfn that there is, or that a PV guest says that it has (domain_get_maximum_gpfn)."""
        if self.is_hvm:
            return int(self.record["p2m_max_gfn"])
        offset = SharedInfo.offsetof("arch.max_pfn")
        return max(int.from_bytes(self.shared_info[offset : offset + 8], "little"), 1) - 1

    def attach(self, engine: Engine) -> None:
        """Let an engine run this domain's vCPUs."""
        self.engine = engine
        engine.block["on_code"] = outside_writes.on_code.address
        engine.block["write_clock"] = self.machine.record.address + MachineRecord.write_clock
        if self.hvm is not None:
            engine.block["p2m"] = self.hvm.p2m.directory
        self.record["block"] = engine.block.address

    def set_cpuid(self, policy: list[Leaf]) -> None:
        """Choose the CPU that the guest sees."""
        self.cpuid = policy
        if self.engine is not None:
            self._cpuid_memory = cpuid.install(policy)
            self.engine.block["cpuid"] = self._cpuid_memory.address
            self.engine.block["cpuid_entries"] = len(policy)
            self.engine.set_features(policy)
        for vcpu in self.all_vcpus:
            if vcpu.hvm is not None:
                vcpu.hvm.follow_policy(policy)

    def update_wall_clock(self) -> None:
        """Tell the guest what time of day it was at system time 0 (update_domain_wallclock_time)."""
        at_zero = self.machine.clock.wall_clock() - self.machine.now() + self.time_offset_seconds * SECOND
        seconds, nanoseconds = divmod(at_zero, SECOND)
        layout = CompatSharedInfo if self.record["has_32bit_shinfo"] else SharedInfo
        info = self.shared_info
        version_at = layout.offsetof("wc_version")
        version = int.from_bytes(info[version_at : version_at + 4], "little")
        for field, value in (
            ("wc_version", version + 1),
            ("wc_sec", seconds),
            ("arch.wc_sec_hi" if layout is CompatSharedInfo else "wc_sec_hi", seconds >> 32),
            ("wc_nsec", nanoseconds),
            ("wc_version", version + 2),
        ):
            at = layout.offsetof(field)
            info[at : at + 4] = (value & 0xFFFF_FFFF).to_bytes(4, "little")
