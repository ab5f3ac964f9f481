"""Exceptions, interrupts and their return in long mode: the guest's IDT, GDT and TSS, and frames on its stacks.

The library can do this too, with error codes that are wrong, and slowly. For the other modes it does.
A problem is given back as vector | error code << 8. Nothing has changed then, nor when memory is not there.
Source: Intel SDM volume 3, chapter 6, and IRET in volume 2.
"""

from __future__ import annotations

from euxen.cpu import descriptor as descriptors
from euxen.cpu import state
from euxen.cpu.native.language import load32, load64, native, shr, store32, store64, ult
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.softmmu import load_64, storable, store_64
from euxen.cpu.unicorn.tlb import PAGE_MASK

EXCEPTION, SOFTWARE, INTERRUPT = 0, 1, 2
"""What is delivered."""
HAVE_ERROR_CODE = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21

TS, NP, SS, GP = 10, 11, 12, 13
IN_IDT, EXTERNAL = 2, 1
INTERRUPT_GATE, TRAP_GATE = 14, 15
SELECTOR = 0xFFFC
LDT_SELECTOR = 4
IOPL_SHIFT = 12
NO_DESCRIPTOR = descriptors.NO_DESCRIPTOR
KERNEL_MMU = layout.MMU_KERNEL


@native
def problem(vector: int, error_code: int) -> int:
    """A fault to be raised."""
    return vector | error_code << 8


@native
def descriptor(env: int, selector: int, place: int) -> int:
    """The descriptor that a selector names, or NO_DESCRIPTOR. May fault, at a place in translated code."""
    table = env + (state.LDTR if selector & LDT_SELECTOR else state.GDTR)
    offset = selector & 0xFFF8
    if selector & SELECTOR == 0 or offset + 7 > load32(table + state.LIMIT):
        return NO_DESCRIPTOR
    return load_64(env, load64(table + state.BASE) + offset, KERNEL_MMU, place)


@native
def _stack_from_tss(env: int, number: int) -> int:
    """One of the stack pointers of the TSS: of a ring, or 3 and a number of the interrupt stack table."""
    return load_64(env, load64(env + state.TR + state.BASE) + 4 + 8 * number, KERNEL_MMU, 0)


@native
def _push(env: int, mmu: int, frame: int, words: int, error_code: int, rip: int, flags: int) -> int:
    """Write a frame of 5 words, or of 6 with an error code, at the bottom of which is ``frame``."""
    first = frame + 8 if words == 6 else frame
    cs = load32(env + state.CS)
    ss = load32(env + state.SS)
    rsp = load64(env + state.RSP)
    host = 0
    if frame & PAGE_MASK == (frame + words * 8 - 1) & PAGE_MASK:
        host = storable(env, frame, mmu)
    if host:
        if words == 6:
            store64(host, error_code)
            host += 8
        store64(host, rip)
        store64(host + 8, cs)
        store64(host + 16, flags)
        store64(host + 24, rsp)
        store64(host + 32, ss)
    else:
        store_64(env, first + 32, ss, mmu, 0)
        store_64(env, first + 24, rsp, mmu, 0)
        store_64(env, first + 16, flags, mmu, 0)
        store_64(env, first + 8, cs, mmu, 0)
        store_64(env, first, rip, mmu, 0)
        if words == 6:
            store_64(env, frame, error_code, mmu, 0)
    return 0


@native
def _gate_problem(vector: int, low: int, cpl: int, kind: int) -> int:
    """What keeps a gate of the IDT from being used, or 0."""
    attributes = shr(low, 32)
    external = 0 if kind == SOFTWARE else EXTERNAL
    type_ = (attributes >> 8) & 0x1F
    if type_ != INTERRUPT_GATE and type_ != TRAP_GATE:
        return problem(GP, vector * 8 + IN_IDT + external)
    if kind == SOFTWARE and (attributes >> state.DESC_DPL_SHIFT) & 3 < cpl:
        return problem(GP, vector * 8 + IN_IDT)
    if not attributes & state.DESC_P:
        return problem(NP, vector * 8 + IN_IDT + external)
    if shr(low, 16) & SELECTOR == 0:
        return problem(GP, external)
    return 0


