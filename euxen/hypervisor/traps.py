"""How things reach a PV guest's kernel: exceptions, events, system calls of its programs.

All of them build the same frame on the kernel's stack and go on at an address that the kernel has
registered. Source: create_bounce_frame in xen/arch/x86/x86_64/entry.S, xen/arch/x86/pv/traps.c,
xen/arch/x86/traps.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import (
    FLAT_RING3_CS64,
    FLAT_RING3_SS64,
    VGCF_failsafe_disables_events,
)
from euxen.abi.xen import VcpuInfo, VMASST_TYPE_architectural_iopl
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call1, load8, load32, load64, native, signed, store8, store64, ult
from euxen.hypervisor.emul_fast import privileged_op
from euxen.hypervisor.guest_access import copy_to_guest, guest_byte
from euxen.hypervisor.records import TRAP_ENTRY_SIZE, DomainRecord, TF_kernel_mode, TrapEntry, VcpuRecord

TBF_EXCEPTION_ERRCODE = 2
TBF_INTERRUPT = 8
TBF_FAILSAFE = 16

TRAP_debug, TRAP_int3, TRAP_invalid_op, TRAP_no_device, TRAP_gp_fault, TRAP_page_fault = 1, 3, 6, 7, 13, 14
TRAP_HAVE_EC = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17
X86_XEC_IDT = 2
PFEC_user_mode = 4
CR0_TS = 8

HYPERVISOR_VIRT_START = signed(0xFFFF_8000_0000_0000)
HYPERVISOR_VIRT_END = signed(0xFFFF_8800_0000_0000)

# Why a domain is crashed: CpuBlock.exit_info.
CRASH_NO_HANDLER = 1
CRASH_BAD_STACK = 2
CRASH_BAD_IRET = 3
CRASH_NO_USER_TABLE = 4
CRASH_BAD_CALLBACK = 5
CRASH_GRANTER_GONE = 6
CRASH_P2M = 7

DETAIL_EXCEPTION = 1 << 40
"""In CpuBlock.exit_detail with CRASH_NO_HANDLER: it was an exception, whose vector and error code are below."""

EXIT_CRASH = int(ExitReason.CRASH)
EXIT_EMULATE = int(ExitReason.EMULATE)

FLAT = state.DESC_G | state.DESC_P | state.DESC_S | (3 << state.DESC_DPL_SHIFT) | state.DESC_ACCESSED
FLAT_CODE64 = FLAT | state.DESC_CODE | state.DESC_READABLE | state.DESC_L
FLAT_CODE32 = FLAT | state.DESC_CODE | state.DESC_READABLE | state.DESC_B
FLAT_DATA = FLAT | state.DESC_WRITABLE | state.DESC_B
NO_LIMIT = 0xFFFF_FFFF

GUEST_KERNEL_CPL, GUEST_USER_CPL = 1, 3
CR2 = VcpuInfo.offsetof("arch.cr2")
IOPL_ASSIST = 1 << VMASST_TYPE_architectural_iopl


@native
def current(block: int) -> int:
    """The vCPU that runs."""
    return load64(block + CpuBlock.vcpu)


@native
def toggle_guest_mode(vcpu: int, env: int) -> int:
    """Change between the guest's kernel and its programs: page tables and GS base (toggle_guest_mode).

    Each mode has a root and a TLB of its own, so the change is that of the CPL, which the caller makes
    by loading segments.
    """
    store64(vcpu + VcpuRecord.flags, load64(vcpu + VcpuRecord.flags) ^ TF_kernel_mode)
    base = load64(env + state.GS + state.BASE)
    store64(env + state.GS + state.BASE, load64(env + state.KERNEL_GS_BASE))
    store64(env + state.KERNEL_GS_BASE, base)
    return 0


@native
def load_flat_kernel(env: int) -> int:
    """FLAT_KERNEL_CS and FLAT_KERNEL_SS."""
    state.set_segment(env, state.CS, FLAT_RING3_CS64, 0, NO_LIMIT, FLAT_CODE64)
    state.set_segment(env, state.SS, FLAT_RING3_SS64, 0, NO_LIMIT, FLAT_DATA)
    state.update_hflags(env, GUEST_KERNEL_CPL)
    return 0


@native
def crash(block: int, reason: int) -> int:
    """Have the domain crashed."""
    return request_exit(block, EXIT_CRASH, reason)


@native
def create_bounce_frame(block: int, entry: int, flags: int, error_code: int) -> int:
    """Push { RCX, R11, [DS-GS,] [error code,] RIP, CS, RFLAGS, RSP, SS } and go on in the kernel at ``entry``.

    ``flags`` are TBF_*. A stack that can't be written, or no entry, crashes the domain.
    """
    env = load64(block + CpuBlock.env)
    vcpu = current(block)
    selector = load32(env + state.CS)
    if load64(vcpu + VcpuRecord.flags) & TF_kernel_mode:
        stack = load64(env + state.RSP)
        selector &= 0xFFFC  # tells the guest that its kernel was interrupted
    else:
        toggle_guest_mode(vcpu, env)
        stack = load64(vcpu + VcpuRecord.kernel_sp)
    stack &= ~0xF
    if not ult(stack, HYPERVISOR_VIRT_START) and ult(stack, HYPERVISOR_VIRT_END + 60):
        return crash(block, CRASH_BAD_STACK)
    info = load64(vcpu + VcpuRecord.vcpu_info)
    mask = load8(info + VcpuInfo.evtchn_upcall_mask)
    rflags = state.rflags(block)
    pushed = rflags & ~(state.IF | state.IOPL)
    if not mask:
        pushed |= state.IF
    if load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.vm_assist) & IOPL_ASSIST:
        pushed |= load64(vcpu + VcpuRecord.iopl)
    frame = vcpu + VcpuRecord.scratch
    store64(frame, load64(env + state.RCX))
    store64(frame + 8, load64(env + state.R11))
    at = frame + 16
    if flags & TBF_FAILSAFE:
        store64(at, load32(env + state.DS))
        store64(at + 8, load32(env + state.ES))
        store64(at + 16, load32(env + state.FS))
        store64(at + 24, load32(env + state.GS))
        at += 32
    if flags & TBF_EXCEPTION_ERRCODE:
        store64(at, error_code)
        at += 8
    store64(at, load64(env + state.RIP))
    store64(at + 8, (selector & 0xFFFF) | (mask << 32))
    store64(at + 16, pushed)
    store64(at + 24, load64(env + state.RSP))
    store64(at + 32, load32(env + state.SS))
    size = at + 40 - frame
    if copy_to_guest(block, stack - size, frame, size):
        return crash(block, CRASH_BAD_STACK)
    if flags & TBF_INTERRUPT:
        store8(info + VcpuInfo.evtchn_upcall_mask, 1)
    if not entry:
        return crash(block, CRASH_NO_HANDLER)
    rflags &= ~(state.AC | state.VM | state.RF | state.NT | state.TF)
    state.set_rflags(block, rflags)
    load_flat_kernel(env)
    store64(env + state.RSP, stack - size)
    store64(env + state.RIP, entry)
    # The guest is entered as by SYSRET.
    store64(env + state.RCX, entry)
    store64(env + state.R11, rflags)
    return 0


@native
def inject(block: int, vector: int, error_code: int, software: int) -> int:
    """Give the kernel an exception, by its own trap table (pv_inject_event)."""
    vcpu = current(block)
    trap = vcpu + VcpuRecord.traps + vector * TRAP_ENTRY_SIZE
    flags = TBF_INTERRUPT if load64(trap + TrapEntry.flags) & 4 else 0
    if vector < 32 and not software and (TRAP_HAVE_EC >> vector) & 1:
        flags |= TBF_EXCEPTION_ERRCODE
    address = load64(trap + TrapEntry.address)
    if not address:
        store64(block + CpuBlock.exit_detail, DETAIL_EXCEPTION | vector | error_code << 8)
    return create_bounce_frame(block, address, flags, error_code & 0xFFFF_FFFF)


@native
def is_user(vcpu: int) -> int:
    """Whether one of the guest's programs runs, not its kernel."""
    return 0 if load64(vcpu + VcpuRecord.flags) & TF_kernel_mode else 1


