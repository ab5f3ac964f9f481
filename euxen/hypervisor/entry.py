"""Where a PV guest enters the hypervisor: SYSCALL from its programs and from its kernel.

From a program, SYSCALL goes to the kernel's registered entry. From the kernel it is a hypercall: what
``hypercalls.native`` does not answer, Python does.
Source: xen/arch/x86/x86_64/entry.S, xen/arch/x86/pv/hypercall.c and iret.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import (
    FLAT_RING3_CS32,
    FLAT_RING3_CS64,
    IretContext,
    VGCF_in_syscall,
    VGCF_syscall_disables_events,
)
from euxen.abi.xen import (
    HYPERVISOR_iret,
    HYPERVISOR_multicall,
    VcpuInfo,
)
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.descriptor import NO_DESCRIPTOR, code_fault, install, stack_fault
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call4, load32, load64, native, shr, store8, store32, store64
from euxen.hypervisor.guest_access import copy_from_guest
from euxen.hypervisor.hypercalls.native import IRET, dispatch, multicall
from euxen.hypervisor.mm.mmu import DEFER, PREEMPTED
from euxen.hypervisor.records import DomainRecord, VcpuRecord
from euxen.hypervisor.time import (
    check_deadlines,
)
from euxen.hypervisor.traps import (
    CRASH_BAD_IRET,
    CRASH_NO_USER_TABLE,
    FLAT_CODE32,
    FLAT_CODE64,
    FLAT_DATA,
    GUEST_KERNEL_CPL,
    GUEST_USER_CPL,
    IOPL_ASSIST,
    NO_LIMIT,
    TBF_INTERRUPT,
    TRAP_gp_fault,
    TRAP_invalid_op,
    crash,
    create_bounce_frame,
    failsafe,
    finish,
    inject,
    is_user,
    toggle_guest_mode,
)

EXIT_HYPERCALL = int(ExitReason.HYPERCALL)
BY_SYSENTER = 1
SYSCALL_LENGTH = 2


@native
def syscall(block: int, how: int) -> int:
    """``CpuBlock.on_syscall``."""
    vcpu = load64(block + CpuBlock.vcpu)
    env = load64(block + CpuBlock.env)
    if how == BY_SYSENTER:
        _sysenter(block, vcpu, env)
        return finish(block)
    flags = state.rflags(block)
    store64(env + state.RCX, load64(env + state.RIP))
    store64(env + state.R11, flags)
    if is_user(vcpu):
        _from_program(block, vcpu, env)
    else:
        _hypercall(block, vcpu, env)
    return finish(block)


@native
def _from_program(block: int, vcpu: int, env: int) -> int:
    """A system call of the guest's (switch_to_kernel)."""
    long_mode = load32(env + state.HFLAGS) & state.HF_CS64
    entry = load64(vcpu + VcpuRecord.syscall_callback)
    masks_events = load64(vcpu + VcpuRecord.vgc_flags) & VGCF_syscall_disables_events
    if not long_mode:
        entry = load64(vcpu + VcpuRecord.syscall32_callback)
        masks_events = load64(vcpu + VcpuRecord.syscall32_disables_events)
    if not entry:
        store64(env + state.RIP, load64(env + state.RIP) - 2)
        return inject(block, TRAP_invalid_op, 0, 0)
    state.set_segment(
        env,
        state.CS,
        FLAT_RING3_CS64 if long_mode else FLAT_RING3_CS32,
        0,
        NO_LIMIT,
        FLAT_CODE64 if long_mode else FLAT_CODE32,
    )
    state.set_segment(env, state.SS, 0xE02B, 0, NO_LIMIT, FLAT_DATA)
    create_bounce_frame(block, entry, TBF_INTERRUPT if masks_events else 0, 0)
    state.set_rflags(block, state.rflags(block) & ~state.DIRECTION)
    store64(env + state.R11, state.rflags(block))
    return 0


@native
def _sysenter(block: int, vcpu: int, env: int) -> int:
    """SYSENTER: from a 32-bit program."""
    entry = load64(vcpu + VcpuRecord.sysenter_callback)
    if not entry or not is_user(vcpu):
        store64(env + state.RIP, load64(env + state.RIP) - 2)
        return inject(block, TRAP_gp_fault, 0, 0)
    # The CPU keeps neither where it came from nor the stack: the guest knows both.
    store64(env + state.RIP, 0)
    store64(env + state.RSP, 0)
    state.set_segment(env, state.CS, 3, 0, NO_LIMIT, FLAT_CODE32)
    state.set_segment(env, state.SS, 0xE02B, 0, NO_LIMIT, FLAT_DATA)
    masks_events = load64(vcpu + VcpuRecord.sysenter_disables_events)
    return create_bounce_frame(block, entry, TBF_INTERRUPT if masks_events else 0, 0)


@native
def _hypercall(block: int, vcpu: int, env: int) -> int:
    """A hypercall: number in RAX, arguments in RDI, RSI, RDX, R10, R8."""
    number = load64(env + state.RAX)
    result = IRET
    if number == HYPERVISOR_multicall:
        result = multicall(block, vcpu, load64(env + state.RDI), load64(env + state.RSI) & 0xFFFF_FFFF)
    elif number != HYPERVISOR_iret:
        result = dispatch(
            block,
            vcpu,
            number,
            load64(env + state.RDI),
            load64(env + state.RSI),
            load64(env + state.RDX),
            load64(env + state.R10),
        )
    if result == IRET:
        return do_iret(block, vcpu, env)
    if result == DEFER:
        return request_exit(block, EXIT_HYPERCALL, 0)
    if result == PREEMPTED:
        return _continue(vcpu, env, 2 if number == HYPERVISOR_multicall else 4)
    store64(env + state.RAX, result)
    return 0


