"""How the guest leaves translated code: system calls, exceptions and interrupts reach the hypervisor here.

Each function stands where the library expects one of its own. What it finds out it gives to a handler
in the block; the handler changes the registers, and the guest goes on from what they then say.
"""

from __future__ import annotations

from euxen.cpu import cpuid as cpuid_policy
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.exits import request_exit
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
    store8,
    store32,
    store64,
)
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm import instructions, interrupts
from euxen.cpu.unicorn.hvm.exceptions import block_of
from euxen.cpu.unicorn.hvm.mmio import NOT_MODELLED, TRIPLE_FAULT
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.softmmu import OF_PROGRAM
from euxen.cpu.unicorn.translate import serialize

VECTOR_DB, VECTOR_UD, VECTOR_GP = 1, 6, 13
INT1 = 0xF1
CR4_TSD = 1 << 2
SEP = 1 << 11
"""CPUID.1:EDX, the first of the feature words."""


@native
def raise_trap(env: int, vector: int, error_code: int, code: int) -> int:
    """Have the guest trap at the instruction that translated code was executing at ``code``. Does not return."""
    block = block_of(env)
    cpu = load64(block + CpuBlock.cpu)
    if code:
        call3(load64(slots() + Functions.cpu_restore_state), cpu, code, 1)
    call4(load64(block + CpuBlock.on_trap), block, vector, error_code, 0)
    store32(cpu + layout.CPU_EXCEPTION_INDEX, layout.NO_EXCEPTION)
    call1(load64(slots() + Functions.cpu_loop_exit), cpu)
    return 0


@native
def syscall(env: int, length: int) -> int:
    """``helper_syscall``: rip is at the instruction, which is ``length`` bytes long."""
    block = block_of(env)
    if load64(block + CpuBlock.hvm):
        return instructions.syscall(block, env, length & 0xFF)
    store64(env + state.RIP, load64(env + state.RIP) + (length & 0xFF))
    call2(load64(block + CpuBlock.on_syscall), block, 0)
    return 0


@native
def sysenter(env: int, return_address: int) -> int:
    """``helper_sysenter``: AMD's CPUs do not have it in long mode. Where it was is not known to a PV guest's entry."""
    block = block_of(env)
    if load64(block + CpuBlock.hvm):
        return instructions.sysenter(block, env, return_address)
    if not load64(env + layout.ENV_FEATURES) & SEP:
        raise_trap(env, VECTOR_UD, 0, return_address)
    call2(load64(block + CpuBlock.on_syscall), block, 1)
    return 0


@native
def rdtsc(env: int) -> int:
    """``helper_rdtsc``: #GP where CR4.TSD keeps the counter from all but ring 0."""
    block = block_of(env)
    if load64(env + state.CR4) & CR4_TSD and load32(env + state.HFLAGS) & state.HF_CPL:
        raise_trap(env, VECTOR_GP, 0, 0)
    ticks = call1(load64(block + CpuBlock.on_tsc), block)
    store64(env + state.RAX, ticks & 0xFFFF_FFFF)
    store64(env + state.RDX, shr(ticks, 32))
    return 0


@native
def rdtscp(env: int) -> int:
    """``helper_rdtscp``: also the number that the vCPU's TSC_AUX holds."""
    rdtsc(env)
    store64(env + state.RCX, load64(env + state.TSC_AUX) & 0xFFFF_FFFF)
    return 0


@native
def rdpmc(env: int) -> int:
    """``helper_rdpmc``: there are no counters, and CR4.PCE is never set."""
    return raise_trap(env, VECTOR_GP, 0, 0)


@native
def cpuid(env: int) -> int:
    """``helper_cpuid``."""
    cpuid_policy.lookup(block_of(env), env)
    return serialize(env)


@native
def exception(_uc: int, vector: int, block: int) -> int:
    """Unicorn's interrupt hook: every exception but #PF, and ``int n``."""
    env = load64(block + CpuBlock.env)
    # The library never delivers anything itself, so it would take the next fault for a double one.
    store32(env + layout.ENV_OLD_EXCEPTION, layout.NO_EXCEPTION)
    error_code = load32(env + layout.ENV_ERROR_CODE)
    software = load32(env + layout.ENV_EXCEPTION_IS_INT)
    call4(load64(block + CpuBlock.on_trap), block, vector & 0xFF, error_code, software)
    return 0


