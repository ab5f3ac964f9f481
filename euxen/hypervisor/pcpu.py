"""A physical CPU: a host thread that runs a domain's vCPUs and handles what their engine can't.

The engine runs until it has a reason to come back; the reason is dealt with here, under the machine's
lock, and the vCPU goes on. A vCPU with nothing to do costs nothing: the thread sleeps.
"""

from __future__ import annotations

import threading

from euxen.abi.vcpu import RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_running
from euxen.cpu.engine import ExitReason
from euxen.hypervisor import sched, sleeper, time
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.hvm.cpu import HvmCpu
from euxen.hypervisor.pv_cpu import PvCpu
from euxen.hypervisor.running import CpuState
from euxen.hypervisor.ticker import Ticker
from euxen.hypervisor.vcpu import Vcpu

LONGEST_SLEEP = 3_600_000_000_000
"""In ns."""

FAILED = "Xen itself failed on its behalf."
"""Why a domain crashes for which something raised what it must not."""


class Pcpu:
    """Runs one domain until it ends, or until it is asked to stop."""

    def __init__(self, domain: Domain) -> None:
        assert domain.engine is not None
        self.domain = domain
        self.engine = domain.engine
        self.block = domain.engine.block
        self._cpu = HvmCpu(self.engine) if domain.is_hvm else PvCpu(self.engine)
        self.registers = self._cpu.registers
        self._stop = False
        self._cpu.load(domain.vcpus[0])

    def run(self) -> None:
        """Run until the domain has shut down, crashed or died, or ``stop`` is called."""
        domain, machine = self.domain, self.domain.machine
        vcpu = domain.vcpus[0]
        with machine.lock:
            assert domain.cpu_state in (CpuState.NONE, CpuState.STARTING)
            domain.cpu_thread = threading.get_ident()
            domain.enter(CpuState.PAUSED)
        try:
            with Ticker(self.block, machine.record.address):
                while self._may_run(vcpu):
                    if vcpu.is_blocked:
                        self._sleep(vcpu)
                    else:
                        self._run(vcpu)
                    domain.watchdogs.check()
        except Exception:
            domain.crash(FAILED)
            raise
        finally:
            # Last: from here on another thread may run the domain.
            domain.enter(CpuState.NONE)

    def _may_run(self, vcpu: Vcpu) -> bool:
        """Wait while the domain is paused; False if it does not run any more."""
        domain, record = self.domain, self.domain.record
        if domain.cpu_state is CpuState.RUNNING:
            if not record["pause_count"] and not self._stop:
                return True
            vcpu.set_runstate(RUNSTATE_blocked if vcpu.is_blocked else RUNSTATE_offline)
        with domain.machine.lock:
            while not (self._stop or domain.is_shut_down or record["is_dying"]) and vcpu.record["online"]:
                if not record["pause_count"]:
                    domain.enter(CpuState.RUNNING)
                    return True
                if domain.cpu_state is CpuState.RUNNING:
                    domain.enter(CpuState.PAUSED)
                domain.machine.changed.wait(domain.watchdogs.remaining)
                domain.watchdogs.check()
        return False

    def _run(self, vcpu: Vcpu) -> None:
        if vcpu.record["runstate"] != RUNSTATE_running:
            vcpu.set_runstate(RUNSTATE_running)
        self._cpu.load(vcpu)
        reason = ExitReason(self._cpu.prepare(self.block.address))
        if reason is ExitReason.NONE:
            reason = self.engine.run()
        handler = self._cpu.handlers.get(reason)
        if handler is not None:
            with self.domain.machine.lock:
                handler(vcpu)

    def _sleep(self, vcpu: Vcpu) -> None:
        """Wait for an event or a timer."""
        if vcpu.record["runstate"] != RUNSTATE_blocked:
            vcpu.set_runstate(RUNSTATE_blocked)
        now = self.domain.machine.now
        sleeper.prepare(vcpu.sleeper.address)
        if vcpu.is_blocked and not self._stop and not self.domain.record["pause_count"]:
            delay = min(vcpu.wake_time() - now(), LONGEST_SLEEP)
            if delay > 0:
                sleeper.sleep(vcpu.sleeper.address, delay)
        time.run_waking_timers(vcpu.record.address)
        sched.poll_timer(vcpu.record.address, now())

    def stop(self) -> None:
        """From any thread: let ``run`` return soon."""
        with self.domain.machine.lock:
            self._stop = True
            self.domain.vcpus[0].record["slice_end"] = 0
            self.domain.interrupt()