@native
def _continue(vcpu: int, env: int, arguments: int) -> int:
    """Have the guest make a preempted hypercall again, for the rest (hypercall_create_continuation)."""
    continuation = vcpu + VcpuRecord.continuation
    store64(env + state.RDI, load64(continuation))
    store64(env + state.RSI, load64(continuation + 8))
    if arguments > 2:
        store64(env + state.RDX, load64(continuation + 16))
        store64(env + state.R10, load64(continuation + 24))
    store64(env + state.RIP, load64(env + state.RIP) - SYSCALL_LENGTH)
    return 0


@native
def _load_iret_segments(block: int, env: int, cs: int, ss: int, cpl: int) -> int:
    """Load CS and SS for iret; the vector with which that fails, or 0."""
    if cs == FLAT_RING3_CS64:
        state.set_segment(env, state.CS, cs, 0, NO_LIMIT, FLAT_CODE64)
    else:
        descriptor = call4(load64(block + CpuBlock.on_descriptor), block, cs, 1, 0)
        fault = code_fault(cs, descriptor)
        if fault:
            return fault
        install(env, state.CS, cs, descriptor)
    if ss == 0xE02B:
        state.set_segment(env, state.SS, ss, 0, NO_LIMIT, FLAT_DATA)
    else:
        descriptor = call4(load64(block + CpuBlock.on_descriptor), block, ss, 1, 0)
        fault = stack_fault(ss, descriptor) if descriptor != NO_DESCRIPTOR else TRAP_gp_fault
        if fault:
            return fault
        install(env, state.SS, ss, descriptor)
    state.update_hflags(env, cpl)
    return 0


@native
def do_iret(block: int, vcpu: int, env: int) -> int:
    """HYPERVISOR_iret: go on where the iret_context on the kernel's stack says."""
    frame = vcpu + VcpuRecord.scratch
    if copy_from_guest(block, frame, load64(env + state.RSP), IretContext.size):
        return crash(block, CRASH_BAD_IRET)
    cs = load64(frame + IretContext.cs) & 0xFFFF
    cpl = GUEST_KERNEL_CPL
    if cs & 3 == 3:
        if not load64(vcpu + VcpuRecord.guest_table_user):
            return crash(block, CRASH_NO_USER_TABLE)
        toggle_guest_mode(vcpu, env)
        cpl = GUEST_USER_CPL
    flags = load64(frame + IretContext.rflags)
    if load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.vm_assist) & IOPL_ASSIST:
        store64(vcpu + VcpuRecord.iopl, flags & state.IOPL)
    store64(env + state.RAX, load64(frame + IretContext.rax))
    store64(env + state.RIP, load64(frame + IretContext.rip))
    store64(env + state.RSP, load64(frame + IretContext.rsp))
    new_flags = (flags & ~(state.IOPL | state.VM)) | state.IF
    state.set_rflags(block, new_flags)
    info = load64(vcpu + VcpuRecord.vcpu_info)
    store8(info + VcpuInfo.evtchn_upcall_mask, 0 if flags & state.IF else 1)
    store64(vcpu + VcpuRecord.async_exception_mask, 0)
    ss = load64(frame + IretContext.ss) & 0xFFFF
    canonical = shr(load64(frame + IretContext.rip) + (1 << 47), 48) == 0
    if load64(frame + IretContext.flags) & VGCF_in_syscall and canonical:
        # As by SYSRET: flat segments, and RCX and R11 say where to and with which flags.
        new_flags &= ~state.NT
        state.set_rflags(block, new_flags & ~state.RF)
        store64(env + state.RCX, load64(frame + IretContext.rip))
        store64(env + state.R11, new_flags)
        compatible = cs | 3 == FLAT_RING3_CS32
        selector = FLAT_RING3_CS32 if compatible else FLAT_RING3_CS64
        state.set_segment(env, state.CS, selector, 0, NO_LIMIT, FLAT_CODE32 if compatible else FLAT_CODE64)
        state.set_segment(env, state.SS, 0xE02B, 0, NO_LIMIT, FLAT_DATA)
        state.update_hflags(env, cpl)
        return 0
    store64(env + state.R11, load64(frame + IretContext.r11))
    store64(env + state.RCX, load64(frame + IretContext.rcx))
    if _load_iret_segments(block, env, cs | 3, ss | 3, cpl) or not canonical:
        # The frame that the callback gets says with what the guest wanted to go on.
        store32(env + state.CS + state.SELECTOR, cs | 3)
        store32(env + state.SS + state.SELECTOR, ss | 3)
        failsafe(block)
    return 0


@native
def interrupted(block: int) -> int:
    """``CpuBlock.on_interrupt``: somebody kicked. Timers may be due, or events pending."""
    check_deadlines(block)
    return finish(block)


@native
def prepare(block: int) -> int:
    """Before the engine runs: timers and events that came while it did not. Clears the last exit."""
    store64(block + CpuBlock.exit_reason, 0)
    check_deadlines(block)
    finish(block)
    return load64(block + CpuBlock.exit_reason)
