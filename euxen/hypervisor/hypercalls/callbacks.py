"""Where a guest's kernel is entered: set_trap_table, set_callbacks, callback_op, nmi_op.

Source: xen/arch/x86/pv/callback.c.
"""

from __future__ import annotations

import contextlib

from euxen.abi import callback as abi
from euxen.abi.arch_x86_xen import (
    TrapInfo,
    VGCF_failsafe_disables_events,
    VGCF_syscall_disables_events,
)
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS
from euxen.abi.nmi import XENNMI_register_callback, XENNMI_unregister_callback, XennmiCallback
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.guest_context import canonical
from euxen.hypervisor.vcpu import Vcpu

NMI_VECTOR = 2
TRAPS_AT_ONCE = 256
FLAT_KERNEL_CS = 0xE033
STAYING = {
    abi.CALLBACKTYPE_event,
    abi.CALLBACKTYPE_failsafe,
    abi.CALLBACKTYPE_syscall,
    abi.CALLBACKTYPE_syscall32,
    abi.CALLBACKTYPE_sysenter,
}
"""What can be registered elsewhere, but not unregistered."""


def _check(address: int) -> int:
    if not canonical(address):
        raise XenError(XEN_EINVAL)
    return address


def set_trap_table(vcpu: Vcpu, traps: int, *_rest: int) -> int:
    """HYPERVISOR_set_trap_table. A null pointer empties the table."""
    if not traps:
        vcpu.clear_traps()
        return 0
    for _ in range(TRAPS_AT_ONCE):
        trap = TrapInfo.unpack_from(vcpu.read(traps, TrapInfo.size))
        if not trap.address:
            return 0
        # A kernel's code segment is in ring 3, whatever the guest says.
        vcpu.set_trap(trap.vector, trap.cs | 3, trap.flags, _check(trap.address))
        traps += TrapInfo.size
    raise Continuation(traps)


def set_callbacks(vcpu: Vcpu, event: int, failsafe: int, syscall: int, *_rest: int) -> int:
    """HYPERVISOR_set_callbacks. Whoever needs to know whether an address was refused uses callback_op."""
    for kind, address in (
        (abi.CALLBACKTYPE_event, event),
        (abi.CALLBACKTYPE_failsafe, failsafe),
        (abi.CALLBACKTYPE_syscall, syscall),
    ):
        with contextlib.suppress(XenError):
            _register(vcpu, kind, address, 0)
    return 0


def _register(vcpu: Vcpu, kind: int, address: int, flags: int) -> None:
    record = vcpu.record
    _check(address)
    masks_events = int(bool(flags & abi.CALLBACKF_mask_events))
    if kind == abi.CALLBACKTYPE_event:
        record["event_callback"] = address
    elif kind == abi.CALLBACKTYPE_failsafe:
        record["failsafe_callback"] = address
        _set_flag(vcpu, VGCF_failsafe_disables_events, masks_events)
    elif kind == abi.CALLBACKTYPE_syscall:
        record["syscall_callback"] = address
        _set_flag(vcpu, VGCF_syscall_disables_events, masks_events)
    elif kind == abi.CALLBACKTYPE_syscall32:
        record["syscall32_callback"], record["syscall32_disables_events"] = address, masks_events
    elif kind == abi.CALLBACKTYPE_sysenter:
        record["sysenter_callback"], record["sysenter_disables_events"] = address, masks_events
    elif kind == abi.CALLBACKTYPE_nmi:
        register_nmi(vcpu, address)
    else:
        raise XenError(XEN_ENOSYS)


def _set_flag(vcpu: Vcpu, flag: int, on: int) -> None:
    flags = vcpu.record["vgc_flags"]
    vcpu.record["vgc_flags"] = flags | flag if on else flags & ~flag


def register_nmi(vcpu: Vcpu, address: int) -> None:
    """The NMI callback is an entry of the trap table (register_guest_nmi_callback)."""
    vcpu.set_trap(NMI_VECTOR, FLAT_KERNEL_CS, 4, _check(address))


def callback_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """HYPERVISOR_callback_op."""
    command &= 0xFFFF_FFFF
    if command == abi.CALLBACKOP_register:
        op = abi.CallbackRegister.unpack_from(vcpu.read(argument, abi.CallbackRegister.size))
        _register(vcpu, op.type, op.address, op.flags)
        return 0
    if command == abi.CALLBACKOP_unregister:
        kind = abi.CallbackUnregister.unpack_from(vcpu.read(argument, abi.CallbackUnregister.size)).type
        return _unregister(vcpu, kind)
    raise XenError(XEN_ENOSYS)


def _unregister(vcpu: Vcpu, kind: int) -> int:
    if kind in STAYING:
        raise XenError(XEN_EINVAL)
    if kind == abi.CALLBACKTYPE_nmi:
        vcpu.set_trap(NMI_VECTOR, 0, 0, 0)
        return 0
    raise XenError(XEN_ENOSYS)


def nmi_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """HYPERVISOR_nmi_op."""
    command &= 0xFFFF_FFFF
    if command == XENNMI_register_callback:
        register_nmi(vcpu, XennmiCallback.unpack_from(vcpu.read(argument, XennmiCallback.size)).handler_address)
        return 0
    if command == XENNMI_unregister_callback:
        vcpu.set_trap(NMI_VECTOR, 0, 0, 0)
        return 0
    raise XenError(XEN_ENOSYS)
