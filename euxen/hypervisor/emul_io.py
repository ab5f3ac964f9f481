"""INS and OUTS. Source: rep_ins and rep_outs in xen/arch/x86/pv/emul-priv-op.c."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iced_x86 import Code, Instruction, OpKind, Register

from euxen.cpu import state
from euxen.cpu.registers import Registers
from euxen.hypervisor import traps
from euxen.hypervisor.errors import GuestFault
from euxen.hypervisor.fault import Fault, PageFault
from euxen.hypervisor.guest_access import addr_ok
from euxen.hypervisor.ports import guest_io_okay, read_port, write_port
from euxen.hypervisor.vcpu import Vcpu

RCX, RDX, RSI, RDI = 1, 2, 6, 7
PAGE_SIZE = 4096
LOW = 0xFFFF_FFFF
TRAP_stack_error = 12
PFEC_write_access = 2
MOST_REPEATS = 256
"""After so many the guest can be interrupted: then the instruction goes on."""


@dataclass(frozen=True)
class _Access:
    """The memory operand of a string instruction."""

    index: int
    """The register that moves along."""
    segment: int
    """Offset of the segment register in the CPU's state."""
    address_bits: int
    is_write: bool


INS_OPERANDS = {OpKind.MEMORY_ESDI: 16, OpKind.MEMORY_ESEDI: 32, OpKind.MEMORY_ESRDI: 64}
OUTS_OPERANDS = {OpKind.MEMORY_SEG_SI: 16, OpKind.MEMORY_SEG_ESI: 32, OpKind.MEMORY_SEG_RSI: 64}
WIDTHS = {
    Code.INSB_M8_DX: 1,
    Code.INSW_M16_DX: 2,
    Code.INSD_M32_DX: 4,
    Code.OUTSB_DX_M8: 1,
    Code.OUTSW_DX_M16: 2,
    Code.OUTSD_DX_M32: 4,
}
SEGMENTS = {
    Register.ES: state.ES,
    Register.CS: state.CS,
    Register.SS: state.SS,
    Register.DS: state.DS,
    Register.FS: state.FS,
    Register.GS: state.GS,
}


def _access(instruction: Instruction) -> _Access:
    if instruction.op0_kind in INS_OPERANDS:
        return _Access(RDI, state.ES, INS_OPERANDS[instruction.op0_kind], is_write=True)
    segment = SEGMENTS[instruction.memory_segment]
    return _Access(RSI, segment, OUTS_OPERANDS[instruction.op1_kind], is_write=False)


def check_port(vcpu: Vcpu, port: int, width: int) -> None:
    """Raises Fault for ports that the guest may not use."""
    allowed = guest_io_okay(vcpu.block, port, width)
    if allowed < 0:
        here = vcpu.record["iobmp"] + (port >> 3)
        copied = 1 if here & PAGE_SIZE - 1 == PAGE_SIZE - 1 and _is_readable(vcpu, here) else 0
        # Not the address that can't be read, if the port is one byte wide, but the one that Xen names.
        raise PageFault(here + width - (2 - copied) & (1 << 64) - 1)
    if not allowed:
        raise Fault


def _is_readable(vcpu: Vcpu, address: int) -> bool:
    try:
        vcpu.read(address, 1)
    except GuestFault:
        return False
    return True


def string(vcpu: Vcpu, registers: Registers, instruction: Instruction) -> bool:
    """INS and OUTS, repeated or not. False if repetitions are left to be done."""
    access = _access(instruction)
    width = WIDTHS[instruction.code]
    repeats = instruction.has_rep_prefix or instruction.has_repne_prefix
    mask = (1 << access.address_bits) - 1
    count = registers[RCX] & mask if repeats else 1
    if not count:
        return True
    record = vcpu.record.address
    port = registers[RDX] & 0xFFFF
    check_port(vcpu, port, width)
    step = -width if registers.rflags & state.DIRECTION else width
    # One at a time where the guest wants to see each.
    limit = 1 if registers.rflags & state.TF else MOST_REPEATS
    for _ in range(min(count, limit)):
        address = _linear(registers, access, width)
        if access.is_write:
            _store(vcpu, address, read_port(record, port, width).to_bytes(width, "little"))
        else:
            write_port(record, port, width, int.from_bytes(_load(vcpu, address, width), "little"))
        _advance(registers, access.index, step, mask)
        if repeats:
            _advance(registers, RCX, -1, mask)
    return not repeats or registers[RCX] & mask == 0


def _advance(registers: Registers, number: int, step: int, mask: int) -> None:
    """Count in a register. 32 bits clear those above, 16 do not."""
    value = registers[number]
    kept = value & ~mask if mask == 0xFFFF else 0
    registers[number] = kept | (value + step) & mask


def _linear(registers: Registers, access: _Access, width: int) -> int:
    """The address of the memory operand. Raises Fault for one that the segment forbids."""
    vector = TRAP_stack_error if access.segment == state.SS else traps.TRAP_gp_fault
    offset = registers[access.index] & (1 << access.address_bits) - 1
    if registers.long_mode:
        base = registers.word(access.segment + state.BASE) if access.segment in (state.FS, state.GS) else 0
        address = (base + offset) & (1 << 64) - 1
        if not addr_ok(address):
            raise Fault(vector)
        return address
    limit_and_flags = registers.word(access.segment + state.LIMIT)
    limit, flags = limit_and_flags & LOW, limit_and_flags >> 32
    is_code = flags & state.DESC_CODE
    # The bit that makes code readable makes data writable.
    usable = flags & state.DESC_WRITABLE if is_code or access.is_write else True
    present = flags & state.DESC_P and flags & state.DESC_S
    if not present or not usable or (is_code and access.is_write):
        raise Fault(vector)
    if offset + width - 1 > limit:
        raise Fault(vector)
    return registers.word(access.segment + state.BASE) + offset & LOW


def _parts(address: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Address, start and end of what lies in each page: a fault names the first byte that is not there."""
    first = min(size, PAGE_SIZE - address % PAGE_SIZE)
    yield address, 0, first
    if first < size:
        yield address + first, first, size


def _load(vcpu: Vcpu, address: int, size: int) -> bytes:
    data = b""
    for at, start, end in _parts(address, size):
        try:
            data += vcpu.fetch(at, end - start)
        except GuestFault:
            raise PageFault(at) from None
    return data


def _store(vcpu: Vcpu, address: int, data: bytes) -> None:
    for at, start, end in _parts(address, len(data)):
        try:
            vcpu.store(at, data[start:end])
        except GuestFault:
            raise PageFault(at, PFEC_write_access) from None