@native
def page_fault(block: int, address: int, error_code: int) -> int:
    """``CpuBlock.on_page_fault``."""
    vcpu = current(block)
    env = load64(block + CpuBlock.env)
    error_code &= ~PFEC_user_mode
    if is_user(vcpu):
        error_code |= PFEC_user_mode
    store64(vcpu + VcpuRecord.ctrlreg + 2 * 8, address)
    store64(env + state.CR2, address)
    store64(load64(vcpu + VcpuRecord.vcpu_info) + CR2, address)
    inject(block, TRAP_page_fault, error_code, 0)
    return finish(block)


@native
def finish(block: int) -> int:
    """Before the guest goes on: forget translations that must not be used, deliver what is pending."""
    if load64(block + CpuBlock.code_pending):
        call1(load64(block + CpuBlock.forget_written_code), block)
    if load64(block + CpuBlock.flush_pending):
        call1(load64(block + CpuBlock.flush_tlb), block)
    return deliver_events(block)


@native
def deliver_events(block: int) -> int:
    """Make the upcalls that are due (test_all_events in entry.S)."""
    if load64(block + CpuBlock.exit_reason):
        return 0
    vcpu = current(block)
    if load64(vcpu + VcpuRecord.nmi_pending) and not load64(vcpu + VcpuRecord.async_exception_mask) & 1:
        trap = vcpu + VcpuRecord.traps + 2 * TRAP_ENTRY_SIZE
        address = load64(trap + TrapEntry.address)
        store64(vcpu + VcpuRecord.nmi_pending, 0)
        if address:
            store64(vcpu + VcpuRecord.nmi_old_mask, load64(vcpu + VcpuRecord.async_exception_mask))
            store64(vcpu + VcpuRecord.async_exception_mask, load64(vcpu + VcpuRecord.async_exception_mask) | 1)
            create_bounce_frame(block, address, TBF_INTERRUPT if load64(trap + TrapEntry.flags) & 4 else 0, 0)
    info = load64(vcpu + VcpuRecord.vcpu_info)
    if load8(info + VcpuInfo.evtchn_upcall_mask) == 0 and load8(info + VcpuInfo.evtchn_upcall_pending):
        create_bounce_frame(block, load64(vcpu + VcpuRecord.event_callback), TBF_INTERRUPT, 0)
    return 0


