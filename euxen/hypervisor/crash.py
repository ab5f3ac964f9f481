"""What is left of a domain that crashed: a sentence for people, and Xen's kind of register dump for the log.

Source of the form: show_registers in xen/arch/x86/x86_64/traps.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from euxen.cpu import state
from euxen.cpu.registers import Registers
from euxen.hypervisor import ctrlreg, traps
from euxen.hypervisor.errors import GuestFault
from euxen.hypervisor.hypercalls.version import XEN_EXTRAVERSION, XEN_SUBVERSION, XEN_VERSION
from euxen.hypervisor.records import TF_kernel_mode
from euxen.hypervisor.vcpu import Vcpu

EXCEPTIONS = {
    0: ("#DE", "divide error"),
    1: ("#DB", "debug exception"),
    2: ("NMI", "non-maskable interrupt"),
    3: ("#BP", "breakpoint"),
    4: ("#OF", "overflow"),
    5: ("#BR", "bounds check"),
    6: ("#UD", "invalid opcode"),
    7: ("#NM", "device not available"),
    10: ("#TS", "invalid TSS"),
    11: ("#NP", "segment not present"),
    12: ("#SS", "stack fault"),
    13: ("#GP", "general protection fault"),
    14: ("#PF", "page fault"),
    16: ("#MF", "x87 floating point exception"),
    17: ("#AC", "alignment check"),
    19: ("#XM", "SIMD floating point exception"),
}
"""By vector: as Xen calls it (vector_name), and as people do."""
NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
ENCODINGS = (0, 3, 1, 2, 6, 7, 5, 4, *range(8, 16))
CONTROL = (("cr0", state.CR0), ("cr4", state.CR4), ("cr3", state.CR3), ("cr2", state.CR2))
STACK_LINES = 20
WORDS_PER_LINE = 4
PAGE_SIZE = 4096


def crash(vcpu: Vcpu, registers: Registers, reason: int, detail: int) -> None:
    """Crash the domain for a reason of ``traps``: log its state and say why."""
    if reason == traps.CRASH_NO_HANDLER and detail & traps.DETAIL_EXCEPTION:
        vector, error_code = detail & 0xFF, detail >> 8 & 0xFFFF_FFFF
        name = EXCEPTIONS.get(vector, ("???", ""))[0]
        vcpu.domain.machine.printk(f"{vcpu} Unhandled: vec {vector}, {name}[{error_code:04x}]")
    crash_for(vcpu, registers, _sentence(registers, reason, detail))


def crash_for(vcpu: Vcpu, registers: Registers, sentence: str) -> None:
    """Crash the domain: log its state and say why."""
    report(vcpu, registers, sentence)
    vcpu.domain.crash(sentence)


def report(vcpu: Vcpu, registers: Registers, sentence: str) -> None:
    """Log why the domain crashes, and its state (__domain_crash)."""
    log = vcpu.domain.machine.printk
    log(f"domain_crash called: {sentence}")
    log(f"Domain {vcpu.domain.domid} (vcpu#{vcpu.vcpu_id}) crashed on cpu#0:")
    for line in dump(vcpu, registers):
        log(line)


def _sentence(registers: Registers, reason: int, detail: int) -> str:
    where = f"at rip {registers.rip:#x}"
    if reason == traps.CRASH_NO_HANDLER:
        vector, error_code = detail & 0xFF, detail >> 8 & 0xFFFF_FFFF
        if detail & traps.DETAIL_EXCEPTION:
            name = "{1} ({0})".format(*EXCEPTIONS[vector]) if vector in EXCEPTIONS else f"interrupt {vector:#x}"
            address = f", address {registers.word(state.CR2):#x}" if vector == traps.TRAP_page_fault else ""
            return f"The guest has no handler for its own {name}, error code {error_code:#x}{address}, {where}."
        return f"The guest has registered no entry point for what was to be delivered {where}."
    if reason == traps.CRASH_BAD_STACK:
        return f"The guest's kernel stack can't be written, so nothing can be delivered to it {where}."
    if reason == traps.CRASH_BAD_IRET:
        return f"The guest's stack can't be read for its iret hypercall {where}, rsp {registers[4]:#x}."
    if reason == traps.CRASH_NO_USER_TABLE:
        return f"The guest wants to go to user mode without a user page table {where}."
    if reason == traps.CRASH_GRANTER_GONE:
        return f"The guest unmaps a grant of a domain that is gone, which it had unmapped by other means {where}."
    if reason == traps.CRASH_P2M:
        return f"The guest puts memory where it has mapped what is lent to it, without unmapping that first, {where}."
    return f"The guest was crashed {where}."


def dump(vcpu: Vcpu, registers: Registers) -> Iterator[str]:
    """The state of a vCPU, as Xen prints it."""
    yield f"----[ Xen-{XEN_VERSION}.{XEN_SUBVERSION}{XEN_EXTRAVERSION}  x86_64  debug=n  Not tainted ]----"
    yield "CPU:    0"
    yield f"RIP:    {registers.selector('cs'):04x}:[<{registers.rip:016x}>]"
    masked, kind = int(vcpu.upcall_masked), "hvm" if vcpu.domain.is_hvm else "pv"
    yield f"RFLAGS: {registers.rflags:016x}   EM: {masked}   CONTEXT: {kind} guest ({vcpu})"
    values = {name: registers[number] for name, number in zip(NAMES, ENCODINGS, strict=True)}
    values |= _control(vcpu, registers)
    yield from _lines(values)
    bases = (registers.base("fs"), registers.base("gs"), registers.word(state.KERNEL_GS_BASE))
    yield from _lines(dict(zip(("fsb", "gsb", "gss"), bases, strict=True)))
    yield "   ".join(f"{name}: {registers.selector(name):04x}" for name in ("ds", "es", "fs", "gs", "ss", "cs"))
    if not vcpu.domain.is_hvm:
        yield f"Guest stack trace from rsp={registers[4]:016x}:"
        yield from _stack(vcpu, registers[4])


def _control(vcpu: Vcpu, registers: Registers) -> dict[str, int]:
    """The control registers, as the guest has them."""
    if vcpu.domain.is_hvm:
        return {name: registers.word(offset) for name, offset in CONTROL}
    root = "guest_table" if vcpu.record["flags"] & TF_kernel_mode else "guest_table_user"
    values = {f"cr{number}": ctrlreg.read_cr(vcpu, number) for number in (0, 4)}
    return values | {"cr3": vcpu.record[root] * PAGE_SIZE, "cr2": ctrlreg.read_cr(vcpu, 2)}


def _lines(values: dict[str, int]) -> Iterator[str]:
    """Three registers a line."""
    words = [f"{name + ':':4} {value:016x}" for name, value in values.items()]
    for start in range(0, len(words), 3):
        yield "   ".join(words[start : start + 3])


def _stack(vcpu: Vcpu, pointer: int) -> Iterator[str]:
    """What is on the stack, to the end of its page (show_guest_stack)."""
    words: list[str] = []
    end = min(pointer + 8 * STACK_LINES * WORDS_PER_LINE, (pointer | PAGE_SIZE - 1) + 1)
    for address in range(pointer, end - 7, 8):
        try:
            words.append("{:016x}".format(*struct.unpack("<Q", vcpu.fetch(address, 8))))
        except GuestFault:
            words.append(f"Fault while accessing guest memory at {address:016x}.")
            break
    for start in range(0, len(words), WORDS_PER_LINE):
        yield "   " + " ".join(words[start : start + WORDS_PER_LINE])
