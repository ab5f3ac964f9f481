"""Privileged instructions of a PV guest. Source: xen/arch/x86/pv/emul-priv-op.c, whose ``validate`` names them.

Whether the guest's kernel executes one is what its virtual privilege is: a program gets #GP for nearly all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iced_x86 import Code, Decoder, Instruction, Register

from euxen.cpu import state
from euxen.cpu.registers import Registers
from euxen.hypervisor import ctrlreg, emul_io, ports, time, traps
from euxen.hypervisor.errors import GuestFault, XenError
from euxen.hypervisor.fault import Fault, PageFault
from euxen.hypervisor.hypercalls import state as debugreg
from euxen.hypervisor.msr import MSR_TSC_AUX, read_msr, write_msr
from euxen.hypervisor.records import TF_kernel_mode
from euxen.hypervisor.vcpu import Vcpu

LONGEST_INSTRUCTION = 15
PAGE_SIZE = 4096
RAX, RCX, RDX = 0, 1, 2
LOW = 0xFFFF_FFFF


@dataclass(frozen=True)
class Operation:
    """An instruction, and who executes it."""

    vcpu: Vcpu
    registers: Registers
    instruction: Instruction

    @property
    def by_kernel(self) -> bool:
        """Whether the guest's kernel executes it, and not one of its programs (guest_kernel_mode)."""
        return bool(self.vcpu.record["flags"] & TF_kernel_mode)


def privileged_op(vcpu: Vcpu, registers: Registers) -> bool:
    """Execute the instruction at RIP, and move RIP behind it. Raises Fault: #GP for most instructions there are.

    False if it is a string instruction that has to go on: RIP is where it was.
    """
    instruction = _decode(vcpu, registers)
    operate = OPERATIONS.get(instruction.code)
    if operate is None:
        raise Fault
    operation = Operation(vcpu, registers, instruction)
    if instruction.code in KERNEL_ONLY and not operation.by_kernel:
        raise Fault
    if operate(operation) is False:
        return False
    size = instruction.len
    registers.rip = registers.rip + size if registers.long_mode else (registers.rip + size) & LOW
    return True


def _decode(vcpu: Vcpu, registers: Registers) -> Instruction:
    """The instruction at RIP. Raises PageFault if it goes on where there is no memory."""
    base, bits = 0, 64
    if not registers.long_mode:
        base = registers.base("cs")
        bits = 32 if registers.word(state.HFLAGS) & state.HF_CS32 else 16
    address = base + registers.rip & (LOW if bits < 64 else ~0)
    code = _fetch(vcpu, address)
    instruction = Decoder(bits, code, ip=registers.rip).decode()
    if instruction.is_invalid and len(code) < LONGEST_INSTRUCTION:
        # Perhaps only its end is missing.
        raise PageFault(address + len(code))
    return instruction


def _fetch(vcpu: Vcpu, address: int) -> bytes:
    """Up to 15 bytes of code: fewer where the next page is not there."""
    here = min(LONGEST_INSTRUCTION, PAGE_SIZE - address % PAGE_SIZE)
    try:
        code = vcpu.fetch(address, here)
    except GuestFault:
        raise PageFault(address) from None
    try:
        return code + vcpu.fetch(address + here, LONGEST_INSTRUCTION - here)
    except GuestFault:
        return code


def _nothing(operation: Operation) -> None:
    """WBINVD: a domain without devices has no use for it, and Linux times loops with it."""


def _interrupt_flag(operation: Operation) -> None:
    """CLI and STI do nothing: events are masked in the vcpu_info. Without the privilege they fault."""
    if not ports.iopl_ok(operation.vcpu.record.address):
        raise Fault


def _clts(operation: Operation) -> None:
    value = ctrlreg.read_cr(operation.vcpu, 0)
    ctrlreg.write_cr(operation.vcpu, operation.registers, 0, value & ~traps.CR0_TS)


def _general(register: int) -> int:
    """The encoding of a general register of 64 or 32 bits."""
    return int(register - (Register.RAX if register >= Register.RAX else Register.EAX))


def _read_cr(operation: Operation) -> None:
    number = operation.instruction.op1_register - Register.CR0
    operation.registers[_general(operation.instruction.op0_register)] = ctrlreg.read_cr(operation.vcpu, number)


def _write_cr(operation: Operation) -> None:
    number = operation.instruction.op0_register - Register.CR0
    value = operation.registers[_general(operation.instruction.op1_register)]
    ctrlreg.write_cr(operation.vcpu, operation.registers, number, value)


def _debug_register(vcpu: Vcpu, number: int) -> int:
    """The debug register that is meant: DR4 and DR5 are DR6 and DR7 until CR4.DE makes them invalid."""
    if number in (4, 5):
        if ctrlreg.read_cr(vcpu, 4) & ctrlreg.CR4_DE:
            raise Fault(traps.TRAP_invalid_op)
        number += 2
    return number


def _read_dr(operation: Operation) -> None:
    number = _debug_register(operation.vcpu, operation.instruction.op1_register - Register.DR0)
    value = debugreg.get_debugreg(operation.vcpu, number)
    operation.registers[_general(operation.instruction.op0_register)] = value


