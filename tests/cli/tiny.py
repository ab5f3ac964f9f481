"""Guests of a few instructions, each of which ends in its own way."""

from __future__ import annotations

from pathlib import Path

from assembler import assemble
from toolstack.kernel.elf_writer import PHYS32_ENTRY, Elf, Load, note, pv_notes

BASE = 0x100000
SCHED_OP = "mov $29, %eax; syscall"

SHUTDOWN = f"""
    mov $2, %edi
    lea reason(%rip), %rsi
    {SCHED_OP}
    ud2
reason: .long {{reason}}
"""
"""SCHEDOP_shutdown."""
BLOCK = f"again: mov $1, %edi; {SCHED_OP}; jmp again"
"""Wait for events, of which none ever comes."""
SPIN = "again: jmp again"
INVALID = "ud2"
"""An exception that the guest has no handler for."""


def kernel(path: Path, code: str, *notes: bytes) -> Path:
    """Write a PV kernel that executes ``code``."""
    path.write_bytes(Elf(loads=[Load(BASE, assemble(code, origin=BASE))], notes=pv_notes(*notes)).build())
    return path


PVH_SCHED_OP = "mov $29, %eax; vmcall"
PVH_SHUTDOWN = f"""
    mov $2, %ebx
    mov $reason, %ecx
    {PVH_SCHED_OP}
    ud2
reason: .long {{reason}}
"""
PVH_BLOCK = f"again: mov $1, %ebx; {PVH_SCHED_OP}; jmp again"
PVH_TRIPLE_FAULT = "lidt nothing; ud2; nothing: .word 0; .long 0"
"""An exception without a table of handlers."""


def pvh_kernel(path: Path, code: str, *notes: bytes, base: int = BASE) -> Path:
    """Write a PVH kernel that executes ``code``, of 32 bits."""
    program = Load(base, assemble(code, bits=32, origin=base))
    path.write_bytes(Elf(loads=[program], entry=base, notes=note(PHYS32_ENTRY, base) + b"".join(notes)).build())
    return path
