"""How the engine of a PV domain is entered, and what is done for it that takes Python."""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.cpu import state
from euxen.cpu.engine import Engine, ExitReason
from euxen.cpu.registers import Registers
from euxen.hypervisor import crash, ctrlreg, descriptors, entry, time, traps
from euxen.hypervisor.emulate import emulate
from euxen.hypervisor.hypercalls.calling import make_hypercall
from euxen.hypervisor.mm import ro_fault
from euxen.hypervisor.vcpu import Vcpu

CR0 = 0x8005_0033
CR4 = 0x0000_06E0
EFER = 0xD01
HF_MP, HF_OSFXSR = 0x200, 1 << 22
FLAGS_OF_GUESTS = state.LAZY | state.TF | state.NT | state.RF | state.AC | state.ID
"""What of RFLAGS a vCPU begins with as it was asked for. It always takes interrupts, and never has privileges."""
X87_CONTROL, MXCSR = 0x37F, 0x1F80


class PvCpu:
    """The engine of one PV domain, as ``Pcpu`` runs it."""

    prepare = entry.prepare
    """Native: what is due before the engine runs; the reason not to, or 0."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.block = engine.block
        self.registers = Registers(engine.block)
        self.handlers: dict[ExitReason, Callable[[Vcpu], None]] = {
            ExitReason.HYPERCALL: self._hypercall,
            ExitReason.EMULATE: self._emulate,
            ExitReason.CRASH: self._crash,
        }

    def load(self, vcpu: Vcpu) -> None:
        """Put a vCPU's state into the engine, if it is not there."""
        context, vcpu.context = vcpu.context, None
        if context is not None:
            self._install_handlers()
            self._load(vcpu, context)

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

    def _hypercall(self, vcpu: Vcpu) -> None:
        if not make_hypercall(vcpu, self.registers):
            self.registers.rip -= entry.SYSCALL_LENGTH

    def _emulate(self, vcpu: Vcpu) -> None:
        self.block["exit_reason"] = ExitReason.NONE
        emulate(vcpu, self.registers, self.block["exit_info"])
        if self.block["exit_reason"] == ExitReason.CRASH:
            self._crash(vcpu)

    def _crash(self, vcpu: Vcpu) -> None:
        crash.crash(vcpu, self.registers, self.block["exit_info"], self.block["exit_detail"])
