"""The state of an HVM vCPU, between the engine that has it loaded and struct hvm_hw_cpu.

Source: hvm_save_cpu_ctxt and hvm_load_cpu_ctxt in xen/arch/x86/hvm/hvm.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_hvm_save import XEN_X86_FPU_INITIALISED, HvmHwCpu
from euxen.cpu import fpu, state
from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import Engine
from euxen.cpu.native.language import call1, load64, native
from euxen.cpu.registers import Registers

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
SEGMENTS = {
    "es": state.ES,
    "cs": state.CS,
    "ss": state.SS,
    "ds": state.DS,
    "fs": state.FS,
    "gs": state.GS,
    "tr": state.TR,
    "ldtr": state.LDTR,
}
TABLES = {"gdtr": state.GDTR, "idtr": state.IDTR}
CONTROL = {"cr0": state.CR0, "cr2": state.CR2, "cr3": state.CR3, "cr4": state.CR4}
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 4800, 4808, 4816
"""Where the CPU's state has them; the first has 32 bits."""
MSRS = {
    "sysenter_esp": SYSENTER_ESP,
    "sysenter_eip": SYSENTER_EIP,
    "shadow_gs": state.KERNEL_GS_BASE,
    "msr_lstar": state.LSTAR,
    "msr_star": state.STAR,
    "msr_cstar": state.CSTAR,
    "msr_syscall_mask": state.FMASK,
    "msr_efer": state.EFER,
    "msr_tsc_aux": state.TSC_AUX,
}
MXCSR_DEFAULT, FCW_RESET = 0x1F80, 0x40
LOW = 0xFFFF_FFFF
GRANULAR = 1 << 11
VECTOR, EVENT_HAS_ERROR, EVENT_VALID = 0xFF, 1 << 11, 1 << 31
EVENT_NMI, EVENT_EXCEPTION = 2 << 8, 3 << 8
NO_ERROR_CODE = (1 << 64) - 1
TRAP_nmi = 2


def attributes_of(flags: int) -> int:
    """The attributes of a segment in Xen's form, from those in a descriptor's second word."""
    return flags >> 8 & 0xFF | flags >> 12 & 0xF00


def flags_of(attributes: int, limit: int) -> int:
    """The other way round. The granularity follows from the limit (hvm_set_segment_register)."""
    if attributes & 0x80:
        attributes = attributes & ~GRANULAR | (GRANULAR if limit >> 20 else 0)
    return (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12


@native
def registers_loaded(block: int) -> int:
    """``CpuBlock.registers_loaded``, for Python."""
    return call1(load64(block + CpuBlock.registers_loaded), block)


def load(engine: Engine, cpu: HvmHwCpu) -> None:
    """Put a state into the engine."""
    registers, env = Registers(engine.block), engine.block["env"]
    for number, name in enumerate(GENERAL):
        registers[number] = getattr(cpu, name)
    registers.rip = cpu.rip
    for name, segment in SEGMENTS.items():
        limit = getattr(cpu, f"{name}_limit")
        flags = flags_of(getattr(cpu, f"{name}_arbytes"), limit)
        state.set_segment(env, segment, getattr(cpu, f"{name}_sel"), getattr(cpu, f"{name}_base"), limit, flags)
    for name, table in TABLES.items():
        state.set_segment(env, table, 0, getattr(cpu, f"{name}_base"), getattr(cpu, f"{name}_limit"), 0)
    for name, offset in {**CONTROL, **MSRS}.items():
        registers.set_word(offset, getattr(cpu, name))
    registers.set_word(SYSENTER_CS, registers.word(SYSENTER_CS) & ~LOW | cpu.sysenter_cs & LOW)
    registers.rflags = cpu.rflags
    state.init_fpu(env, FCW_RESET, MXCSR_DEFAULT)
    if cpu.flags & XEN_X86_FPU_INITIALISED:
        fpu.fxrstor(env, cpu.fpu_regs)
    for number in (0, 1, 2, 3, 6, 7):
        engine.set_debug_register(number, getattr(cpu, f"dr{number}"))
    _load_event(engine, cpu)
    registers_loaded(engine.block.address)


def _load_event(engine: Engine, cpu: HvmHwCpu) -> None:
    """What is to be delivered before the first instruction."""
    event = cpu.pending_event
    engine.block["injected"] = (event & VECTOR) + 1 if event & EVENT_VALID else 0
    engine.block["injected_error"] = cpu.error_code if event & EVENT_HAS_ERROR else NO_ERROR_CODE


def save(engine: Engine) -> HvmHwCpu:
    """The state that is in the engine."""
    registers, env = Registers(engine.block), engine.block["env"]
    cpu = HvmHwCpu(flags=XEN_X86_FPU_INITIALISED, fpu_regs=fpu.fxsave(env), rip=registers.rip, rflags=registers.rflags)
    for number, name in enumerate(GENERAL):
        setattr(cpu, name, registers[number])
    for name, segment in {**SEGMENTS, **TABLES}.items():
        setattr(cpu, f"{name}_base", registers.word(segment + state.BASE))
        limit_and_flags = registers.word(segment + state.LIMIT)
        setattr(cpu, f"{name}_limit", limit_and_flags & LOW)
        if name in SEGMENTS:
            setattr(cpu, f"{name}_sel", registers.word(segment) & 0xFFFF)
            setattr(cpu, f"{name}_arbytes", attributes_of(limit_and_flags >> 32))
    for name, offset in {**CONTROL, **MSRS}.items():
        setattr(cpu, name, registers.word(offset))
    cpu.sysenter_cs = registers.word(SYSENTER_CS) & LOW
    if engine.block["injected"]:
        vector, error = engine.block["injected"] - 1, engine.block["injected_error"]
        has_error = error != NO_ERROR_CODE
        kind = EVENT_NMI if vector == TRAP_nmi else EVENT_EXCEPTION
        cpu.pending_event = EVENT_VALID | kind | vector | (EVENT_HAS_ERROR if has_error else 0)
        cpu.error_code = error if has_error else 0
    for number in (0, 1, 2, 3, 6, 7):
        setattr(cpu, f"dr{number}", engine.debug_register(number))
    return cpu
