"""What a PV guest's kernel may not do itself, done for it; what nobody may do, refused.

Source: pv_emulate_privileged_op, pv_emulate_invalid_op and pv_emul_instruction_done in xen/arch/x86/pv.
"""

from __future__ import annotations

from euxen.cpu import cpuid, state
from euxen.cpu.registers import Registers
from euxen.hypervisor import traps
from euxen.hypervisor.ctrlreg import env_of
from euxen.hypervisor.errors import GuestFault
from euxen.hypervisor.fault import Fault, PageFault, Retry
from euxen.hypervisor.vcpu import Vcpu

FORCED_EMULATION = b"\x0f\x0bxen"
"""The prefix by which a guest asks for Xen's CPUID (XEN_EMULATE_PREFIX in arch-x86/xen.h)."""
CPUID = b"\x0f\xa2"
DR6_SINGLE_STEP = 1 << 14


def emulate(vcpu: Vcpu, registers: Registers, vector: int) -> None:
    """The instruction at RIP raised #GP(0) or #UD: execute it as Xen does, or give the guest an exception.

    ``vector`` is the one raised. Afterwards the caller has pending events delivered.
    """
    finished = True
    try:
        if vector == traps.TRAP_invalid_op:
            _forced_cpuid(vcpu, registers)
        else:
            # Only now: what decodes instructions takes a moment to load, and a guest may do without it.
            from euxen.hypervisor.emul_priv_op import privileged_op

            finished = privileged_op(vcpu, registers)
    except Retry:
        return
    except Fault as fault:
        fault.deliver(vcpu)
    else:
        _retire(vcpu, registers, finished)


def _forced_cpuid(vcpu: Vcpu, registers: Registers) -> None:
    """UD2, "xen", CPUID: the answer is the policy's, as for CPUID itself."""
    size = len(FORCED_EMULATION + CPUID)
    try:
        code = vcpu.fetch(registers.rip, size)
    except GuestFault:
        raise PageFault((registers.rip + size) & ~0xFFF) from None
    if code != FORCED_EMULATION + CPUID:
        raise Fault(traps.TRAP_invalid_op)
    cpuid.lookup(vcpu.block, env_of(vcpu))
    registers.rip += size


def _retire(vcpu: Vcpu, registers: Registers, finished: bool) -> None:
    """The instruction is done, and RIP is behind it; or it is a string instruction of which some was done."""
    flags = registers.rflags
    if finished:
        registers.rflags = flags & ~state.RF
    if flags & state.TF:
        vcpu.set_debug_register(6, vcpu.debug_register(6) | DR6_SINGLE_STEP)
        Fault(traps.TRAP_debug).deliver(vcpu)
