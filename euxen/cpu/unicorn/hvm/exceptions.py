"""From a fault to the guest's own handler: double and triple faults, and delivery by the library's rules for the IDT.

All of the library's functions that raise an exception end here for an HVM guest. They deliver at once and go on at
the guest's handler, where the library would unwind first and deliver then.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call1, call3, call4, call5, load32, load64, native, shr, slots, store32, store64
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm import delivery
from euxen.cpu.unicorn.hvm.mmio import NOT_MODELLED, TRIPLE_FAULT
from euxen.cpu.unicorn.hvm.walk import LOW
from euxen.cpu.unicorn.library import Functions

DE, DB, UD, DF, TS, GP, PF = 0, 1, 6, 8, 10, 13, 14
ARCHITECTURAL = 0
"""What ``exit_info`` says of a triple fault, if not NOT_MODELLED."""
NO_ERROR_CODE = -1
DR6, DR7, BREAKPOINTS = state.DR + 8 * 6, state.DR + 8 * 7, 0xFF


@native
def leave(block: int) -> int:
    """Go back to the library's loop, with the registers as they are. Does not return."""
    cpu = load64(block + CpuBlock.cpu)
    store64(block + CpuBlock.delivering, 0)
    store32(cpu + layout.CPU_EXCEPTION_INDEX, layout.NO_EXCEPTION)
    store32(load64(block + CpuBlock.env) + layout.ENV_OLD_EXCEPTION, layout.NO_EXCEPTION)
    return call1(load64(slots() + Functions.cpu_loop_exit), cpu)


@native
def restore(block: int, code: int) -> int:
    """Bring rip and the flags up to date, where ``code`` is a place in translated code, or 0."""
    if code:
        call3(load64(slots() + Functions.cpu_restore_state), load64(block + CpuBlock.cpu), code, 1)
    return 0


@native
def shut_down(block: int, why: int) -> int:
    """The guest's CPU stops for good. Does not return."""
    request_exit(block, TRIPLE_FAULT, why)
    return leave(block)


@native
def give_up(cpu: int, _format: int) -> int:
    """``cpu_abort``: the library meets what it thinks impossible, as a TR that holds no task state segment."""
    return shut_down(load64(cpu + layout.CPU_OPAQUE), NOT_MODELLED)


@native
def _is_contributory(vector: int) -> int:
    return 1 if vector == DE or (vector >= TS and vector <= GP) else 0


@native
def deliver(block: int, vector: int, error_code: int, is_software: int, next_rip: int) -> int:
    """Have the guest's IDT handle a vector, and go on there. Does not return. Registers are up to date."""
    env = load64(block + CpuBlock.env)
    if load32(env + state.HFLAGS) & state.HF_LMA:
        store64(block + CpuBlock.delivering, 1)
        kind = delivery.SOFTWARE if is_software else delivery.EXCEPTION
        problem = delivery.deliver(block, env, vector, error_code, kind, next_rip)
        if problem:
            return fault(block, problem & 0xFF, shr(problem, 8), 0)
        return leave(block)
    cpu = load64(block + CpuBlock.cpu)
    store32(cpu + layout.CPU_EXCEPTION_INDEX, vector)
    store32(env + layout.ENV_ERROR_CODE, error_code)
    store32(env + layout.ENV_EXCEPTION_IS_INT, is_software)
    store64(env + layout.ENV_EXCEPTION_NEXT_EIP, next_rip)
    store64(block + CpuBlock.delivering, 1)
    call1(load64(slots() + Functions.x86_cpu_do_interrupt), cpu)
    store32(env + state.HFLAGS, load32(env + state.HFLAGS) & ~state.HF_INHIBIT_IRQ)
    return leave(block)


@native
def _is_at_breakpoint(env: int) -> int:
    """Whether the next instruction has a breakpoint, so that #DB came before it and not after another one."""
    hit = load64(env + DR6) & 0xF
    control = load64(env + DR7)
    address = load64(env + state.RIP)
    if not load32(env + state.HFLAGS) & state.HF_CS64:
        address = (address + load64(env + state.CS + state.BASE)) & LOW
    for number in range(4):
        is_execution = not (control >> (16 + 4 * number)) & 3
        if (hit >> number) & 1 and is_execution and load64(env + state.DR + 8 * number) == address:
            return 1
    return 0


@native
def fault(block: int, vector: int, error_code: int, code: int) -> int:
    """Raise an exception, or the double fault that it makes with the one that is being delivered. Does not return."""
    restore(block, code)
    env = load64(block + CpuBlock.env)
    first = load32(env + layout.ENV_OLD_EXCEPTION)
    if first == DF:
        return shut_down(block, ARCHITECTURAL)
    contributory = _is_contributory(vector)
    if (contributory and (_is_contributory(first) or first == PF)) or (vector == PF and first == PF):
        vector = DF
        error_code = 0
    if contributory or vector == PF or vector == DF:
        store32(env + layout.ENV_OLD_EXCEPTION, vector)
    if load64(env + DR7) & BREAKPOINTS and (vector != DB or _is_at_breakpoint(env)):
        # What the handler returns to must not break again.
        store64(env + state.EFLAGS, load64(env + state.EFLAGS) | state.RF)
    return deliver(block, vector, error_code, 0, 0)


@native
def page_fault(block: int, address: int, error_code: int) -> int:
    """``CpuBlock.on_page_fault`` of an HVM guest. Does not return."""
    env = load64(block + CpuBlock.env)
    if not load32(env + state.HFLAGS) & state.HF_LMA:
        address &= LOW
    store64(env + state.CR2, address)
    return fault(block, PF, error_code, 0)


@native
def trap(block: int, vector: int, error_code: int, _software: int) -> int:
    """``CpuBlock.on_trap`` of an HVM guest. Does not return."""
    return fault(block, vector, error_code, 0)


@native
def block_of(env: int) -> int:
    """The block of the engine whose registers these are."""
    return load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)


@native
def raise_exception_ra(env: int, vector: int, code: int) -> int:
    """``raise_exception_ra``."""
    block = block_of(env)
    if load64(block + CpuBlock.hvm):
        return fault(block, vector & LOW, 0, code)
    return call3(load64(slots() + Functions.raise_exception_ra), env, vector, code)


@native
def raise_exception_err(env: int, vector: int, error_code: int) -> int:
    """``raise_exception_err``."""
    block = block_of(env)
    if load64(block + CpuBlock.hvm):
        return fault(block, vector & LOW, error_code & LOW, 0)
    return call3(load64(slots() + Functions.raise_exception_err), env, vector, error_code)


@native
def raise_exception_err_ra(env: int, vector: int, error_code: int, code: int) -> int:
    """``raise_exception_err_ra``."""
    block = block_of(env)
    if load64(block + CpuBlock.hvm):
        return fault(block, vector & LOW, error_code & LOW, code)
    return call4(load64(slots() + Functions.raise_exception_err_ra), env, vector, error_code, code)


@native
def raise_interrupt(env: int, vector: int, is_software: int, error_code: int, length: int) -> int:
    """``raise_interrupt``: INT n, INT3 and INTO. rip stays at the instruction for the faults that they may cause."""
    block = block_of(env)
    if load64(block + CpuBlock.hvm):
        return deliver(block, vector & LOW, error_code & LOW, 1, load64(env + state.RIP) + (length & 0xF))
    return call5(load64(slots() + Functions.raise_interrupt), env, vector, is_software, error_code, length)