@native
def _code_problem(selector: int, code: int, cpl: int, external: int) -> int:
    """What keeps a code segment from being a handler's, or 0."""
    flags = descriptors.attributes(code)
    error_code = (selector & SELECTOR) | external
    if code == NO_DESCRIPTOR or not flags & state.DESC_S or not flags & state.DESC_CODE:
        return problem(GP, error_code)
    if (flags >> state.DESC_DPL_SHIFT) & 3 > cpl or not flags & state.DESC_L or flags & state.DESC_B:
        return problem(GP, error_code)
    return 0 if flags & state.DESC_P else problem(NP, error_code)


@native
def deliver(block: int, env: int, vector: int, error_code: int, kind: int, next_rip: int) -> int:
    """Go on in the handler of a vector; returns 0 or a problem. Does not return where memory is not there."""
    external = 0 if kind == SOFTWARE else EXTERNAL
    if vector * 16 + 15 > load32(env + state.IDTR + state.LIMIT):
        return problem(GP, vector * 8 + IN_IDT + external)
    entry = load64(env + state.IDTR + state.BASE) + vector * 16
    low = load_64(env, entry, KERNEL_MMU, 0)
    high = load_64(env, entry + 8, KERNEL_MMU, 0)
    hflags = load32(env + state.HFLAGS)
    cpl = hflags & state.HF_CPL
    found = _gate_problem(vector, low, cpl, kind)
    if found:
        return found
    selector = shr(low, 16) & 0xFFFF
    code = descriptor(env, selector, 0)
    found = _code_problem(selector, code, cpl, external)
    if found:
        return found
    code_flags = descriptors.attributes(code)
    ring = cpl if code_flags & state.DESC_CONFORMING else (code_flags >> state.DESC_DPL_SHIFT) & 3
    ist = shr(low, 32) & 7
    stack = load64(env + state.RSP)
    if ist or ring < cpl:
        number = ist + 3 if ist else ring
        if 8 * number + 11 > load32(env + state.TR + state.LIMIT):
            return problem(TS, (load32(env + state.TR) & SELECTOR) | external)
        stack = _stack_from_tss(env, number)
    words = 6 if kind == EXCEPTION and ult(vector, 32) and (HAVE_ERROR_CODE >> vector) & 1 else 5
    frame = (stack & ~0xF) - words * 8
    flags = state.rflags(block)
    mmu = layout.MMU_USER if ring == 3 else KERNEL_MMU
    _push(env, mmu, frame, words, error_code, next_rip if kind == SOFTWARE else load64(env + state.RIP), flags)
    if ring < cpl:
        state.set_segment(env, state.SS, ring, 0, 0, ring << state.DESC_DPL_SHIFT)
    descriptors.install(env, state.CS, (selector & ~3) | ring, code)
    store64(env + state.RSP, frame)
    store64(env + state.RIP, (low & 0xFFFF) | (shr(low, 48) << 16) | high << 32)
    cleared = state.TF | state.VM | state.RF | state.NT
    if (shr(low, 40) & 0xF) == INTERRUPT_GATE:
        cleared |= state.IF
    store64(env + state.EFLAGS, load64(env + state.EFLAGS) & ~cleared)
    store32(env + state.HFLAGS, hflags & ~state.HF_INHIBIT_IRQ)
    return state.update_hflags(env, ring)


