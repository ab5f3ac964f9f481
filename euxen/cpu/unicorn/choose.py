"""Instructions that the library executes rightly for HVM guests, and we execute for PV guests.

The library finds out in which instruction it was when it faults by the place in translated code that called it. From
here that would be nowhere, so what has to be known is brought up to date before.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, call2, call3, call4, call5, load32, load64, native, slots, store32
from euxen.cpu.unicorn import segments
from euxen.cpu.unicorn.hvm import delivery, ports
from euxen.cpu.unicorn.hvm.exceptions import block_of, restore
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.translate import serialize
from euxen.cpu.unicorn.traps import VECTOR_GP, raise_trap


@native
def _is_hvm(env: int, code: int) -> int:
    """Whether the library does it. Then the registers are up to date."""
    block = block_of(env)
    if not load64(block + CpuBlock.hvm):
        return 0
    restore(block, code)
    return 1


@native
def load_seg(env: int, number: int, selector: int, return_address: int) -> int:
    """``helper_load_seg``."""
    if _is_hvm(env, return_address):
        return call3(load64(slots() + Functions.helper_load_seg), env, number, selector)
    return segments.load_seg(env, number, selector, return_address)


@native
def ljmp(env: int, selector: int, rip: int, following: int, return_address: int) -> int:
    """``helper_ljmp_protected``."""
    if _is_hvm(env, return_address):
        return call4(load64(slots() + Functions.helper_ljmp_protected), env, selector, rip, following)
    return segments.ljmp(env, selector, rip, return_address)


@native
def lcall(env: int, selector: int, rip: int, shift: int, following: int, return_address: int) -> int:
    """``helper_lcall_protected``."""
    if _is_hvm(env, return_address):
        return call5(load64(slots() + Functions.helper_lcall_protected), env, selector, rip, shift, following)
    return segments.lcall(env, selector, rip, shift, following, return_address)


@native
def lret(env: int, shift: int, extra: int, return_address: int) -> int:
    """``helper_lret_protected``."""
    if _is_hvm(env, return_address):
        return call3(load64(slots() + Functions.helper_lret_protected), env, shift, extra)
    return segments.lret(env, shift, extra, return_address)


@native
def iret(env: int, shift: int, following: int, return_address: int) -> int:
    """``helper_iret_protected``."""
    block = block_of(env)
    if not load64(block + CpuBlock.hvm):
        return segments.iret(env, shift, return_address)
    if load32(env + state.HFLAGS2) & state.HF2_NMI:
        # The NMI that the guest handles is over: another one may have waited for that.
        store32(env + state.HFLAGS2, load32(env + state.HFLAGS2) & ~state.HF2_NMI)
        call1(load64(block + CpuBlock.kick), block)
    is_quad = shift & 3 == 2 and load32(env + state.HFLAGS) & state.HF_CS64
    if not is_quad or not delivery.iret(block, env, return_address):
        restore(block, return_address)
        call3(load64(slots() + Functions.helper_iret_protected), env, shift, following)
    return serialize(env)


@native
def lar(env: int, selector: int, return_address: int) -> int:
    """``helper_lar``."""
    if _is_hvm(env, return_address):
        return call2(load64(slots() + Functions.helper_lar), env, selector)
    return segments.lar(env, selector)


@native
def lsl(env: int, selector: int, return_address: int) -> int:
    """``helper_lsl``."""
    if _is_hvm(env, return_address):
        return call2(load64(slots() + Functions.helper_lsl), env, selector)
    return segments.lsl(env, selector)


@native
def verr(env: int, selector: int, return_address: int) -> int:
    """``helper_verr``."""
    if _is_hvm(env, return_address):
        return call2(load64(slots() + Functions.helper_verr), env, selector)
    return segments.verr(env, selector)


@native
def verw(env: int, selector: int, return_address: int) -> int:
    """``helper_verw``."""
    if _is_hvm(env, return_address):
        return call2(load64(slots() + Functions.helper_verw), env, selector)
    return segments.verw(env, selector)


@native
def _port(env: int, port: int, size: int, is_write: int, value: int, code: int) -> int:
    """No PV guest has a port of its own. The library would not even look at IOPL."""
    if load64(block_of(env) + CpuBlock.hvm):
        return ports.access(env, port, size, is_write, value, code)
    return raise_trap(env, VECTOR_GP, 0, code)


@native
def in_8(env: int, port: int, return_address: int) -> int:
    """``helper_inb``."""
    return _port(env, port, 1, 0, 0, return_address)


@native
def in_16(env: int, port: int, return_address: int) -> int:
    """``helper_inw``."""
    return _port(env, port, 2, 0, 0, return_address)


@native
def in_32(env: int, port: int, return_address: int) -> int:
    """``helper_inl``."""
    return _port(env, port, 4, 0, 0, return_address)


@native
def out_8(env: int, port: int, value: int, return_address: int) -> int:
    """``helper_outb``."""
    return _port(env, port, 1, 1, value, return_address)


@native
def out_16(env: int, port: int, value: int, return_address: int) -> int:
    """``helper_outw``."""
    return _port(env, port, 2, 1, value, return_address)


@native
def out_32(env: int, port: int, value: int, return_address: int) -> int:
    """``helper_outl``."""
    return _port(env, port, 4, 1, value, return_address)