def _write_dr(operation: Operation) -> None:
    number = _debug_register(operation.vcpu, operation.instruction.op0_register - Register.DR0)
    value = operation.registers[_general(operation.instruction.op1_register)]
    if number >= 6 and value >> 32:
        raise Fault
    try:
        debugreg.set_debugreg(operation.vcpu, number, value)
    except XenError:
        raise Fault from None


def _set_pair(registers: Registers, value: int) -> None:
    """A 64-bit result in EDX:EAX."""
    registers[RAX], registers[RDX] = value & LOW, value >> 32 & LOW


def _rdmsr(operation: Operation) -> None:
    registers = operation.registers
    _set_pair(registers, read_msr(operation.vcpu, registers, registers[RCX] & LOW))


def _wrmsr(operation: Operation) -> None:
    registers = operation.registers
    value = (registers[RDX] & LOW) << 32 | registers[RAX] & LOW
    write_msr(operation.vcpu, registers, registers[RCX] & LOW, value)


def _rdtsc(operation: Operation) -> None:
    """Traps only where the guest's kernel has set CR4.TSD: then it is not for programs."""
    if not operation.by_kernel and ctrlreg.read_cr(operation.vcpu, 4) & ctrlreg.CR4_TSD:
        raise Fault
    _set_pair(operation.registers, time.tsc(operation.vcpu.block))


def _rdtscp(operation: Operation) -> None:
    _rdtsc(operation)
    operation.registers[RCX] = read_msr(operation.vcpu, operation.registers, MSR_TSC_AUX)


def _in(operation: Operation) -> None:
    instruction, registers = operation.instruction, operation.registers
    width = WIDTHS[instruction.op0_register]
    port = _port(registers, instruction.op1_register, instruction.immediate8)
    emul_io.check_port(operation.vcpu, port, width)
    value = ports.read_port(operation.vcpu.record.address, port, width)
    # Writing 32 bits of a register clears the others; writing fewer does not.
    kept = 0 if width == 4 else registers[RAX] & ~((1 << 8 * width) - 1)
    registers[RAX] = kept | value


def _out(operation: Operation) -> None:
    instruction, registers = operation.instruction, operation.registers
    width = WIDTHS[instruction.op1_register]
    port = _port(registers, instruction.op0_register, instruction.immediate8)
    emul_io.check_port(operation.vcpu, port, width)
    ports.write_port(operation.vcpu.record.address, port, width, registers[RAX] & LOW)


def _port(registers: Registers, register: int, immediate: int) -> int:
    return registers[RDX] & 0xFFFF if register == Register.DX else immediate


def _string(operation: Operation) -> bool:
    return emul_io.string(operation.vcpu, operation.registers, operation.instruction)


WIDTHS = {Register.AL: 1, Register.AX: 2, Register.EAX: 4}

Operate = Callable[[Operation], bool | None]

OPERATIONS: dict[int, Operate] = {
    Code.CLTS: _clts,
    Code.WBINVD: _nothing,
    Code.WBNOINVD: _nothing,
    Code.CLI: _interrupt_flag,
    Code.STI: _interrupt_flag,
    Code.MOV_R64_CR: _read_cr,
    Code.MOV_R32_CR: _read_cr,
    Code.MOV_CR_R64: _write_cr,
    Code.MOV_CR_R32: _write_cr,
    Code.MOV_R64_DR: _read_dr,
    Code.MOV_R32_DR: _read_dr,
    Code.MOV_DR_R64: _write_dr,
    Code.MOV_DR_R32: _write_dr,
    Code.RDMSR: _rdmsr,
    Code.WRMSR: _wrmsr,
    Code.RDTSC: _rdtsc,
    Code.RDTSCP: _rdtscp,
    Code.IN_AL_IMM8: _in,
    Code.IN_AX_IMM8: _in,
    Code.IN_EAX_IMM8: _in,
    Code.IN_AL_DX: _in,
    Code.IN_AX_DX: _in,
    Code.IN_EAX_DX: _in,
    Code.OUT_IMM8_AL: _out,
    Code.OUT_IMM8_AX: _out,
    Code.OUT_IMM8_EAX: _out,
    Code.OUT_DX_AL: _out,
    Code.OUT_DX_AX: _out,
    Code.OUT_DX_EAX: _out,
    Code.INSB_M8_DX: _string,
    Code.INSW_M16_DX: _string,
    Code.INSD_M32_DX: _string,
    Code.OUTSB_DX_M8: _string,
    Code.OUTSW_DX_M16: _string,
    Code.OUTSD_DX_M32: _string,
}

KERNEL_ONLY = {
    Code.CLTS,
    Code.WBINVD,
    Code.WBNOINVD,
    Code.MOV_R64_CR,
    Code.MOV_R32_CR,
    Code.MOV_CR_R64,
    Code.MOV_CR_R32,
    Code.MOV_R64_DR,
    Code.MOV_R32_DR,
    Code.MOV_DR_R64,
    Code.MOV_DR_R32,
    Code.RDMSR,
    Code.WRMSR,
}
