"""A guest's hypercall that Python makes: its arguments out of the registers, its result or what is left into them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from euxen.abi.errno import XEN_EFAULT
from euxen.abi.xen import HYPERVISOR_multicall, MulticallEntry
from euxen.cpu.registers import MASK, Registers
from euxen.hypervisor import crash
from euxen.hypervisor.errors import Continuation, GuestFault
from euxen.hypervisor.hypercalls import compat, table
from euxen.hypervisor.vcpu import Vcpu

RAX = 0
ARGUMENTS = (7, 6, 2, 10, 8)
"""The registers that hold a hypercall's arguments: RDI, RSI, RDX, R10, R8."""
ARGUMENTS_32 = (3, 1, 2, 6, 7)
"""The same for 32-bit code of an HVM guest: EBX, ECX, EDX, ESI, EDI."""
LOW = 0xFFFF_FFFF


def make_hypercall(vcpu: Vcpu, registers: Registers) -> bool:
    """Make it. False if the guest has to make it again, for the rest."""
    is_whole = _make_32(vcpu, registers) if vcpu.hvm is not None and not registers.long_mode else _make(vcpu, registers)
    if vcpu.domain.crash_reason is not None:
        crash.report(vcpu, registers, vcpu.domain.crash_reason)
    return is_whole


def _make(vcpu: Vcpu, registers: Registers) -> bool:
    try:
        if registers[RAX] == HYPERVISOR_multicall:
            registers[RAX] = _multicall(vcpu)
        else:
            registers[RAX] = table.call(vcpu, registers[RAX], *(registers[n] for n in ARGUMENTS))
    except Continuation as continuation:
        _go_on(registers, ARGUMENTS, continuation.arguments)
        return False
    return True


def _go_on(registers: Registers, places: Sequence[int], arguments: Sequence[int]) -> None:
    for register, value in zip(places, arguments, strict=False):
        registers[register] = value


def _make_32(vcpu: Vcpu, registers: Registers) -> bool:
    arguments = [registers[n] & LOW for n in ARGUMENTS_32]
    try:
        registers[RAX] = compat.call(vcpu, registers[RAX] & LOW, arguments) & LOW
    except Continuation as continuation:
        _go_on(registers, ARGUMENTS_32, [argument & LOW for argument in continuation.arguments])
        return False
    return True


def _multicall(vcpu: Vcpu) -> int:
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
