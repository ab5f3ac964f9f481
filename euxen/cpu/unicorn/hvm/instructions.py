"""Instructions of HVM guests that the hypervisor is asked about, and SYSCALL and SYSENTER, which the library lacks.

Source: Intel SDM volume 2 and AMD APM volume 3 of each instruction.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import Answer, CpuBlock
from euxen.cpu.native.language import (
    call1,
    call2,
    call3,
    call4,
    load8,
    load32,
    load64,
    native,
    shr,
    slots,
    store32,
    store64,
)
from euxen.cpu.unicorn.hvm.control import flush_page
from euxen.cpu.unicorn.hvm.exceptions import DB, GP, UD, block_of, fault, leave, restore
from euxen.cpu.unicorn.hvm.interrupts import inject, settle
from euxen.cpu.unicorn.hvm.walk import LOW
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.softmmu import OF_PROGRAM, translate

DONE, EXIT = int(Answer.DONE), int(Answer.EXIT)
TWO_BYTES, GROUP_7, VMCALL, VMMCALL, INT1 = 0x0F, 0x01, 0xC1, 0xD9, 0xF1
VMCALL_BYTES = 3
DR6, DR6_SINGLE_STEP = state.DR + 8 * 6, 1 << 14
EFER_SCE = 1
CR0_PE = 1
MSW = 0xF
MSW_PE = 1
"""Which LMSW can set but not clear."""

FLAT = state.DESC_G | state.DESC_P | state.DESC_S | state.DESC_ACCESSED
FLAT_CODE = FLAT | state.DESC_CODE | state.DESC_READABLE
FLAT_DATA = FLAT | state.DESC_B | state.DESC_WRITABLE
NO_LIMIT = 0xFFFF_FFFF
USER = 3
SYSRET_FLAGS = state.LAZY | state.TF | state.IF | state.IOPL | state.NT | state.AC | state.VIF | state.VIP | state.ID
SELECTOR = 0xFFFC


@native
def _finish(block: int, answer: int) -> int:
    """Go on behind the instruction, or leave the translated code as a handler has answered."""
    if answer == DONE:
        return 0
    if answer != EXIT:
        fault(block, answer, 0, 0)
    return leave(block)


@native
def write_cr(env: int, register: int, value: int) -> int:
    """``helper_write_crN``: rip is at the instruction."""
    register &= 0xF
    if register == 2:
        store64(env + state.CR2, value)
        return 0
    block = block_of(env)
    return _finish(block, call3(load64(block + CpuBlock.on_cr_write), block, register, value))


@native
def read_cr(env: int, register: int) -> int:
    """``helper_read_crN``."""
    register &= 0xF
    if register == 8:
        block = block_of(env)
        return call1(load64(block + CpuBlock.on_cr8_read), block)
    return load64(env + state.CR0 + register * 8)


@native
def lmsw(env: int, value: int, return_address: int) -> int:
    """``helper_lmsw``."""
    restore(block_of(env), return_address)
    cr0 = load64(env + state.CR0)
    return write_cr(env, 0, (cr0 & ~(MSW & ~MSW_PE)) | (value & MSW))


@native
def rdmsr(env: int) -> int:
    """``helper_rdmsr``: rip is at the instruction."""
    block = block_of(env)
    return _finish(block, call2(load64(block + CpuBlock.on_rdmsr), block, load64(env + state.RCX) & LOW))


@native
def wrmsr(env: int) -> int:
    """``helper_wrmsr``: rip is at the instruction."""
    block = block_of(env)
    value = (load64(env + state.RDX) << 32) | (load64(env + state.RAX) & LOW)
    return _finish(block, call3(load64(block + CpuBlock.on_wrmsr), block, load64(env + state.RCX) & LOW, value))


@native
def hlt(env: int, length: int) -> int:
    """``helper_hlt``. Does not return."""
    block = block_of(env)
    store64(env + state.RIP, load64(env + state.RIP) + (length & 0xF))
    store32(env + state.HFLAGS, load32(env + state.HFLAGS) & ~state.HF_INHIBIT_IRQ)
    call1(load64(block + CpuBlock.on_hlt), block)
    settle(block)
    return leave(block)


@native
def invlpg(env: int, address: int) -> int:
    """``helper_invlpg``."""
    return flush_page(block_of(env), address)


@native
def _byte(block: int, env: int, offset: int) -> int:
    """A byte of the instruction at rip, or -1."""
    hflags = load32(env + state.HFLAGS)
    address = load64(env + state.RIP) + offset
    if not hflags & state.HF_CS64:
        address = (address + load64(env + state.CS + state.BASE)) & LOW
    host = translate(block, address, OF_PROGRAM if hflags & state.HF_CPL == 3 else 0)
    return load8(host) if host else -1


@native
def _is_vmcall(block: int, env: int) -> int:
    if _byte(block, env, 0) != TWO_BYTES or _byte(block, env, 1) != GROUP_7:
        return 0
    last = _byte(block, env, 2)
    return 1 if last == VMCALL or last == VMMCALL else 0


@native
def _vmcall(block: int, env: int) -> int:
    """VMCALL or VMMCALL, whichever; the hypervisor knows no difference. Does not return."""
    store64(block + CpuBlock.instruction_bytes, VMCALL_BYTES)
    answer = call1(load64(block + CpuBlock.on_vmcall), block)
    if answer == DONE:
        rip = load64(env + state.RIP) + VMCALL_BYTES
        store64(env + state.RIP, rip if load32(env + state.HFLAGS) & state.HF_CS64 else rip & LOW)
        store32(env + state.HFLAGS, load32(env + state.HFLAGS) & ~state.HF_INHIBIT_IRQ)
        if load64(env + state.EFLAGS) & state.TF:
            store64(env + DR6, load64(env + DR6) | DR6_SINGLE_STEP)
            inject(block, DB, -1)
    settle(block)
    if answer != DONE and answer != EXIT:
        fault(block, answer, 0, 0)
    return leave(block)


@native
def raise_exception(env: int, vector: int) -> int:
    """``raise_exception``. What the library does not decode may be a hypercall, or INT1, which raises #DB."""
    block = block_of(env)
    if not load64(block + CpuBlock.hvm):
        return call2(load64(slots() + Functions.raise_exception), env, vector)
    vector &= LOW
    if vector == UD:
        if _is_vmcall(block, env):
            return _vmcall(block, env)
        if _byte(block, env, 0) == INT1:
            store64(env + state.RIP, load64(env + state.RIP) + 1)
            vector = DB
    return fault(block, vector, 0, 0)


