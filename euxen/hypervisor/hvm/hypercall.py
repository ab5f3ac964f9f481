"""VMCALL and VMMCALL: where an HVM guest makes a hypercall. Source: hvm_hypercall in xen/arch/x86/hvm/hypercall.c.

From 64-bit code the number is in RAX and arguments are in RDI, RSI, RDX, R10, R8; from other code they are in EBX, ECX,
EDX, ESI, EDI, and structures have the layout of 32-bit guests. What has the same layout in both is answered natively
for both; the rest of a 32-bit guest's calls Python translates.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EPERM
from euxen.abi.event_channel import EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_unmask
from euxen.abi.grant_table import GNTTABOP_copy
from euxen.abi.sched import SCHEDOP_block, SCHEDOP_yield
from euxen.abi.vcpu import VCPUOP_stop_singleshot_timer
from euxen.abi.xen import (
    HYPERVISOR_event_channel_op,
    HYPERVISOR_grant_table_op,
    HYPERVISOR_multicall,
    HYPERVISOR_sched_op,
    HYPERVISOR_set_timer_op,
    HYPERVISOR_vcpu_op,
    HYPERVISOR_xen_version,
)
from euxen.cpu import state
from euxen.cpu.block import Answer, CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import load32, load64, native, store64
from euxen.hypervisor.continuation import DEFER, PREEMPTED
from euxen.hypervisor.hvm.checks import CR0_PE
from euxen.hypervisor.hvm.irq import settle
from euxen.hypervisor.hypercalls.native import dispatch, multicall
from euxen.hypervisor.records import VcpuRecord

DONE, EXIT = int(Answer.DONE), int(Answer.EXIT)
EXIT_HYPERCALL = int(ExitReason.HYPERCALL)
EXIT_AGAIN = int(ExitReason.ATTENTION)
LOW = 0xFFFF_FFFF


@native
def _finish(block: int, env: int, result: int) -> int:
    store64(env + state.RAX, result)
    settle(block)
    # The hypercall may have been the vCPU's last for a while; the engine sees that when it has moved on.
    return DONE


@native
def _defer(block: int) -> int:
    request_exit(block, EXIT_HYPERCALL, 0)
    return EXIT


@native
def _is_native_32(number: int, command: int) -> int:
    """Whether a 32-bit guest's call has the layout that a 64-bit guest's has, and is answered natively."""
    if number == HYPERVISOR_event_channel_op:
        return 1 if command == EVTCHNOP_send or command == EVTCHNOP_unmask or command == EVTCHNOP_close else 0
    if number == HYPERVISOR_sched_op:
        return 1 if command == SCHEDOP_yield or command == SCHEDOP_block else 0
    if number == HYPERVISOR_vcpu_op:
        return 1 if command == VCPUOP_stop_singleshot_timer else 0
    if number == HYPERVISOR_grant_table_op:
        return 1 if command < GNTTABOP_copy else 0
    return 1 if number == HYPERVISOR_xen_version else 0


@native
def native_32(block: int, vcpu: int, number: int, a1: int, a2: int, a3: int, a4: int) -> int:
    """A 32-bit guest's hypercall, if it is answered natively; DEFER if it is not."""
    if number == HYPERVISOR_set_timer_op:
        return dispatch(block, vcpu, number, a1 | a2 << 32, 0, 0, 0)
    return dispatch(block, vcpu, number, a1, a2, a3, a4) if _is_native_32(number, a1) else DEFER


@native
def _hypercall_32(block: int, vcpu: int, env: int) -> int:
    """A call from 32-bit, 16-bit or real-mode code."""
    number = load64(env + state.RAX) & LOW
    first = load64(env + state.RBX) & LOW
    second = load64(env + state.RCX) & LOW
    third = load64(env + state.RDX) & LOW
    result = native_32(block, vcpu, number, first, second, third, load64(env + state.RSI) & LOW)
    if result == DEFER:
        return _defer(block)
    if result == PREEMPTED:
        continuation = vcpu + VcpuRecord.continuation
        store64(env + state.RBX, load64(continuation))
        store64(env + state.RCX, load64(continuation + 8))
        store64(env + state.RDX, load64(continuation + 16))
        return _again(block)
    return _finish(block, env, result & LOW)


@native
def _hypercall_64(block: int, vcpu: int, env: int) -> int:
    """A call from 64-bit code."""
    number = load64(env + state.RAX)
    first = load64(env + state.RDI)
    second = load64(env + state.RSI)
    third = load64(env + state.RDX)
    fourth = load64(env + state.R10)
    if number == HYPERVISOR_multicall:
        result = multicall(block, vcpu, first, second & LOW)
    else:
        result = dispatch(block, vcpu, number, first, second, third, fourth)
    if result == DEFER:
        return _defer(block)
    if result == PREEMPTED:
        continuation = vcpu + VcpuRecord.continuation
        store64(env + state.RDI, load64(continuation))
        store64(env + state.RSI, load64(continuation + 8))
        if number != HYPERVISOR_multicall:
            store64(env + state.RDX, load64(continuation + 16))
            store64(env + state.R10, load64(continuation + 24))
        return _again(block)
    return _finish(block, env, result)


@native
def _again(block: int) -> int:
    """Have the guest make the hypercall again, after whatever is more urgent (hypercall_create_continuation)."""
    settle(block)
    request_exit(block, EXIT_AGAIN, 0)
    return EXIT


@native
def on_vmcall(block: int) -> int:
    """``CpuBlock.on_vmcall``. Only the guest's kernel may make hypercalls."""
    env = load64(block + CpuBlock.env)
    vcpu = load64(block + CpuBlock.vcpu)
    hflags = load32(env + state.HFLAGS)
    protected = load64(env + state.CR0) & CR0_PE
    if (protected and hflags & state.HF_CPL) or state.rflags(block) & state.VM:
        store64(env + state.RAX, -XEN_EPERM)
        return DONE
    if hflags & state.HF_CS64:
        return _hypercall_64(block, vcpu, env)
    return _hypercall_32(block, vcpu, env)
