"""What is left of a domain that crashed: a sentence for people, and Xen's kind of register dump for the log.

Source of the form: show_registers in xen/arch/x86/x86_64/traps.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from euxen.cpu import state
from euxen.cpu.registers import Registers
from euxen.hypervisor import traps
from euxen.hypervisor.errors import GuestFault
from euxen.hypervisor.records import TF_kernel_mode
from euxen.hypervisor.vcpu import Vcpu

EXCEPTIONS = {
    0: "divide error (#DE)",
    1: "debug (#DB)",
    3: "breakpoint (#BP)",
    4: "overflow (#OF)",
    5: "bounds check (#BR)",
    6: "invalid opcode (#UD)",
    7: "device not available (#NM)",
    10: "invalid TSS (#TS)",
    11: "segment not present (#NP)",
    12: "stack fault (#SS)",
    13: "general protection (#GP)",
    14: "page fault (#PF)",
    16: "x87 floating point (#MF)",
    17: "alignment check (#AC)",
    19: "SIMD floating point (#XM)",
}
STACK_WORDS = 20
WORDS_PER_LINE = 4


def crash(vcpu: Vcpu, registers: Registers, reason: int, detail: int) -> None:
    """Crash the domain: log its state and say why."""
    sentence = _sentence(registers, reason, detail)
    log = vcpu.domain.machine.log
    log(f"domain_crash called: {vcpu} {sentence}")
    for line in dump(vcpu, registers):
        log(line)
    vcpu.domain.crash(sentence)


def _sentence(registers: Registers, reason: int, detail: int) -> str:
    where = f"at rip {registers.rip:#x}"
    if reason == traps.CRASH_NO_HANDLER:
        vector, error_code = detail & 0xFF, detail >> 8
        if detail:
            name = EXCEPTIONS.get(vector, f"exception {vector}")
            address = f", address {registers.word(state.CR2):#x}" if vector == traps.TRAP_page_fault else ""
            return f"The guest has no handler for its own {name}, error code {error_code:#x}{address}, {where}."
        return f"The guest has registered no entry point for what was to be delivered {where}."
    if reason == traps.CRASH_BAD_STACK:
        return f"The guest's kernel stack can't be written, so nothing can be delivered to it {where}."
    if reason == traps.CRASH_BAD_IRET:
        return f"The guest's stack can't be read for its iret hypercall {where}, rsp {registers[4]:#x}."
    if reason == traps.CRASH_NO_USER_TABLE:
        return f"The guest wants to go to user mode without a user page table {where}."
    return f"The guest was crashed {where}."


def dump(vcpu: Vcpu, registers: Registers) -> Iterator[str]:
    """The state of a vCPU, as Xen prints it."""
    mode = "kernel" if vcpu.record["flags"] & TF_kernel_mode else "user"
    yield f"----[ Xen-4.17-euxen  x86_64  debug=n  Not tainted ]----  {vcpu}"
    yield "CPU:    0"
    yield f"RIP:    {registers.selector('cs'):04x}:[<{registers.rip:016x}>]"
    yield f"RFLAGS: {registers.rflags:016x}   EM: 0   CONTEXT: pv guest ({vcpu}), {mode} mode"
    names = [
        "rax",
        "rbx",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
        "rbp",
        "rsp",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
    ]
    encodings = (0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15)
    values = [f"{name:>3}: {registers[number]:016x}" for name, number in zip(names, encodings, strict=True)]
    for start in range(0, len(values) - 1, 3):
        yield "   ".join(values[start : start + 3])
    cr0, cr4 = registers.word(state.CR0), registers.word(state.CR4)
    yield f"r15: {registers[15]:016x}   cr0: {cr0:016x}   cr4: {cr4:016x}"
    yield f"cr3: {vcpu.record['guest_table'] << 12:016x}   cr2: {registers.word(state.CR2):016x}"
    bases = (registers.base("fs"), registers.base("gs"), registers.word(state.KERNEL_GS_BASE))
    yield "fsb: {:016x}   gsb: {:016x}   gss: {:016x}".format(*bases)
    yield "   ".join(f"{name}: {registers.selector(name):04x}" for name in ("ds", "es", "fs", "gs", "ss", "cs"))
    yield f"Guest stack trace from rsp={registers[4]:016x}:"
    yield from _stack(vcpu, registers[4])


def _stack(vcpu: Vcpu, pointer: int) -> Iterator[str]:
    words: list[str] = []
    for number in range(STACK_WORDS):
        try:
            words.append("{:016x}".format(*struct.unpack("<Q", vcpu.read(pointer + 8 * number, 8))))
        except GuestFault:
            words.append(f"Fault while accessing guest memory at {pointer + 8 * number:016x}.")
            break
    for start in range(0, len(words), WORDS_PER_LINE):
        yield "  " + " ".join(words[start : start + WORDS_PER_LINE])
