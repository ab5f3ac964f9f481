"""The hypercalls that happen often, answered without Python: the rest is in ``table``.

Source: do_stack_switch, do_set_segment_base, do_fpu_taskswitch and do_multicall in xen/arch/x86 and
xen/common; do_event_channel_op, do_sched_op and do_vcpu_op for the commands that are here.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import (
    SEGBASE_FS,
    SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER,
)
from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL, XEN_ENOENT
from euxen.abi.event_channel import EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_unmask
from euxen.abi.grant_table import GNTTABOP_unmap_and_replace
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
    HYPERVISOR_grant_table_op,
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
)
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import load64, native, store64, ult
from euxen.hypervisor.continuation import DEFER, PREEMPTED, create_continuation
from euxen.hypervisor.descriptors import do_set_gdt, do_update_descriptor
from euxen.hypervisor.event_channel import evtchn_close, evtchn_send, evtchn_unmask
from euxen.hypervisor.grants.operations import do_grant_table_op
from euxen.hypervisor.guest_access import copy_from_guest, copy_to_guest, get_guest, handle_okay, put_guest
from euxen.hypervisor.mm.mmu import do_mmu_update, do_update_va_mapping
from euxen.hypervisor.mm.mmuext import do_mmuext_op
from euxen.hypervisor.records import DomainRecord, VcpuRecord
from euxen.hypervisor.sched import block_enable_events
from euxen.hypervisor.time import (
    do_set_timer_op,
    run_timers,
    set_deadline,
    set_periodic_timer,
    set_singleshot_timer,
)
from euxen.hypervisor.traps import (
    CR0_TS,
    set_task_switched,
)

EXIT_BLOCKED = int(ExitReason.BLOCKED)
XEN_MAJOR_MINOR = 4 << 16 | 17
IRET = 1 << 42
"""What a multicall returns that ends with an iret."""
MULTICALL_ARGS = MulticallEntry.offsetof("args")


@native
def dispatch(block: int, vcpu: int, number: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """The hypercalls that are answered natively; DEFER for those that are not."""
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
    if load64(block + CpuBlock.hvm):
        return _hvm_grant_table_op(block, vcpu, a1, a2, a3, a4) if number == HYPERVISOR_grant_table_op else DEFER
    return _pv_dispatch(block, vcpu, number, a1, a2, a3, a4)


@native
def _hvm_grant_table_op(block: int, vcpu: int, command: int, operations: int, count: int, fourth: int) -> int:
    """What an HVM guest may do with grants (hvm_grant_table_op). What it may not, Python refuses."""
    if command & 0xFFFF_FFFF == GNTTABOP_unmap_and_replace:
        return DEFER
    return do_grant_table_op(block, vcpu, command, operations, count, fourth)


@native
def _pv_dispatch(block: int, vcpu: int, number: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """Those of PV guests alone, and grants."""
    if number == HYPERVISOR_mmu_update:
        return do_mmu_update(block, a1, a2, a3, a4)
    if number == HYPERVISOR_update_va_mapping:
        return do_update_va_mapping(block, a1, a2, a3)
    if number == HYPERVISOR_mmuext_op:
        return do_mmuext_op(block, a1, a2, a3, a4)
    if number == HYPERVISOR_stack_switch:
        return _stack_switch(vcpu, a1, a2)
    if number == HYPERVISOR_set_segment_base:
        return _set_segment_base(block, a1 & 0xFFFF_FFFF, a2)
    if number == HYPERVISOR_fpu_taskswitch:
        return _fpu_taskswitch(block, vcpu, a1 & 0xFFFF_FFFF)
    if number == HYPERVISOR_update_descriptor:
        return do_update_descriptor(block, a1, a2)
    if number == HYPERVISOR_grant_table_op:
        return do_grant_table_op(block, vcpu, a1, a2, a3, a4)
    if number == HYPERVISOR_set_gdt:
        return do_set_gdt(block, a1, a2)
    return DEFER


@native
def multicall(block: int, vcpu: int, calls: int, count: int) -> int:
    """HYPERVISOR_multicall. Before a call that Python has to make, and when time is up, it is preempted."""
    if not handle_okay(block, calls):
        return -XEN_EFAULT
    entry = vcpu + VcpuRecord.scratch + 64
    args = entry + MULTICALL_ARGS
    for i in range(count):
        store64(vcpu + VcpuRecord.continuation, calls)
        store64(vcpu + VcpuRecord.continuation + 8, count - i)
        # A call may have been the vCPU's last for a while.
        if i and (load64(block + CpuBlock.kicked) or load64(block + CpuBlock.exit_reason)):
            return PREEMPTED
        if copy_from_guest(block, entry, calls, MulticallEntry.size):
            return -XEN_EFAULT
        number = load64(entry)
        if number == HYPERVISOR_iret and not load64(block + CpuBlock.hvm):
            return IRET
        result = -XEN_EINVAL
        if number != HYPERVISOR_multicall:
            result = dispatch(block, vcpu, number, load64(args), load64(args + 8), load64(args + 16), load64(args + 24))
        if result == DEFER:
            return DEFER
        if result == PREEMPTED:
            return _preempt_call(block, vcpu, calls, count - i)
        if put_guest(block, calls + MulticallEntry.result, result, 8):
            return -XEN_EFAULT
        calls += MulticallEntry.size
    return 0


@native
def _preempt_call(block: int, vcpu: int, calls: int, count: int) -> int:
    """A call of a multicall was preempted: its entry gets the arguments with which it goes on."""
    if copy_to_guest(block, calls + MULTICALL_ARGS, vcpu + VcpuRecord.continuation, 4 * 8):
        return -XEN_EFAULT
    return create_continuation(vcpu, calls, count, 0, 0)


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
    """EVTCHNOP_send, EVTCHNOP_unmask and EVTCHNOP_close, which all take a port; Python does the rest."""
    if command != EVTCHNOP_send and command != EVTCHNOP_unmask and command != EVTCHNOP_close:
        return DEFER
    if get_guest(block, argument, 4):
        return -XEN_EFAULT
    port = load64(vcpu + VcpuRecord.word)
    domain = load64(vcpu + VcpuRecord.domain)
    if command == EVTCHNOP_send:
        return evtchn_send(domain, port)
    if command == EVTCHNOP_unmask:
        return evtchn_unmask(domain, port)
    return evtchn_close(domain, port, 1)


@native
def _sched_op(block: int, vcpu: int, command: int) -> int:
    """SCHEDOP_yield and SCHEDOP_block."""
    if command == SCHEDOP_yield:
        return 0
    if command == SCHEDOP_block:
        run_timers(vcpu)
        if block_enable_events(vcpu):
            request_exit(block, EXIT_BLOCKED, 0)
        return 0
    return DEFER


@native
def _vcpu_op(block: int, vcpu: int, command: int, vcpu_id: int, argument: int) -> int:
    """The timers of vcpu_op, for the caller's own vCPU."""
    if not ult(vcpu_id, load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.max_vcpus)):
        return -XEN_ENOENT
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
