"""Hypercalls that set parts of a vCPU's state: debug registers, segment bases, assists."""

from __future__ import annotations

from euxen.abi.arch_x86_xen import SEGBASE_GS_USER_SEL
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS, XEN_EOPNOTSUPP
from euxen.abi.xen import (
    VMASST_CMD_disable,
    VMASST_CMD_enable,
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_m2p_strict,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_writable_pagetables,
)
from euxen.cpu import state
from euxen.cpu.descriptor import data_fault
from euxen.cpu.registers import Registers
from euxen.hypervisor import descriptors
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hypercalls.callbacks import canonical
from euxen.hypervisor.vcpu import Vcpu

ASSISTS = {
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_writable_pagetables,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_m2p_strict,
}
DR6_RESERVED_ONES = 0xFFFF_0FF0
DR6_WRITABLE = 0xE00F
DR7_RESERVED_ONES = 0x400
DR7_RESERVED_ZEROES = 0xD800
DR_GENERAL_DETECT = 0x2000


def _registers(vcpu: Vcpu) -> Registers:
    engine = vcpu.domain.engine
    assert engine is not None
    return Registers(engine.block)


def set_debugreg(vcpu: Vcpu, number: int, value: int, *_rest: int) -> int:
    """HYPERVISOR_set_debugreg (set_debugreg in xen/arch/x86/traps.c)."""
    number &= 0xFFFF_FFFF
    if number <= 3:
        if not canonical(value):
            raise XenError(XEN_EINVAL)
    elif number in (4, 6):
        number, value = 6, (value & DR6_WRITABLE) | DR6_RESERVED_ONES
    elif number in (5, 7):
        value = (value & 0xFFFF_FFFF & ~(DR7_RESERVED_ZEROES | DR_GENERAL_DETECT)) | DR7_RESERVED_ONES
        number = 7
        if value & 0xFF and not _breakpoints_allowed(value):
            raise XenError(XEN_EINVAL)
    else:
        raise XenError(XEN_EINVAL)
    vcpu.set_debug_register(number, value)
    return 0


def _breakpoints_allowed(control: int) -> bool:
    """No I/O breakpoints (type 2), and none of a length that does not go with its type."""
    for breakpoint_ in range(4):
        kind, length = control >> (16 + 4 * breakpoint_) & 3, control >> (18 + 4 * breakpoint_) & 3
        if kind == 2 or (kind == 0 and length):
            return False
    return True


def get_debugreg(vcpu: Vcpu, number: int, *_rest: int) -> int:
    """HYPERVISOR_get_debugreg."""
    number &= 0xFFFF_FFFF
    if number in (4, 5):
        number += 2
    if number > 7:
        raise XenError(XEN_EINVAL)
    return vcpu.debug_register(number)


def set_segment_base(vcpu: Vcpu, which: int, base: int, *_rest: int) -> int:
    """HYPERVISOR_set_segment_base with SEGBASE_GS_USER_SEL: the user's GS by a selector."""
    if which != SEGBASE_GS_USER_SEL:
        raise XenError(XEN_EINVAL)
    selector = base & 0xFFFF
    registers = _registers(vcpu)
    descriptor = -1
    if selector & 0xFFFC:
        descriptor = descriptors.descriptor(vcpu.block, selector, 1, 0)
    if descriptor == -1 or data_fault(descriptor):
        registers.set_word(state.KERNEL_GS_BASE, 0)
        return 0
    from euxen.cpu.descriptor import base_of

    registers.set_word(state.KERNEL_GS_BASE, base_of(descriptor))
    return 0


def vm_assist(vcpu: Vcpu, command: int, kind: int, *_rest: int) -> int:
    """HYPERVISOR_vm_assist."""
    command, kind = command & 0xFFFF_FFFF, kind & 0xFFFF_FFFF
    if kind not in ASSISTS:
        raise XenError(XEN_EINVAL)
    record = vcpu.domain.record
    if command == VMASST_CMD_enable:
        record["vm_assist"] |= 1 << kind
    elif command == VMASST_CMD_disable:
        record["vm_assist"] &= ~(1 << kind)
    else:
        raise XenError(XEN_ENOSYS)
    return 0


def xenpmu_op(vcpu: Vcpu, *_arguments: int) -> int:
    """HYPERVISOR_xenpmu_op in a Xen whose vpmu is off."""
    raise XenError(XEN_EOPNOTSUPP)