@native
def invalid_instruction(_uc: int, block: int) -> int:
    """Unicorn's hook for #UD; says that it was handled. The library does not know INT1, which raises #DB."""
    env = load64(block + CpuBlock.env)
    store32(env + layout.ENV_OLD_EXCEPTION, layout.NO_EXCEPTION)
    if _opcode(block, env) == INT1:
        store64(env + state.RIP, load64(env + state.RIP) + 1)
        call4(load64(block + CpuBlock.on_trap), block, VECTOR_DB, 0, 0)
    else:
        call4(load64(block + CpuBlock.on_trap), block, VECTOR_UD, 0, 0)
    return 1


@native
def _opcode(block: int, env: int) -> int:
    """The first byte of the instruction at RIP, or -1."""
    hflags = load32(env + state.HFLAGS)
    address = load64(env + state.RIP)
    if not hflags & state.HF_CS64:
        address = (address + load64(env + state.CS + state.BASE)) & 0xFFFF_FFFF
    space = OF_PROGRAM if hflags & state.HF_CPL == 3 else 0
    host = call3(load64(block + CpuBlock.translate), block, address, space)
    return load8(host) if host else -1


@native
def exec_interrupt(cpu: int, _request: int) -> int:
    """``CPUClass.cpu_exec_interrupt``: between two blocks of code, somebody kicked."""
    block = load64(cpu + layout.CPU_OPAQUE)
    store32(cpu + layout.CPU_INTERRUPT_REQUEST, 0)
    store64(block + CpuBlock.kicked, 0)
    if load64(block + CpuBlock.exit_reason) == 0:  # else it comes back anyway, and nobody may ask for anything else
        call1(load64(block + CpuBlock.on_interrupt), block)
    return 1


@native
def stop(block: int) -> int:
    """``CpuBlock.stop``."""
    store8(load64(block + CpuBlock.cpu) + layout.CPU_EXIT_REQUEST, 1)
    store32(load64(block + CpuBlock.env) + layout.ENV_ICOUNT_DECR, 0xFFFF_0000)
    return 0


@native
def kick(block: int) -> int:
    """Have ``on_interrupt`` called soon. From any thread."""
    cpu = load64(block + CpuBlock.cpu)
    store64(block + CpuBlock.kicked, 1)
    store32(cpu + layout.CPU_INTERRUPT_REQUEST, layout.CPU_INTERRUPT_HARD)
    store32(load64(block + CpuBlock.env) + layout.ENV_ICOUNT_DECR, 0xFFFF_0000)
    return 0


@native
def run(block: int) -> int:
    """Execute the guest until a handler asks for an exit; returns the reason. The caller has cleared the last one."""
    cpu = load64(block + CpuBlock.cpu)
    uc = load64(block + CpuBlock.uc)
    store32(cpu + layout.CPU_HALTED, 0)
    store32(cpu + layout.CPU_EXCEPTION_INDEX, layout.NO_EXCEPTION)
    store8(cpu + layout.CPU_EXIT_REQUEST, 0)
    store32(uc + layout.UC_NESTED_LEVEL, 1)
    store8(uc + layout.UC_QUIT_REQUEST, 0)
    store32(uc + layout.UC_SIZE_RECUR_MEM, 0)
    env = load64(block + CpuBlock.env)
    store64(block + CpuBlock.delivering, 0)
    store32(env + layout.ENV_OLD_EXCEPTION, layout.NO_EXCEPTION)
    if load64(block + CpuBlock.hvm):
        interrupts.ask(block)
    while load64(block + CpuBlock.exit_reason) == 0:
        # On its way in the library takes all flags from EFLAGS, and on its way out it puts them there.
        store64(env + state.EFLAGS, state.rflags(block))
        result = call2(load64(slots() + Functions.cpu_exec), uc, cpu) & 0xFFFF_FFFF
        if result == layout.EXCP_ATOMIC:
            store32(cpu + layout.CPU_CFLAGS_NEXT_TB, layout.CF_ALONE)
        elif result == layout.EXCP_HLT and load64(block + CpuBlock.hvm):
            request_exit(block, TRIPLE_FAULT, NOT_MODELLED)
        state.set_rflags(block, load64(env + state.EFLAGS))
    store32(uc + layout.UC_NESTED_LEVEL, 0)
    return load64(block + CpuBlock.exit_reason)