@native
def _enter_kernel(env: int, selector: int, code: int) -> int:
    """Flat segments of ring 0, as SYSCALL and SYSENTER load them. ``code``: more attributes of the code segment."""
    state.set_segment(env, state.CS, selector, 0, NO_LIMIT, FLAT_CODE | code)
    state.set_segment(env, state.SS, selector + 8, 0, NO_LIMIT, FLAT_DATA)
    return state.update_hflags(env, 0)


@native
def syscall(block: int, env: int, length: int) -> int:
    """``helper_syscall``: rip is at the instruction, which is ``length`` bytes long."""
    if not load64(env + state.EFER) & EFER_SCE:
        return fault(block, UD, 0, 0)
    flags = state.rflags(block)
    star = load64(env + state.STAR)
    following = load64(env + state.RIP) + length
    hflags = load32(env + state.HFLAGS)
    if hflags & state.HF_LMA:
        store64(env + state.RCX, following)
        store64(env + state.R11, flags & ~state.RF)
        state.set_rflags(block, flags & ~(load64(env + state.FMASK) | state.RF))
        store64(env + state.RIP, load64(env + (state.LSTAR if hflags & state.HF_CS64 else state.CSTAR)))
        _enter_kernel(env, shr(star, 32) & SELECTOR, state.DESC_L)
    else:
        store64(env + state.RCX, following & LOW)
        state.set_rflags(block, flags & ~(state.IF | state.RF | state.VM))
        store64(env + state.RIP, star & LOW)
        _enter_kernel(env, shr(star, 32) & SELECTOR, state.DESC_B)
    return 0


@native
def sysenter(block: int, env: int, code: int) -> int:
    """``helper_sysenter``: not in long mode, as AMD has it."""
    if load32(env + state.HFLAGS) & state.HF_LMA:
        return fault(block, UD, 0, code)
    selector = load32(env + state.SYSENTER_CS) & SELECTOR
    if selector == 0:
        return fault(block, GP, 0, code)
    state.set_rflags(block, state.rflags(block) & ~(state.IF | state.RF | state.VM))
    _enter_kernel(env, selector, state.DESC_B)
    store64(env + state.RSP, load64(env + state.SYSENTER_ESP) & LOW)
    store64(env + state.RIP, load64(env + state.SYSENTER_EIP) & LOW)
    return 0


@native
def sysret(env: int, width: int, return_address: int) -> int:
    """``helper_sysret``: ``width`` is 2 for a return to 64-bit code."""
    block = block_of(env)
    hflags = load32(env + state.HFLAGS)
    is_enabled = load64(env + state.EFER) & EFER_SCE
    if not is_enabled or hflags & state.HF_CPL or not load64(env + state.CR0) & CR0_PE:
        restore(block, return_address)
        call4(load64(block + CpuBlock.on_trap), block, GP if is_enabled else UD, 0, 0)
        leave(block)
    selector = shr(load64(env + state.STAR), 48) & SELECTOR
    rip = load64(env + state.RCX)
    code = state.DESC_B
    if width & 3 == 2:
        selector += 16
        code = state.DESC_L
    else:
        rip &= LOW
    if hflags & state.HF_LMA:
        state.set_rflags(block, load64(env + state.R11) & SYSRET_FLAGS)
    else:
        state.set_rflags(block, state.rflags(block) | state.IF)
    store64(env + state.RIP, rip)
    state.set_segment(env, state.CS, selector | USER, 0, NO_LIMIT, FLAT_CODE | code | USER << state.DESC_DPL_SHIFT)
    stack = (shr(load64(env + state.STAR), 48) & SELECTOR) + 8
    state.set_segment(env, state.SS, stack | USER, 0, NO_LIMIT, FLAT_DATA | USER << state.DESC_DPL_SHIFT)
    return state.update_hflags(env, USER)
