"""Segment instructions for paravirtualized guests.

The descriptors of such a guest lie in frames that the hypervisor knows, not at an address that the CPU
could read, and all of its code runs in what Xen makes ring 3, although its kernel runs at CPL 1 here to
have page tables of its own. So loads of segment registers, far transfers and the instructions that ask
about descriptors are done here, by the rules for ring 3. Source: Intel SDM volume 2 of each instruction.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.descriptor import (
    GP,
    NO_DESCRIPTOR,
    RING,
    attributes,
    code_fault,
    data_fault,
    install,
    limit_of,
    stack_fault,
)
from euxen.cpu.native.language import call4, load32, load64, native, store64
from euxen.cpu.unicorn.hvm.exceptions import block_of
from euxen.cpu.unicorn.softmmu import load_16, load_32, load_64, store_16, store_32, store_64
from euxen.cpu.unicorn.translate import serialize
from euxen.cpu.unicorn.traps import raise_trap

# What iret may change in ring 3 with IOPL 0.
IRET_FLAGS = state.ARITHMETIC | state.TF | state.DIRECTION | state.NT | state.RF | state.AC | state.ID


@native
def _describe(env: int, selector: int, load: int) -> int:
    """The descriptor that a selector names, or NO_DESCRIPTOR. ``load``: mark it as accessed."""
    block = block_of(env)
    return call4(load64(block + CpuBlock.on_descriptor), block, selector, load, 0)


@native
def _cpl(env: int) -> int:
    return load32(env + state.HFLAGS) & state.HF_CPL


@native
def _mmu(env: int) -> int:
    """The MMU operand of a memory access by the code that runs."""
    return 1 if _cpl(env) == RING else 2


@native
def load_seg(env: int, number: int, selector: int, code: int) -> int:
    """``helper_load_seg``: ``mov`` and ``pop`` to a segment register."""
    segment = state.SEGS + (number & 7) * state.SEGMENT_SIZE
    selector &= 0xFFFF
    if selector & 0xFFFC == 0:
        if segment == state.SS:
            raise_trap(env, GP, 0, code)
        state.set_segment(env, segment, selector, 0, 0, 0)
    else:
        descriptor = _describe(env, selector, 1)
        fault = stack_fault(selector, descriptor) if segment == state.SS else data_fault(descriptor)
        if fault:
            raise_trap(env, fault, selector & 0xFFFC, code)
        install(env, segment, selector, descriptor)
    state.update_hflags(env, _cpl(env))
    return 0


@native
def _enter(env: int, selector: int, descriptor: int, rip: int) -> int:
    """Go on in another code segment of the same ring."""
    install(env, state.CS, selector | RING, descriptor)
    state.update_hflags(env, _cpl(env))
    if not load32(env + state.HFLAGS) & state.HF_CS64:
        rip &= 0xFFFF_FFFF
    store64(env + state.RIP, rip)
    return 0


@native
def ljmp(env: int, selector: int, rip: int, code: int) -> int:
    """``helper_ljmp_protected``."""
    selector &= 0xFFFF
    descriptor = _describe(env, selector, 1)
    fault = code_fault(selector, descriptor)
    if fault:
        raise_trap(env, fault, selector & 0xFFFC, code)
    _enter(env, selector, descriptor, rip)
    return 0


@native
def _stack_mask(env: int) -> int:
    """Which bits of RSP the stack pointer has."""
    if load32(env + state.HFLAGS) & state.HF_CS64:
        return -1
    return 0xFFFF_FFFF if load32(env + state.SS + state.FLAGS) & state.DESC_B else 0xFFFF


@native
def _pop(env: int, depth: int, shift: int, code: int) -> int:
    """The value ``depth`` slots up the stack; slots are 2, 4 or 8 bytes for shifts of 0, 1 and 2."""
    pointer = (load64(env + state.RSP) + (depth << (shift + 1))) & _stack_mask(env)
    address = pointer + load64(env + state.SS + state.BASE)
    if shift == 2:
        return load_64(env, address, _mmu(env), code)
    if shift == 1:
        return load_32(env, address & 0xFFFF_FFFF, _mmu(env), code)
    return load_16(env, address & 0xFFFF_FFFF, _mmu(env), code)


@native
def _push(env: int, depth: int, shift: int, value: int, code: int) -> int:
    """Write the slot ``depth`` slots below the top of the stack, without moving the top."""
    pointer = (load64(env + state.RSP) - (depth << (shift + 1))) & _stack_mask(env)
    address = pointer + load64(env + state.SS + state.BASE)
    if shift == 2:
        store_64(env, address, value, _mmu(env), code)
    elif shift == 1:
        store_32(env, address & 0xFFFF_FFFF, value, _mmu(env), code)
    else:
        store_16(env, address & 0xFFFF_FFFF, value, _mmu(env), code)
    return 0


@native
def _move_stack(env: int, mask: int, pointer: int) -> int:
    """Set as much of RSP as the stack pointer has."""
    if mask == 0xFFFF:
        pointer = (load64(env + state.RSP) & ~0xFFFF) | (pointer & 0xFFFF)
    store64(env + state.RSP, pointer & (mask | 0xFFFF_FFFF))
    return 0


@native
def lcall(env: int, selector: int, rip: int, shift: int, following: int, code: int) -> int:
    """``helper_lcall_protected``. ``following`` is the address after the instruction."""
    selector &= 0xFFFF
    shift &= 3
    descriptor = _describe(env, selector, 1)
    fault = code_fault(selector, descriptor)
    if fault:
        raise_trap(env, fault, selector & 0xFFFC, code)
    _push(env, 1, shift, load32(env + state.CS), code)
    _push(env, 2, shift, following, code)
    _move_stack(env, _stack_mask(env), load64(env + state.RSP) - (2 << (shift + 1)))
    _enter(env, selector, descriptor, rip)
    return 0


@native
def _far_return(env: int, shift: int, extra: int, with_flags: int, code: int) -> int:
    """What iret and lret have in common. ``extra`` bytes of arguments are dropped."""
    mask = _stack_mask(env)
    rip = _pop(env, 0, shift, code)
    selector = _pop(env, 1, shift, code) & 0xFFFF
    flags = _pop(env, 2, shift, code) if with_flags else 0
    descriptor = _describe(env, selector, 1)
    fault = code_fault(selector, descriptor)
    if not fault and selector & 3 != RING:
        fault = GP
    if fault:
        raise_trap(env, fault, selector & 0xFFFC, code)
    depth = 3 if with_flags else 2
    pointer = load64(env + state.RSP) + (depth << (shift + 1)) + extra
    if with_flags and load32(env + state.HFLAGS) & state.HF_CS64:
        pointer = _pop(env, 3, shift, code)
        stack = _pop(env, 4, shift, code) & 0xFFFF
        stack_descriptor = _describe(env, stack, 1)
        fault = stack_fault(stack, stack_descriptor)
        if stack & 0xFFFC == 0:
            raise_trap(env, GP, 0, code)
        if fault:
            raise_trap(env, fault, stack & 0xFFFC, code)
        install(env, state.SS, stack, stack_descriptor)
        _enter(env, selector, descriptor, rip)
        store64(env + state.RSP, pointer & (_stack_mask(env) | 0xFFFF_FFFF))
    else:
        _enter(env, selector, descriptor, rip)
        _move_stack(env, mask, pointer)
    if with_flags:
        block = block_of(env)
        kept = IRET_FLAGS if shift else IRET_FLAGS & 0xFFFF
        state.set_rflags(block, (state.rflags(block) & ~kept) | (flags & kept))
    return 0


@native
def lret(env: int, shift: int, extra: int, code: int) -> int:
    """``helper_lret_protected``."""
    return _far_return(env, shift & 3, extra & 0xFFFF, 0, code)


@native
def iret(env: int, shift: int, code: int) -> int:
    """``helper_iret_protected``."""
    if load64(env + state.EFLAGS) & state.NT:
        raise_trap(env, GP, 0, code)
    _far_return(env, shift & 3, 0, 1, code)
    return serialize(env)


@native
def _answer(env: int, zero_flag: int) -> int:
    """Set ZF and leave the other flags, in the form in which the translator expects it."""
    arithmetic = state.rflags(block_of(env)) & state.ARITHMETIC
    store64(env + state.CC_SRC, (arithmetic | state.ZF) if zero_flag else (arithmetic & ~state.ZF))
    return 0


@native
def _visible(selector: int, descriptor: int) -> int:
    """Whether ring 3 may ask about a descriptor."""
    flags = attributes(descriptor)
    if selector & 0xFFFC == 0 or descriptor == NO_DESCRIPTOR:
        return 0
    if flags & state.DESC_S and flags & state.DESC_CODE and flags & state.DESC_CONFORMING:
        return 1
    return 1 if (flags >> state.DESC_DPL_SHIFT) & 3 == RING else 0


@native
def _system_type(descriptor: int, types: int) -> int:
    """Whether a descriptor is of a segment, or of one of the system types in a bit map."""
    flags = attributes(descriptor)
    return 1 if flags & state.DESC_S or (types >> ((flags >> 8) & 0xF)) & 1 else 0


@native
def lsl(env: int, selector: int) -> int:
    """``helper_lsl``: the limit of a segment."""
    selector &= 0xFFFF
    descriptor = _describe(env, selector, 0)
    seen = _visible(selector, descriptor) and _system_type(descriptor, 0b1010_0000_1110)
    _answer(env, 1 if seen else 0)
    return limit_of(descriptor) if seen else 0


@native
def lar(env: int, selector: int) -> int:
    """``helper_lar``: the attributes of a segment."""
    selector &= 0xFFFF
    descriptor = _describe(env, selector, 0)
    seen = _visible(selector, descriptor) and _system_type(descriptor, 0b1_1010_0011_1110)
    _answer(env, 1 if seen else 0)
    return attributes(descriptor) & 0x00F0_FF00 if seen else 0


@native
def verr(env: int, selector: int) -> int:
    """``helper_verr``: may it be read?"""
    selector &= 0xFFFF
    descriptor = _describe(env, selector, 0)
    flags = attributes(descriptor)
    readable = flags & state.DESC_S and (not flags & state.DESC_CODE or flags & state.DESC_READABLE)
    _answer(env, 1 if _visible(selector, descriptor) and readable else 0)
    return 0


@native
def verw(env: int, selector: int) -> int:
    """``helper_verw``: may it be written?"""
    selector &= 0xFFFF
    descriptor = _describe(env, selector, 0)
    flags = attributes(descriptor)
    writable = flags & state.DESC_S and not flags & state.DESC_CODE and flags & state.DESC_WRITABLE
    _answer(env, 1 if _visible(selector, descriptor) and writable else 0)
    return 0
