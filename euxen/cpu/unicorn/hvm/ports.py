"""I/O ports of HVM guests: whether the guest may use one is decided here, what is there by the hypervisor."""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call2, call5, load32, load64, native, slots
from euxen.cpu.unicorn.hvm.exceptions import block_of, leave, restore
from euxen.cpu.unicorn.library import Functions

CR0_PE = 1
IOPL_SHIFT = 12
EXIT = -1


@native
def _check(env: int, port: int, size: int, code: int) -> int:
    """#GP where neither IOPL nor the TSS's bit map permits the access."""
    flags = load64(env + state.EFLAGS)
    virtual = flags & state.VM
    cpl = load32(env + state.HFLAGS) & state.HF_CPL
    if load64(env + state.CR0) & CR0_PE and (virtual or cpl > (flags & state.IOPL) >> IOPL_SHIFT):
        # It would look in vain for the place in the translated code from where we were called.
        restore(block_of(env), code)
        if size == 1:
            call2(load64(slots() + Functions.helper_check_iob), env, port)
        elif size == 2:
            call2(load64(slots() + Functions.helper_check_iow), env, port)
        else:
            call2(load64(slots() + Functions.helper_check_iol), env, port)
    return 0


@native
def access(env: int, port: int, size: int, is_write: int, value: int, code: int) -> int:
    """IN, OUT, and one step of INS and OUTS, at a place in translated code; returns what is read."""
    block = block_of(env)
    port &= 0xFFFF
    _check(env, port, size, code)
    handler = load64(block + CpuBlock.on_port)
    answer = call5(handler, block, port, size, is_write, value & ((1 << (size * 8)) - 1))
    if answer == EXIT:
        restore(block, code)
        leave(block)
    return answer
