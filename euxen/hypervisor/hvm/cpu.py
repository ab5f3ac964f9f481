"""How the engine of an HVM domain is entered, and what is done for it that takes Python."""

from __future__ import annotations

from collections.abc import Callable

from euxen.abi.hvm_params import HVM_PARAM_TRIPLE_FAULT_REASON
from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.cpu.block import P2M_EXECUTE, CpuBlock
from euxen.cpu.engine import Engine, ExitReason
from euxen.cpu.native.language import call3, load64, native
from euxen.cpu.registers import Registers
from euxen.hypervisor import crash
from euxen.hypervisor.errors import GuestFault
from euxen.hypervisor.hvm import cpu_state, cr, hypercall, io, irq, msr, msr_rare, vlapic_regs
from euxen.hypervisor.hypercalls.calling import make_hypercall
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.vcpu import Vcpu

RAX, RCX, RDX = 0, 1, 2
LOW = 0xFFFF_FFFF
TRAP_gp_fault = 13
ESCAPE, LONGEST_INSTRUCTION = 0x0F, 15


@native
def inject(block: int, vector: int, error_code: int) -> int:
    """``CpuBlock.inject``, for Python."""
    return call3(load64(block + CpuBlock.inject), block, vector, error_code)


class HvmCpu:
    """The engine of one HVM domain, as ``Pcpu`` runs it."""

    prepare = irq.prepare
    """Native: what is due before the engine runs; the reason not to, or 0."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.block = engine.block
        self.registers = Registers(engine.block)
        self.handlers: dict[ExitReason, Callable[[Vcpu], None]] = {
            ExitReason.HYPERCALL: self._hypercall,
            ExitReason.EMULATE: self._msr,
            ExitReason.MMIO: self._mmio,
            ExitReason.SHUTDOWN: self._down,
            ExitReason.TRIPLE_FAULT: self._triple_fault,
            ExitReason.CRASH: self._crash,
            ExitReason.ATTENTION: self._console,
        }

    def load(self, vcpu: Vcpu) -> None:
        """Put a vCPU's state into the engine, if it is not there."""
        assert vcpu.hvm is not None
        cpu, vcpu.hvm.at_rest = vcpu.hvm.at_rest, None
        if cpu is not None:
            self._install_handlers()
            self.block["vcpu"] = vcpu.record.address
            cpu_state.load(self.engine, cpu)

    def _install_handlers(self) -> None:
        block = self.block
        block["on_interrupt"] = irq.interrupted.address
        block["pending_vector"] = irq.pending_vector.address
        block["on_vmcall"] = hypercall.on_vmcall.address
        block["on_cr_write"] = cr.on_cr_write.address
        block["on_cr8_read"] = vlapic_regs.read_cr8.address
        block["on_rdmsr"], block["on_wrmsr"] = msr.on_rdmsr.address, msr.on_wrmsr.address
        block["on_tsc"] = msr.tsc.address
        block["on_hlt"] = io.on_hlt.address
        block["on_port"], block["on_mmio"] = io.on_port.address, io.on_mmio.address

    def _hypercall(self, vcpu: Vcpu) -> None:
        if make_hypercall(vcpu, self.registers):
            self._advance(self.block["instruction_bytes"])

    def _advance(self, size: int) -> None:
        registers = self.registers
        registers.rip = registers.rip + size if registers.long_mode else registers.rip + size & LOW

    def _msr(self, vcpu: Vcpu) -> None:
        registers, index = self.registers, self.block["exit_detail"]
        try:
            if self.block["exit_info"] == msr.READ:
                value = msr_rare.read(vcpu, registers, index)
                registers[RAX], registers[RDX] = value & LOW, value >> 32 & LOW
            else:
                msr_rare.write(vcpu, registers, index, (registers[RDX] & LOW) << 32 | registers[RAX] & LOW)
        except msr_rare.NoSuchMsr:
            inject(self.block.address, TRAP_gp_fault, 0)
        else:
            self._advance(self._msr_instruction_bytes(vcpu))

    def _msr_instruction_bytes(self, vcpu: Vcpu) -> int:
        """The length of the RDMSR or WRMSR at RIP, with whatever prefixes it has."""
        address = self.registers.rip
        if not self.registers.long_mode:
            address = address + self.registers.base("cs") & LOW
        size = 1
        try:
            while size < LONGEST_INSTRUCTION and vcpu.fetch(address + size - 1, 1)[0] != ESCAPE:
                size += 1
        except GuestFault:  # it was there a moment ago
            size = 1
        return size + 1

    def _mmio(self, vcpu: Vcpu) -> None:
        """An access that nothing emulates: of code, or by an instruction that is rare (hvm_hap_nested_page_fault)."""
        address, wanted = self.block["exit_info"], self.block["exit_detail"]
        if wanted & P2M_EXECUTE and p2m.get_entry(vcpu.domain.record.address, address >> 12):
            crash.crash_for(vcpu, self.registers, f"The guest executes what is only lent to it, at {address:#x}.")
        else:
            inject(self.block.address, TRAP_gp_fault, 0)

    def _down(self, vcpu: Vcpu) -> None:
        """The vCPU is switched off. The last one takes the domain with it (hvm_vcpu_down)."""
        vcpu.take_down()
        if not any(other.record["online"] for other in vcpu.domain.vcpus):
            vcpu.domain.machine.printk(f"{vcpu} All CPUs offline -- powering off.")
            vcpu.domain.shutdown(SHUTDOWN_poweroff)

    def _triple_fault(self, vcpu: Vcpu) -> None:
        """The CPU has shut down for a fault on the way to its handlers (hvm_triple_fault)."""
        assert vcpu.domain.hvm is not None
        reason = vcpu.domain.hvm.params[HVM_PARAM_TRIPLE_FAULT_REASON]
        log = vcpu.domain.machine.printk
        log(f"{vcpu} Triple fault - invoking HVM shutdown action {reason}")
        for line in crash.dump(vcpu, self.registers):
            log(line)
        vcpu.domain.shutdown(reason & 0xFF)

    def _crash(self, vcpu: Vcpu) -> None:
        crash.crash(vcpu, self.registers, self.block["exit_info"], self.block["exit_detail"])

    def _console(self, vcpu: Vcpu) -> None:
        """The guest has written to the debug console."""
        assert vcpu.domain.hvm is not None
        data = vcpu.domain.hvm.take_console()
        if data:
            vcpu.domain.machine.console.guest_write(vcpu.domain.domid, data)
            vcpu.domain.console_write(data)
