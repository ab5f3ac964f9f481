"""The privileged instructions that kernels execute often, natively: ports, CLI and STI, and segment bases.

Linux asks for the inactive GS base at every context switch, and reads ports a hundred thousand times while it
boots. Only what can be done is done: all else is left to ``emul_priv_op``, which also knows why not.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import load32, load64, native, shr, store64
from euxen.hypervisor.guest_access import guest_byte
from euxen.hypervisor.ports import guest_io_okay, iopl_ok, read_port, write_port
from euxen.hypervisor.records import TF_kernel_mode, VcpuRecord

MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE = 0xC000_0100, 0xC000_0101, 0xC000_0102
LOW = 0xFFFF_FFFF
OPERAND_SIZE, TWO_BYTES = 0x66, 0x0F
IN_OUT, IN_OUT_MASK = 0xE4, 0xF4
WIDE, OUT, BY_DX = 1, 2, 8
"""Bits of the opcodes of IN and OUT."""
CLI, STI = 0xFA, 0xFB
WRMSR, RDMSR = 0x30, 0x32


@native
def base_of_msr(index: int) -> int:
    """Where the CPU's state has a segment base that is a model-specific register; 0 for another register.

    While the guest's kernel runs, its programs' GS base is the inactive one.
    """
    if index == MSR_FS_BASE:
        return state.FS + state.BASE
    if index == MSR_GS_BASE:
        return state.GS + state.BASE
    return state.KERNEL_GS_BASE if index == MSR_SHADOW_GS_BASE else 0


@native
def canonical(address: int) -> int:
    """Whether the upper bits of a linear address repeat its highest."""
    return 1 if address >> 47 == 0 or address >> 47 == -1 else 0


@native
def _port_op(vcpu: int, env: int, opcode: int, port: int, width: int) -> int:
    rax = load64(env + state.RAX)
    if opcode & OUT:
        return write_port(vcpu, port, width, rax)
    value = read_port(vcpu, port, width)
    if width < 4:  # 32 bits clear those above them
        value |= rax & ~((1 << 8 * width) - 1)
    store64(env + state.RAX, value)
    return 0


@native
def _msr_op(env: int, opcode: int) -> int:
    """RDMSR or WRMSR; 1 if it was done."""
    base = base_of_msr(load64(env + state.RCX) & LOW)
    if not base:
        return 0
    if opcode == RDMSR:
        value = load64(env + base)
        store64(env + state.RAX, value & LOW)
        store64(env + state.RDX, shr(value, 32))
        return 1
    value = load64(env + state.RDX) << 32 | (load64(env + state.RAX) & LOW)
    if canonical(value):
        store64(env + base, value)
        return 1
    return 0


@native
def _operate(block: int, env: int, rip: int) -> int:
    """Execute the instruction at ``rip``; its length, or 0 if it was not done."""
    vcpu = load64(block + CpuBlock.vcpu)
    opcode = guest_byte(block, rip)
    size = 1
    width = 4
    if opcode == OPERAND_SIZE:
        opcode = guest_byte(block, rip + 1)
        size = 2
        width = 2
    if opcode & IN_OUT_MASK == IN_OUT:
        port = load64(env + state.RDX) & 0xFFFF
        if not opcode & BY_DX:
            port = guest_byte(block, rip + size)
            size += 1
        if not opcode & WIDE:
            width = 1
        if port >= 0 and guest_io_okay(block, port, width) == 1:
            _port_op(vcpu, env, opcode, port, width)
            return size
    elif opcode == CLI or opcode == STI:
        return size if iopl_ok(vcpu) else 0
    elif opcode == TWO_BYTES and load64(vcpu + VcpuRecord.flags) & TF_kernel_mode:
        opcode = guest_byte(block, rip + size)
        if (opcode == RDMSR or opcode == WRMSR) and _msr_op(env, opcode):
            return size + 1
    return 0


@native
def privileged_op(block: int) -> int:
    """The instruction at RIP raised #GP(0): 1 if it is one of these and done, with RIP behind it."""
    env = load64(block + CpuBlock.env)
    flags = state.rflags(block)
    if not load32(env + state.HFLAGS) & state.HF_CS64 or flags & state.TF:
        return 0
    rip = load64(env + state.RIP)
    size = _operate(block, env, rip)
    if not size:
        return 0
    store64(env + state.RIP, rip + size)
    if flags & state.RF:
        state.set_rflags(block, flags & ~state.RF)
    return 1