@native
def _can_return_to(selector: int, code: int) -> int:
    """Whether a code segment is as it usually is, so that we return to it."""
    flags = descriptors.attributes(code)
    wanted = state.DESC_S | state.DESC_CODE | state.DESC_P
    if code == NO_DESCRIPTOR or flags & (wanted | state.DESC_CONFORMING) != wanted:
        return 0
    if flags & state.DESC_L and flags & state.DESC_B:
        return 0
    return 1 if (flags >> state.DESC_DPL_SHIFT) & 3 == selector & 3 else 0


@native
def _can_have_stack(selector: int, stack: int, ring: int, is_long: int) -> int:
    """The same for its stack segment."""
    if selector & SELECTOR == 0:
        return 1 if is_long and ring != 3 and selector & 3 == ring else 0
    flags = descriptors.attributes(stack)
    wanted = state.DESC_S | state.DESC_WRITABLE | state.DESC_P
    if stack == NO_DESCRIPTOR or flags & (wanted | state.DESC_CODE) != wanted or selector & 3 != ring:
        return 0
    if not is_long and not flags & state.DESC_B:
        return 0
    return 1 if (flags >> state.DESC_DPL_SHIFT) & 3 == ring else 0


@native
def _drop_for_ring(env: int, segment: int, ring: int) -> int:
    """A ring that is returned to loses a segment that only an inner one may use."""
    flags = load32(env + segment + state.FLAGS)
    conforming = flags & state.DESC_CODE and flags & state.DESC_CONFORMING
    if load32(env + segment) & SELECTOR and not conforming and (flags >> state.DESC_DPL_SHIFT) & 3 < ring:
        store32(env + segment, 0)
        store32(env + segment + state.FLAGS, flags & ~state.DESC_P)
    return 0


@native
def iret(block: int, env: int, place: int) -> int:
    """IRETQ of 64-bit code; whether it was done: what is unusual is left to the library. May fault."""
    hflags = load32(env + state.HFLAGS)
    old_flags = load64(env + state.EFLAGS)
    cpl = hflags & state.HF_CPL
    mmu = layout.MMU_USER if cpl == 3 else KERNEL_MMU
    frame = load64(env + state.RSP)
    rip = load_64(env, frame, mmu, place)
    selector = load_64(env, frame + 8, mmu, place) & 0xFFFF
    flags = load_64(env, frame + 16, mmu, place)
    rsp = load_64(env, frame + 24, mmu, place)
    stack_selector = load_64(env, frame + 32, mmu, place) & 0xFFFF
    ring = selector & 3
    if old_flags & state.NT or ring < cpl:
        return 0
    code = descriptor(env, selector, place)
    is_long = descriptors.attributes(code) & state.DESC_L
    if not _can_return_to(selector, code):
        return 0
    stack = 0
    if stack_selector & SELECTOR:
        stack = descriptor(env, stack_selector, place)
    if not _can_have_stack(stack_selector, stack, ring, is_long):
        return 0
    kept = ~(state.LAZY | state.TF | state.AC | state.ID | state.RF | state.NT)
    if cpl == 0:
        kept &= ~(state.IOPL | state.VIF | state.VIP)
    if cpl <= (old_flags & state.IOPL) >> IOPL_SHIFT:
        kept &= ~state.IF
    state.set_rflags(block, (old_flags & kept) | (flags & ~kept & 0xFFFF_FFFF))
    descriptors.install(env, state.CS, selector, code)
    if stack_selector & SELECTOR:
        descriptors.install(env, state.SS, stack_selector, stack)
    else:
        state.set_segment(env, state.SS, stack_selector, 0, 0, ring << state.DESC_DPL_SHIFT)
    store64(env + state.RSP, rsp if is_long else rsp & 0xFFFF_FFFF)
    store64(env + state.RIP, rip if is_long else rip & 0xFFFF_FFFF)
    if ring > cpl:
        _drop_for_ring(env, state.ES, ring)
        _drop_for_ring(env, state.DS, ring)
        _drop_for_ring(env, state.FS, ring)
        _drop_for_ring(env, state.GS, ring)
    state.update_hflags(env, ring)
    return 1
