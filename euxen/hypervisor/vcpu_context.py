"""The whole state of a vCPU that stands still (arch_get_info_guest in xen/arch/x86/domctl.c)."""

from __future__ import annotations

import copy

from euxen.abi.arch_x86_xen import (
    CpuUserRegs,
    TrapInfo,
    VcpuGuestContext,
    VGCF_i387_valid,
    VGCF_in_kernel,
    VGCF_online,
    xen_pfn_to_cr3,
)
from euxen.cpu import fpu, state
from euxen.cpu.registers import Registers
from euxen.hypervisor import ctrlreg
from euxen.hypervisor.records import TRAP_ENTRY_SIZE, TF_kernel_mode, VcpuRecord
from euxen.hypervisor.vcpu import Vcpu

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")
VECTORS = 256


def get_context(vcpu: Vcpu) -> VcpuGuestContext:
    """The state of a vCPU that is initialised and does not run."""
    record = vcpu.record
    context = _of_engine(vcpu) if vcpu.context is None else copy.copy(vcpu.context)
    context.flags &= ~(VGCF_online | VGCF_in_kernel)
    context.flags |= record["vgc_flags"]
    context.flags |= VGCF_online if record["online"] else 0
    in_kernel = bool(record["flags"] & TF_kernel_mode)
    context.flags |= VGCF_in_kernel if in_kernel else 0
    context.trap_ctxt = _traps(vcpu)
    context.ldt_base, context.ldt_ents = record["ldt_base"], record["ldt_ents"]
    context.gdt_ents = record["gdt_ents"]
    frames = -(-record["gdt_ents"] // 512)
    context.gdt_frames = tuple(word if n < frames else 0 for n, word in enumerate(_words(vcpu, "gdt_frames", 16)))
    context.kernel_ss, context.kernel_sp = record["kernel_ss"], record["kernel_sp"]
    user_root = record["guest_table_user"]
    context.ctrlreg = (
        context.ctrlreg[0],
        xen_pfn_to_cr3(user_root) if user_root else 0,
        context.ctrlreg[2],
        xen_pfn_to_cr3(record["guest_table"]),
        *context.ctrlreg[4:],
    )
    context.event_callback_eip = record["event_callback"]
    context.failsafe_callback_eip = record["failsafe_callback"]
    context.syscall_callback_eip = record["syscall_callback"]
    context.vm_assist = vcpu.domain.record["vm_assist"]
    return context


def _words(vcpu: Vcpu, field: str, count: int) -> list[int]:
    start = (vcpu.record.address - vcpu.record.memory.address + VcpuRecord.offsetof(field)) // 8
    return [int(word) for word in vcpu.record.memory.words()[start : start + count]]


def _traps(vcpu: Vcpu) -> tuple[TrapInfo, ...]:
    words = _words(vcpu, "traps", VECTORS * TRAP_ENTRY_SIZE // 8)
    return tuple(
        TrapInfo(vector=vector if address else 0, address=address, cs=cs, flags=flags)
        for vector, (address, cs, flags) in enumerate(zip(words[0::3], words[1::3], words[2::3], strict=True))
    )


def _of_engine(vcpu: Vcpu) -> VcpuGuestContext:
    """What is in the registers of the engine that has the vCPU loaded."""
    engine = vcpu.domain.engine
    assert engine is not None
    registers = Registers(engine.block)
    values = {name: registers[number] for number, name in enumerate(GENERAL)}
    selectors = {name: registers.selector(name) for name in SELECTORS}
    user_regs = CpuUserRegs(
        rip=registers.rip, rflags=registers.rflags | vcpu.record["iopl"], saved_upcall_mask=int(vcpu.upcall_masked)
    )
    for name, value in (values | selectors).items():
        setattr(user_regs, name, value)
    gs, other_gs = registers.base("gs"), registers.word(state.KERNEL_GS_BASE)
    in_kernel = vcpu.record["flags"] & TF_kernel_mode
    debug = [vcpu.debug_register(number) for number in range(8)]
    debug[7] |= vcpu.dr7_emul
    control = _words(vcpu, "ctrlreg", 8)
    control[2], control[4] = ctrlreg.read_cr(vcpu, 2), ctrlreg.read_cr(vcpu, 4)
    return VcpuGuestContext(
        flags=VGCF_i387_valid,
        fpu_ctxt=fpu.fxsave(engine.block["env"]),
        user_regs=user_regs,
        ctrlreg=tuple(control),
        debugreg=tuple(debug),
        fs_base=registers.base("fs"),
        gs_base_kernel=gs if in_kernel else other_gs,
        gs_base_user=other_gs if in_kernel else gs,
    )
