"""Hypercalls that set parts of a vCPU's state: debug registers, segment bases, assists."""

from __future__ import annotations

from euxen.abi.arch_x86_xen import SEGBASE_GS_USER_SEL
from euxen.abi.errno import XEN_EINVAL, XEN_ENODEV, XEN_ENOSYS, XEN_EOPNOTSUPP, XEN_EPERM
from euxen.abi.xen import (
    VMASST_CMD_disable,
    VMASST_CMD_enable,
    VMASST_TYPE_runstate_update_flag,
)
from euxen.cpu import state
from euxen.cpu.descriptor import data_fault, install
from euxen.cpu.native.language import signed
from euxen.cpu.registers import Registers
from euxen.hypervisor import ctrlreg, descriptors, guest_access
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.guest_context import ASSISTS
from euxen.hypervisor.vcpu import Vcpu

ASSISTS_OF_ALL = {VMASST_TYPE_runstate_update_flag}
DR6_RESERVED_ONES = 0xFFFF_0FF0
DR6_WRITABLE = 0xE00F
DR7_RESERVED_ONES = 0x400
DR7_RESERVED_ZEROES = 0xD800
DR7_ACTIVE = 0xFF
DR_GENERAL_DETECT = 0x2000
DR_IO = 2


def _registers(vcpu: Vcpu) -> Registers:
    engine = vcpu.domain.engine
    assert engine is not None
    return Registers(engine.block)


def set_debugreg(vcpu: Vcpu, number: int, value: int, *_rest: int) -> int:
    """HYPERVISOR_set_debugreg (set_debugreg in xen/arch/x86/pv/misc-hypercalls.c).

    ENODEV is for a register that is not there, EINVAL for a value that can't be, EPERM for one that may not be.
    """
    number = _present(vcpu, number)
    if number <= 3:
        if not guest_access.addr_ok(signed(value)):
            raise XenError(XEN_EPERM)
        vcpu.set_debug_register(number, value)
        return 0
    if value >> 32:
        raise XenError(XEN_EINVAL)
    if number == 6:
        vcpu.set_debug_register(6, (value & DR6_WRITABLE) | DR6_RESERVED_ONES)
        return 0
    value = (value & ~DR7_RESERVED_ZEROES) | DR7_RESERVED_ONES
    if value & DR_GENERAL_DETECT:
        raise XenError(XEN_EPERM)
    vcpu.dr7_emul = _port_breakpoints(vcpu, value) if value & DR7_ACTIVE else 0
    vcpu.set_debug_register(7, value & ~vcpu.dr7_emul)
    return 0


def _present(vcpu: Vcpu, number: int) -> int:
    """The register that a number means: DR4 and DR5 are DR6 and DR7, until CR4.DE takes them away."""
    number &= 0xFFFF_FFFF
    if number > 7 or (number in (4, 5) and ctrlreg.read_cr(vcpu, 4) & ctrlreg.CR4_DE):
        raise XenError(XEN_ENODEV)
    return number + 2 if number in (4, 5) else number


def _port_breakpoints(vcpu: Vcpu, control: int) -> int:
    """The bits of DR7 that enable breakpoints at I/O ports. The CPU must not have them: no guest has a port."""
    enabled = 0
    for number in range(4):
        if control >> (16 + 4 * number) & 3 == DR_IO:
            if not ctrlreg.read_cr(vcpu, 4) & ctrlreg.CR4_DE:
                raise XenError(XEN_EPERM)
            enabled |= control & 3 << 2 * number
    return enabled


def get_debugreg(vcpu: Vcpu, number: int, *_rest: int) -> int:
    """HYPERVISOR_get_debugreg."""
    number = _present(vcpu, number)
    value = vcpu.debug_register(number)
    return value | vcpu.dr7_emul if number == 7 else value


def set_segment_base(vcpu: Vcpu, which: int, base: int, *_rest: int) -> int:
    """HYPERVISOR_set_segment_base with SEGBASE_GS_USER_SEL: GS by a selector, whose base is for the guest's programs.

    A selector that can't be loaded is no error: GS is empty then.
    """
    if which & 0xFFFF_FFFF != SEGBASE_GS_USER_SEL:
        raise XenError(XEN_EINVAL)
    registers = _registers(vcpu)
    kernel_base = registers.base("gs")
    selector = base & 0xFFFF
    selector = selector | 3 if selector > 3 else selector
    descriptor = descriptors.descriptor(vcpu.block, selector, 1, 0)
    if data_fault(descriptor):
        selector, descriptor = 0, 0
    install(ctrlreg.env_of(vcpu), state.GS, selector, descriptor)
    registers.set_word(state.KERNEL_GS_BASE, registers.base("gs"))
    registers.set_word(state.GS + state.BASE, kernel_base)
    return 0


def vm_assist(vcpu: Vcpu, command: int, kind: int, *_rest: int) -> int:
    """HYPERVISOR_vm_assist."""
    command, kind = command & 0xFFFF_FFFF, kind & 0xFFFF_FFFF
    if kind not in (ASSISTS_OF_ALL if vcpu.hvm is not None else ASSISTS):
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
