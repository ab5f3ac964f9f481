"""A physical CPU: a host thread that runs a domain's vCPUs and handles what their engine can't.

The engine runs until it has a reason to come back; the reason is dealt with here, under the machine's
lock, and the vCPU goes on. A vCPU with nothing to do costs nothing: the thread sleeps.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.abi.errno import XEN_EFAULT
from euxen.abi.vcpu import RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_running
from euxen.abi.xen import HYPERVISOR_multicall, MulticallEntry
from euxen.cpu import state
from euxen.cpu.engine import ExitReason
from euxen.cpu.registers import MASK, Registers
from euxen.hypervisor import crash, ctrlreg, descriptors, entry, sched, sleeper, time, traps
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.emulate import emulate
from euxen.hypervisor.errors import Continuation, GuestFault
from euxen.hypervisor.hypercalls import table
from euxen.hypervisor.mm import ro_fault
from euxen.hypervisor.running import CpuState
from euxen.hypervisor.ticker import Ticker
from euxen.hypervisor.vcpu import Vcpu

ARGUMENTS = (7, 6, 2, 10, 8)
"""The registers that hold a hypercall's arguments: RDI, RSI, RDX, R10, R8."""
RAX = 0
LONGEST_SLEEP = 3_600_000_000_000
"""In ns."""

CR0 = 0x8005_0033
CR4 = 0x0000_06E0
EFER = 0xD01
HF_MP, HF_OSFXSR = 0x200, 1 << 22
FLAGS_OF_GUESTS = state.LAZY | state.TF | state.NT | state.RF | state.AC | state.ID
"""What of RFLAGS a vCPU begins with as it was asked for. It always takes interrupts, and never has privileges."""
X87_CONTROL, MXCSR = 0x37F, 0x1F80
FAILED = "Xen itself failed on its behalf."
"""Why a domain crashes for which something raised what it must not."""


class Pcpu:
    """Runs one domain until it ends, or until it is asked to stop."""

    def __init__(self, domain: Domain) -> None:
        assert domain.engine is not None
        self.domain = domain
        self.engine = domain.engine
        self.block = domain.engine.block
        self.registers = Registers(self.block)
        self._stop = False
        vcpu = domain.vcpus[0]
        if vcpu.context is not None:
            self._install_handlers()
            self._load(vcpu, vcpu.context)
            vcpu.context = None
        self._handlers: dict[ExitReason, Callable[[Vcpu], None]] = {
            ExitReason.HYPERCALL: self._hypercall,
            ExitReason.EMULATE: self._emulate,
            ExitReason.CRASH: self._crash,
        }

    def _install_handlers(self) -> None:
        block = self.block
        block["on_page_fault"] = traps.page_fault.address
        block["on_store"] = ro_fault.store.address
        block["on_trap"] = traps.trap.address
        block["on_syscall"] = entry.syscall.address
        block["on_interrupt"] = entry.interrupted.address
        block["on_descriptor"] = descriptors.descriptor.address
        block["on_tsc"] = time.tsc.address

    def _load(self, vcpu: Vcpu, context: VcpuGuestContext) -> None:
        """Put a vCPU that never ran into the engine."""
        env = self.block["env"]
        self.engine.flush_tlb()
        self.block["vcpu"] = vcpu.record.address
        self.block["root"] = vcpu.record["guest_table"] << 12
        self.block["user_root"] = vcpu.record["guest_table_user"] << 12
        regs = context.user_regs
        for number, name in enumerate(("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")):
            self.registers[number] = getattr(regs, name)
        for number in range(8, 16):
            self.registers[number] = getattr(regs, f"r{number}")
        self.registers.rip = regs.rip
        self._load_control(vcpu, context)
        traps.load_flat_kernel(env)
        for segment, selector in ((state.DS, regs.ds), (state.ES, regs.es), (state.FS, regs.fs), (state.GS, regs.gs)):
            state.set_segment(
                env, segment, selector, 0, 0xFFFF_FFFF if selector else 0, traps.FLAT_DATA if selector else 0
            )
        state.update_hflags(env, traps.GUEST_KERNEL_CPL)
        self.registers.rflags = (regs.rflags & FLAGS_OF_GUESTS) | state.IF | 2
        self.registers.set_word(state.FS + state.BASE, context.fs_base)
        self.registers.set_word(state.GS + state.BASE, context.gs_base_kernel)
        self.registers.set_word(state.KERNEL_GS_BASE, context.gs_base_user)

    def _load_control(self, vcpu: Vcpu, context: VcpuGuestContext) -> None:
        registers = self.registers
        registers.set_word(state.CR0, CR0)
        registers.set_word(state.CR4, CR4 | ctrlreg.guest_cr4(vcpu, context.ctrlreg[4]) & ctrlreg.CR4_OF_THE_CPU)
        registers.set_word(state.EFER, EFER)
        hflags = state.HF_PE | state.HF_LMA | HF_MP | HF_OSFXSR
        state.set_hflags(self.block["env"], hflags)
        state.init_fpu(self.block["env"], X87_CONTROL, MXCSR)

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
        reason = ExitReason(entry.prepare(self.block.address))
        if reason is ExitReason.NONE:
            reason = self.engine.run()
        handler = self._handlers.get(reason)
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
        time.run_singleshot_timer(vcpu.record.address)
        sched.poll_timer(vcpu.record.address, now())

    def stop(self) -> None:
        """From any thread: let ``run`` return soon."""
        with self.domain.machine.lock:
            self._stop = True
            self.domain.vcpus[0].record["slice_end"] = 0
            self.domain.interrupt()

    def _hypercall(self, vcpu: Vcpu) -> None:
        registers = self.registers
        try:
            if registers[RAX] == HYPERVISOR_multicall:
                registers[RAX] = self._multicall(vcpu)
            else:
                registers[RAX] = table.call(vcpu, registers[RAX], *(registers[n] for n in ARGUMENTS))
        except Continuation as continuation:
            for register, value in zip(ARGUMENTS, continuation.arguments, strict=False):
                registers[register] = value
            registers.rip -= entry.SYSCALL_LENGTH

    def _multicall(self, vcpu: Vcpu) -> int:
        """The one call of a multicall that is not native; what follows it is native again."""
        calls, count = vcpu.continuation[:2]
        try:
            call = MulticallEntry.unpack_from(vcpu.read(calls, MulticallEntry.size))
            try:
                result = table.call(vcpu, call.op, *call.args[:5])
            except Continuation as continuation:
                arguments = struct.pack(f"<{len(continuation.arguments)}Q", *continuation.arguments)
                vcpu.write(calls + MulticallEntry.offsets["args"], arguments)
                raise Continuation(calls, count) from None
            vcpu.write(calls + MulticallEntry.offsets["result"], struct.pack("<Q", result & MASK))
        except GuestFault:
            return -XEN_EFAULT
        if count > 1:
            raise Continuation(calls + MulticallEntry.size, count - 1)
        return 0

    def _emulate(self, vcpu: Vcpu) -> None:
        self.block["exit_reason"] = ExitReason.NONE
        emulate(vcpu, self.registers, self.block["exit_info"])
        if self.block["exit_reason"] == ExitReason.CRASH:
            self._crash(vcpu)

    def _crash(self, vcpu: Vcpu) -> None:
        crash.crash(vcpu, self.registers, self.block["exit_info"], self.block["exit_detail"])
