"""HYPERVISOR_callback_op: where a PV kernel is entered. xen/include/public/callback.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, u16, u64

CALLBACKTYPE_event = 0  # an event is pending
CALLBACKTYPE_failsafe = 1  # Xen could not restore the guest's segments
CALLBACKTYPE_syscall = 2  # SYSCALL by a 64-bit program
CALLBACKTYPE_sysenter_deprecated = 3
CALLBACKTYPE_nmi = 4
CALLBACKTYPE_sysenter = 5  # SYSENTER by a 32-bit program on Intel CPUs
CALLBACKTYPE_syscall32 = 7  # SYSCALL by a 32-bit program on AMD CPUs

CALLBACKF_mask_events = 1 << 0  # enter with events masked, which event and NMI callbacks always are

CALLBACKOP_register = 0
CALLBACKOP_unregister = 1  # -EINVAL for those that must stay


class CallbackRegister(Structure):
    """struct callback_register. xen/include/public/callback.h"""

    type: int = u16()  # CALLBACKTYPE_*
    flags: int = u16()  # CALLBACKF_*
    address: int = u64()  # virtual address of the entry point


class CallbackUnregister(Structure):
    """struct callback_unregister. xen/include/public/callback.h"""

    type: int = u16()  # CALLBACKTYPE_*
    _unused: int = u16()