@native
def failsafe(block: int) -> int:
    """The guest could not be entered as it asked: call its failsafe callback."""
    vcpu = current(block)
    flags = TBF_FAILSAFE
    if load64(vcpu + VcpuRecord.vgc_flags) & VGCF_failsafe_disables_events:
        flags |= TBF_INTERRUPT
    return create_bounce_frame(block, load64(vcpu + VcpuRecord.failsafe_callback), flags, 0)


@native
def _forced_emulation(block: int, rip: int) -> int:
    """Whether the guest asks Xen to emulate: UD2 followed by "xen"."""
    prefix = 0
    for i in range(5):
        prefix |= guest_byte(block, rip + i) << (i * 8)
    return 1 if prefix == 0x6E_65_78_0B_0F else 0


@native
def _software_interrupt(block: int, vector: int) -> int:
    """``int n``, ``int3`` and ``into``: the trap table's DPL decides."""
    vcpu = current(block)
    env = load64(block + CpuBlock.env)
    if vector == TRAP_int3 or vector == 4:
        return inject(block, vector, 0, 1)
    trap = vcpu + VcpuRecord.traps + vector * TRAP_ENTRY_SIZE
    needed = 3
    if not is_user(vcpu):
        assist = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.vm_assist) & IOPL_ASSIST
        needed = 0 if assist else 1
    allowed = vector == 0x80 and load64(trap + TrapEntry.address) != 0
    if allowed or load64(trap + TrapEntry.flags) & 3 >= needed:
        return inject(block, vector, 0, 1)
    store64(env + state.RIP, load64(env + state.RIP) - 2)
    return inject(block, TRAP_gp_fault, (vector << 3) | X86_XEC_IDT, 0)


@native
def trap(block: int, vector: int, error_code: int, software: int) -> int:
    """``CpuBlock.on_trap``."""
    vcpu = current(block)
    env = load64(block + CpuBlock.env)
    if software:
        _software_interrupt(block, vector)
        return finish(block)
    if vector == TRAP_gp_fault and error_code == 0:
        # A privileged instruction, perhaps: if it is no frequent one, Python decodes it.
        if privileged_op(block):
            return finish(block)
        return request_exit(block, EXIT_EMULATE, vector)
    if vector == TRAP_invalid_op and _forced_emulation(block, load64(env + state.RIP)):
        return request_exit(block, EXIT_EMULATE, vector)
    if vector == TRAP_no_device:
        cr0 = load64(vcpu + VcpuRecord.ctrlreg)
        set_task_switched(env, 0)
        if not cr0 & CR0_TS:
            return 0
        store64(vcpu + VcpuRecord.ctrlreg, cr0 & ~CR0_TS)
    inject(block, vector, error_code, 0)
    return finish(block)


@native
def set_task_switched(env: int, on: int) -> int:
    """CR0.TS: whether the next floating-point instruction traps."""
    cr0 = load64(env + state.CR0)
    hflags = load32(env + state.HFLAGS)
    store64(env + state.CR0, (cr0 | CR0_TS) if on else (cr0 & ~CR0_TS))
    state.set_hflags(env, (hflags | state.HF_TS) if on else (hflags & ~state.HF_TS))
    return 0
