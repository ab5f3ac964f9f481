"""Where a PV guest enters the hypervisor: SYSCALL from its programs and from its kernel.

From a program, SYSCALL goes to the kernel's registered entry. From the kernel it is a hypercall. The
hypercalls that happen often are answered here, natively; for the rest the engine comes back to Python.
Source: xen/arch/x86/x86_64/entry.S, xen/arch/x86/pv/hypercall.c and iret.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import (
    FLAT_RING3_CS32,
    FLAT_RING3_CS64,
    SEGBASE_FS,
    SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER,
    IretContext,
    VGCF_in_syscall,
    VGCF_syscall_disables_events,
)
from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL
from euxen.abi.event_channel import EVTCHNOP_send, EVTCHNOP_unmask
from euxen.abi.sched import SCHEDOP_block, SCHEDOP_yield
from euxen.abi.vcpu import (
    VCPUOP_set_periodic_timer,
    VCPUOP_set_singleshot_timer,
    VCPUOP_stop_periodic_timer,
    VCPUOP_stop_singleshot_timer,
)
from euxen.abi.version import XENVER_version
from euxen.abi.xen import (
    HYPERVISOR_event_channel_op,
    HYPERVISOR_fpu_taskswitch,
    HYPERVISOR_iret,
    HYPERVISOR_mmu_update,
    HYPERVISOR_mmuext_op,
    HYPERVISOR_multicall,
    HYPERVISOR_sched_op,
    HYPERVISOR_set_gdt,
    HYPERVISOR_set_segment_base,
    HYPERVISOR_set_timer_op,
    HYPERVISOR_stack_switch,
    HYPERVISOR_update_descriptor,
    HYPERVISOR_update_va_mapping,
    HYPERVISOR_vcpu_op,
    HYPERVISOR_xen_version,
    MulticallEntry,
    VcpuInfo,
)
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.descriptor import NO_DESCRIPTOR, code_fault, install, stack_fault
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call4, load8, load32, load64, native, store8, store64
from euxen.hypervisor.descriptors import do_set_gdt, do_update_descriptor
from euxen.hypervisor.event_channel import evtchn_of, set_pending, unmask, vcpu_of
from euxen.hypervisor.guest_access import LOAD, STORE, copy_from_guest, guest_host
from euxen.hypervisor.mm.mmu import DEFER, do_mmu_update, do_mmuext_op, do_update_va_mapping
from euxen.hypervisor.records import ECS_IPI, DomainRecord, EvtchnRecord, VcpuRecord
from euxen.hypervisor.time import (
    check_deadlines,
    do_set_timer_op,
    run_timers,
    set_deadline,
    set_periodic_timer,
    set_singleshot_timer,
)
from euxen.hypervisor.traps import (
    CR0_TS,
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
    set_task_switched,
    toggle_guest_mode,
)

EXIT_HYPERCALL = int(ExitReason.HYPERCALL)
EXIT_BLOCKED = int(ExitReason.BLOCKED)
XEN_MAJOR_MINOR = 4 << 16 | 17
BY_SYSENTER = 1
MULTICALL_ARGS = MulticallEntry.offsetof("args")


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
        store64(vcpu + VcpuRecord.hypercalls, load64(vcpu + VcpuRecord.hypercalls) + 1)
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
    if number == HYPERVISOR_iret:
        return do_iret(block, vcpu, env)
    if number == HYPERVISOR_multicall:
        result = _multicall(block, vcpu, load64(env + state.RDI), load64(env + state.RSI) & 0xFFFF_FFFF)
    else:
        result = dispatch(
            block,
            vcpu,
            number,
            load64(env + state.RDI),
            load64(env + state.RSI),
            load64(env + state.RDX),
            load64(env + state.R10),
        )
    if result == DEFER:
        return request_exit(block, EXIT_HYPERCALL, 0)
    store64(env + state.RAX, result)
    return 0


@native
def dispatch(block: int, vcpu: int, number: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """The hypercalls that are answered natively; DEFER for those that are not."""
    if number == HYPERVISOR_mmu_update:
        return do_mmu_update(block, a1, a2, a3, a4)
    if number == HYPERVISOR_update_va_mapping:
        return do_update_va_mapping(block, a1, a2, a3)
    if number == HYPERVISOR_mmuext_op:
        return do_mmuext_op(block, a1, a2, a3, a4)
    if number == HYPERVISOR_stack_switch:
        return _stack_switch(vcpu, a1, a2)
    if number == HYPERVISOR_set_segment_base:
        return _set_segment_base(block, a1, a2)
    if number == HYPERVISOR_fpu_taskswitch:
        return _fpu_taskswitch(block, vcpu, a1)
    if number == HYPERVISOR_update_descriptor:
        return do_update_descriptor(block, a1, a2)
    if number == HYPERVISOR_set_timer_op:
        return do_set_timer_op(block, a1)
    if number == HYPERVISOR_xen_version and a1 & 0xFFFF_FFFF == XENVER_version:
        return XEN_MAJOR_MINOR
    if number == HYPERVISOR_event_channel_op:
        return _event_channel_op(block, vcpu, a1 & 0xFFFF_FFFF, a2)
    if number == HYPERVISOR_sched_op:
        return _sched_op(block, vcpu, a1 & 0xFFFF_FFFF)
    if number == HYPERVISOR_vcpu_op:
        return _vcpu_op(block, vcpu, a1 & 0xFFFF_FFFF, a2 & 0xFFFF_FFFF, a3)
    if number == HYPERVISOR_set_gdt:
        return do_set_gdt(block, a1, a2)
    return DEFER


@native
def _multicall(block: int, vcpu: int, calls: int, count: int) -> int:
    """HYPERVISOR_multicall. One call that Python has to make sends the rest to Python as well."""
    entry = vcpu + VcpuRecord.scratch + 64
    args = entry + MULTICALL_ARGS
    for i in range(count):
        if copy_from_guest(block, entry, calls, MulticallEntry.size):
            return -XEN_EFAULT
        number = load64(entry)
        result = DEFER
        if number != HYPERVISOR_multicall and number != HYPERVISOR_iret:
            result = dispatch(block, vcpu, number, load64(args), load64(args + 8), load64(args + 16), load64(args + 24))
        if result == DEFER:
            env = load64(block + CpuBlock.env)
            store64(env + state.RDI, calls)
            store64(env + state.RSI, count - i)
            return DEFER
        host = guest_host(block, calls + MulticallEntry.result, STORE)
        if not host:
            return -XEN_EFAULT
        store64(host, result)
        calls += MulticallEntry.size
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
    if load64(frame + IretContext.flags) & VGCF_in_syscall:
        # As by SYSRET: flat segments, and RCX and R11 say where to and with which flags.
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
    if _load_iret_segments(block, env, cs | 3, ss | 3, cpl):
        failsafe(block)
    return 0


@native
def _stack_switch(vcpu: int, ss: int, pointer: int) -> int:
    """HYPERVISOR_stack_switch."""
    if ss & 3 != 3:
        ss |= 3
    store64(vcpu + VcpuRecord.kernel_ss, ss)
    store64(vcpu + VcpuRecord.kernel_sp, pointer)
    return 0


@native
def _canonical(address: int) -> int:
    top = address >> 47
    return 1 if top == 0 or top == -1 else 0


@native
def _set_segment_base(block: int, which: int, base: int) -> int:
    """HYPERVISOR_set_segment_base."""
    env = load64(block + CpuBlock.env)
    if which <= SEGBASE_GS_KERNEL and which >= 0:
        if not _canonical(base):
            return -XEN_EINVAL
        if which == SEGBASE_FS:
            store64(env + state.FS + state.BASE, base)
        elif which == SEGBASE_GS_USER:
            store64(env + state.KERNEL_GS_BASE, base)
        else:
            store64(env + state.GS + state.BASE, base)
        return 0
    return DEFER


@native
def _fpu_taskswitch(block: int, vcpu: int, on: int) -> int:
    """HYPERVISOR_fpu_taskswitch."""
    cr0 = load64(vcpu + VcpuRecord.ctrlreg)
    store64(vcpu + VcpuRecord.ctrlreg, (cr0 | CR0_TS) if on else (cr0 & ~CR0_TS))
    set_task_switched(load64(block + CpuBlock.env), on)
    return 0


@native
def _event_channel_op(block: int, vcpu: int, command: int, argument: int) -> int:
    """EVTCHNOP_send to oneself and EVTCHNOP_unmask; Python does the rest."""
    if command != EVTCHNOP_send and command != EVTCHNOP_unmask:
        return DEFER
    host = guest_host(block, argument, LOAD)
    if not host or argument & 0xFFF > 0xFFC:
        return DEFER
    port = load32(host)
    domain = load64(vcpu + VcpuRecord.domain)
    channel = evtchn_of(domain, port)
    if not channel:
        return -XEN_EINVAL if command == EVTCHNOP_send else DEFER
    target = vcpu_of(domain, load64(channel + EvtchnRecord.notify_vcpu))
    if command == EVTCHNOP_unmask:
        unmask(domain, target, port)
        return 0
    if load64(channel + EvtchnRecord.state) != ECS_IPI:
        return DEFER
    set_pending(domain, target, port)
    return 0


@native
def _sched_op(block: int, vcpu: int, command: int) -> int:
    """SCHEDOP_yield and SCHEDOP_block."""
    if command == SCHEDOP_yield:
        return 0
    if command == SCHEDOP_block:
        info = load64(vcpu + VcpuRecord.vcpu_info)
        store8(info + VcpuInfo.evtchn_upcall_mask, 0)
        run_timers(vcpu)
        if load8(info + VcpuInfo.evtchn_upcall_pending) == 0:
            request_exit(block, EXIT_BLOCKED, 0)
        return 0
    return DEFER


@native
def _vcpu_op(block: int, vcpu: int, command: int, vcpu_id: int, argument: int) -> int:
    """The timers of vcpu_op, for the caller's own vCPU."""
    if vcpu_id != load64(vcpu + VcpuRecord.vcpu_id):
        return DEFER
    if command == VCPUOP_set_singleshot_timer:
        return set_singleshot_timer(block, vcpu, argument)
    if command == VCPUOP_stop_singleshot_timer:
        return set_deadline(block, vcpu, 0)
    if command == VCPUOP_set_periodic_timer:
        return set_periodic_timer(block, vcpu, argument)
    if command == VCPUOP_stop_periodic_timer:
        store64(vcpu + VcpuRecord.periodic_period, 0)
        return 0
    return DEFER


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
