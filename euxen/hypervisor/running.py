"""Whether a domain runs: what keeps it from that, its end by shutting down or crashing, and the thread that runs it.

Source: xen/common/domain.c, domain_pause to domain_resume.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from euxen.abi.errno import XEN_EINVAL, XEN_EOVERFLOW
from euxen.abi.sched import SHUTDOWN_crash, SHUTDOWN_suspend
from euxen.cpu.native.memory import Record
from euxen.hypervisor import sleeper
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channel import notify_via_xen_event_channel
from euxen.hypervisor.machine import Machine
from euxen.hypervisor.records import DOMDYING_alive

if TYPE_CHECKING:
    from euxen.cpu.engine import Engine
    from euxen.hypervisor.vcpu import Vcpu

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


class Running:
    """What a domain is to those who stop it and let it go on. All of it is done with the machine's lock held."""

    machine: Machine
    record: Record
    engine: Engine | None
    vcpus: list[Vcpu]

    def __init__(self) -> None:
        self.shutdown_code: int | None = None
        """SHUTDOWN_*, once it is known: it may be before the domain has shut down."""
        self.is_shut_down = False
        self.crash_reason: str | None = None
        self.suspend_evtchn = 0
        """The port that the domain itself sends by when it has suspended itself; 0 for VIRQ_DOM_EXC."""
        self.controller_pause_count = 0
        """How often a privileged domain has paused this one, and not yet let it go on."""
        self.creation_finished = False
        """Whether it was let go for the first time."""
        self.cpu_state = CpuState.NONE
        """What the host thread does that runs the domain. It changes with the machine's lock held."""
        self.cpu_thread: int | None = None
        """Which thread that is."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called when the domain has shut down, by itself or by a crash, and when it is dead."""
        self.on_runnable: Callable[[], None] = lambda: None
        """Called when nothing keeps the domain from running any more."""

    @property
    def is_dying(self) -> bool:
        """Whether it was destroyed: what it had is given back, or will be."""
        return self.record["is_dying"] != DOMDYING_alive

    @property
    def is_runnable(self) -> bool:
        """Whether a host thread should run it. Domain 0 has no engine: its kernel is this program."""
        stopped = self.record["pause_count"] or self.is_dying or self.is_shut_down
        return not stopped and self.engine is not None and bool(self.vcpus) and bool(self.vcpus[0].record["online"])

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
            self.pause()
            # Only now: who sees it may rely on that nothing runs.
            self.controller_pause_count += 1

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
        """Take a vCPU's state away; it is down until it gets another (vcpu_reset). One of a dying domain has none."""
        with self.paused():
            if self.is_dying:
                return
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
            self.shutdown_code = self.crash_reason = None
            if self.is_shut_down:
                self.is_shut_down = False
                self.record["pause_count"] -= 1
            self.unpause()
