"""Domains: what Xen knows of a guest (struct domain, xen/include/xen/sched.h)."""

from __future__ import annotations

import contextlib
import enum
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from euxen.abi.compat import CompatSharedInfo
from euxen.abi.domctl import XEN_DOMCTL_CDF_hvm, XenDomctlCreatedomain
from euxen.abi.errno import XEN_EINVAL, XEN_ENOMEM, XEN_EOVERFLOW
from euxen.abi.sched import SHUTDOWN_crash, SHUTDOWN_suspend
from euxen.abi.xen import SharedInfo
from euxen.cpu import cpuid
from euxen.cpu.cpuid import Leaf
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor import domain_list, sleeper
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channel import notify_via_xen_event_channel
from euxen.hypervisor.event_channels import EventChannels
from euxen.hypervisor.grant_table import GrantTable
from euxen.hypervisor.hvm.domain import HvmDomain
from euxen.hypervisor.machine import PAGE_SIZE, Machine, OutOfMemory
from euxen.hypervisor.mm import heap, outside_writes, p2m, teardown
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import (
    DomainRecord,
    DOMDYING_alive,
    DOMDYING_dead,
    DOMDYING_dying,
    MachineRecord,
    VcpuRecord,
)
from euxen.hypervisor.vcpu import Vcpu
from euxen.hypervisor.watchdog import Watchdogs

if TYPE_CHECKING:
    from euxen.cpu.engine import Engine
    from euxen.hypervisor.foreign import ForeignMapping
    from euxen.hypervisor.hypervisor import Hypervisor

SECOND = 1_000_000_000
MAX_CONTROLLER_PAUSES = 255


class CpuState(enum.Enum):
    """What the host thread of a domain does."""

    NONE = enum.auto()
    """There is none."""
    STARTING = enum.auto()
    """It is about to."""
    RUNNING = enum.auto()
    """It runs the domain, or waits for an event of the domain's."""
    PAUSED = enum.auto()
    """It has seen that the domain is paused, and touches nothing of it."""


class Domain:
    """A guest, or Domain 0. Its memory and its vCPUs are given to it by whoever builds it."""

    def __init__(
        self,
        machine: Machine,
        domid: int,
        config: XenDomctlCreatedomain,
        privileged: bool = False,
    ) -> None:
        """Raises XenError, with nothing left behind."""
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
        self.shutdown_code: int | None = None
        """SHUTDOWN_*, once it is known: it may be before the domain has shut down."""
        self.is_shut_down = False
        self.crash_reason: str | None = None
        self.suspend_evtchn = 0
        """The port that the domain itself sends by when it has suspended itself; 0 for VIRQ_DOM_EXC."""
        self.controller_pause_count = 0
        """How often a privileged domain has paused this one, and not yet let it go on."""
        self.cpu_state = CpuState.NONE
        """What the host thread does that runs the domain. It changes with the machine's lock held."""
        self.cpu_thread: int | None = None
        """Which thread that is."""
        self.creation_finished = False
        """Whether it was let go for the first time."""
        self.debugger_attached = False
        self.node_affinity: int | None = None
        """A bit map of NUMA nodes, or None for those that follow from the CPUs."""
        self.time_offset_seconds = 0
        """What its wall clock is ahead of UTC."""
        self.tsc_mode, self.tsc_incarnation = 0, 0
        self._teardown: Iterator[None] = iter(())
        """What is left to be done of a domain's end."""
        self.watchdogs = Watchdogs(self)
        self.foreign_mappings: list[ForeignMapping] = []
        """What the domain has mapped of others, if its kernel is this program."""
        self.hypervisor: Hypervisor
        """Where it is in the list of domains."""
        self.memory_map: list[tuple[int, int, int]] = []
        """What XENMEM_memory_map answers: (address, bytes, E820_*)."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called when the domain has shut down, by itself or by a crash."""
        self.on_runnable: Callable[[], None] = lambda: None
        """Called when nothing keeps the domain from running any more."""
        self.console_write: Callable[[bytes], None] = lambda data: None
        """Where the domain's writes to Xen's own console go."""
        record = self.record
        record["refcnt"] = 1
        record["domain_id"], record["machine"] = domid, machine.record.address
        record["is_privileged"] = int(privileged)
        record["vcpus"], record["max_vcpus"] = self._vcpu_records.address, max_vcpus
        self.hvm = HvmDomain(record) if config.flags & XEN_DOMCTL_CDF_hvm else None
        """What it has as an HVM domain."""
        self.event_channels = EventChannels(self, config.max_evtchn_port)
        self.grant_table = GrantTable(self)
        try:
            self.shared_info_frame = self.share_page()
        except OutOfMemory:
            self.grant_table.destroy()
            raise XenError(XEN_ENOMEM) from None
        record["shared_info_frame"] = self.shared_info_frame
        record["shared_info"] = machine.ram_address + self.shared_info_frame * PAGE_SIZE
        self.shared_info = machine.frame(self.shared_info_frame)
        self._vcpus = [Vcpu(self, number, self._vcpu_records) for number in range(max_vcpus)]
        self.vcpus: list[Vcpu] = []
        """Those that there are: none, or all."""
        self.update_wall_clock()

    def __repr__(self) -> str:
        return f"d{self.domid}"

    @property
    def is_hvm(self) -> bool:
        """Whether it is an HVM domain, not a PV one (is_hvm_domain)."""
        return self.hvm is not None

    def create_vcpus(self) -> None:
        """Make the vCPUs that the domain was promised (XEN_DOMCTL_max_vcpus)."""
        self.vcpus = self._vcpus

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
        assert self.engine is not None
        self.cpuid = policy
        self._cpuid_memory = cpuid.install(policy)
        self.engine.block["cpuid"] = self._cpuid_memory.address
        self.engine.block["cpuid_entries"] = len(policy)
        self.engine.set_features(policy)
        for vcpu in self._vcpus:
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

    # Running, and what keeps from it. All of it is done with the machine's lock held.

    @property
    def is_runnable(self) -> bool:
        """Whether a host thread should run it."""
        stopped = self.record["pause_count"] or self.record["is_dying"] or self.is_shut_down
        return not stopped and bool(self.vcpus) and bool(self.vcpus[0].record["online"])

    def enter(self, state: CpuState) -> None:
        """The thread that runs the domain does something else from now on."""
        with self.machine.lock:
            self.cpu_state = state
            if state is CpuState.NONE:
                self.cpu_thread = None
            if state is not CpuState.RUNNING and self.engine is not None:
                # What is done to the domain's memory now is not interrupted for its vCPUs' sake.
                self.engine.block["kicked"] = 0
            self.machine.changed.notify_all()

    def interrupt(self) -> None:
        """Have the thread that runs the domain look at what has changed."""
        for vcpu in self.vcpus:
            sleeper.wake(vcpu.sleeper.address)
        if self.engine is not None and self.cpu_state is CpuState.RUNNING:
            self.engine.kick()
        self.machine.changed.notify_all()

    def pause_nosync(self) -> None:
        """Let no vCPU run from soon on, until ``unpause`` (domain_pause_nosync)."""
        with self.machine.lock:
            self.record["pause_count"] += 1
            self.interrupt()

    def pause(self) -> None:
        """The same, and no vCPU runs when this returns; others may have the lock meanwhile (domain_pause).

        For a thread that does not run the domain itself.
        """
        with self.machine.lock:
            self.pause_nosync()
            while self.cpu_state in (CpuState.STARTING, CpuState.RUNNING):
                self.machine.changed.wait()

    def unpause(self) -> None:
        """Undo one of either (domain_unpause)."""
        with self.machine.lock:
            self.record["pause_count"] -= 1
            self.wake()

    def wake(self) -> None:
        """Let the domain run, if nothing keeps it from that."""
        with self.machine.lock:
            if self.is_runnable:
                self.machine.changed.notify_all()
                self.on_runnable()

    def pause_by_systemcontroller(self) -> None:
        """XEN_DOMCTL_pausedomain. Raises XenError."""
        with self.machine.lock:
            if self.controller_pause_count >= MAX_CONTROLLER_PAUSES:
                raise XenError(XEN_EOVERFLOW)
            self.controller_pause_count += 1
            self.pause()

    def unpause_by_systemcontroller(self) -> None:
        """XEN_DOMCTL_unpausedomain. Raises XenError."""
        with self.machine.lock:
            if not self.controller_pause_count:
                raise XenError(XEN_EINVAL)
            self.controller_pause_count -= 1
            self.creation_finished |= not self.controller_pause_count
            self.unpause()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """With the domain paused, unless it is the caller's own, which makes a hypercall."""
        with self.machine.lock:
            mine = self.cpu_thread == threading.get_ident()
            if not mine:
                self.pause()
            try:
                yield
            finally:
                if not mine:
                    self.unpause()

    def reset_vcpu(self, vcpu: Vcpu) -> None:
        """Take a vCPU's state away; it is down until it gets another (vcpu_reset)."""
        with self.paused():
            vcpu.take_down()
            self.machine.changed.notify_all()
            while self.cpu_state is not CpuState.NONE:
                self.machine.changed.wait()
            vcpu.reset()

    def shutdown(self, reason: int) -> None:
        """The domain ends: SHUTDOWN_*, unless another reason was told before (domain_shutdown)."""
        with self.machine.lock:
            if self.shutdown_code is None:
                self.shutdown_code = reason
            if self.is_shut_down:
                return
            self.is_shut_down = True
            self.pause_nosync()
            if self.shutdown_code == SHUTDOWN_suspend and self.suspend_evtchn:
                notify_via_xen_event_channel(self.record.address, self.suspend_evtchn)
            else:
                self.on_exit()

    def crash(self, reason: str) -> None:
        """The domain did what no domain may do (domain_crash). ``reason`` is one sentence for people."""
        with self.machine.lock:
            if not self.is_shut_down:
                self.crash_reason = reason
            self.shutdown(SHUTDOWN_crash)

    def resume(self) -> None:
        """Let a domain that has shut down go on (domain_resume)."""
        with self.machine.lock:
            self.pause()
            self.shutdown_code = None
            if self.is_shut_down:
                self.is_shut_down = False
                self.record["pause_count"] -= 1
            self.unpause()

    # The end.

    @property
    def is_dying(self) -> bool:
        """Whether it was destroyed: what it had is given back, or will be."""
        return self.record["is_dying"] != DOMDYING_alive

    def kill(self, preempt: Callable[[], bool] = lambda: False) -> bool:
        """Destroy the domain: give up all that it holds; False if it has to be called again (domain_kill).

        Pages of its that others refer to stay, and the domain with them; ``complete_destroy`` is for when there are
        none.
        """
        with self.machine.lock:
            if not self.is_dying:
                self.pause()
                self.record["is_dying"] = DOMDYING_dying
                self.interrupt()
                while self.cpu_state is not CpuState.NONE:
                    self.machine.changed.wait()
                heap.set_outstanding_pages(self.record.address, 0)
                self._teardown = self._relinquish_resources()
            return not any(preempt() for _step in self._teardown)

    def _relinquish_resources(self) -> Iterator[None]:
        """Step by step (domain_relinquish_resources)."""
        machine, domain = self.machine.record.address, self.record.address
        # First: after it nobody sends to this domain, and all that makes an event pending can go.
        self.event_channels.destroy()
        yield
        for vcpu in self._vcpus:
            vcpu.release()
        self.grant_table.release_mappings()
        yield
        while teardown.relinquish(machine, domain):
            if self.engine is not None:
                # It was for the domain's vCPUs, and they run no more.
                self.engine.block["kicked"] = 0
            yield
        if self.engine is not None:
            outside_writes.detach(domain)
            self.engine.close()
            self.engine = None
        self.record["is_dying"] = DOMDYING_dead
        domain_list.put_domain(domain)
        self.on_exit()

    @property
    def is_gone(self) -> bool:
        """Whether it is dead, and nothing refers to its pages any more."""
        return self.record["refcnt"] == 0

    def complete_destroy(self) -> None:
        """Once it is gone: give its number and Xen's own pages for it back (complete_domain_destroy)."""
        machine = self.machine.record.address
        domain_list.delist(machine, self.record.address)
        self.grant_table.destroy()
        heap.free_frame(machine, self.shared_info_frame)
        self.machine.return_free_memory()
        self.machine.console.forget(self.domid)
        for vcpu in self._vcpus:
            vcpu.sleeper.close()
