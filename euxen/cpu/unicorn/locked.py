"""LOCK before a bit test of a register, which is no instruction: the library does not refuse it.

It translates BT, BTS, BTR and BTC of a register under LOCK into an access to an address that nobody set, and ends the
process with an assertion where that is found out. So what was translated is looked at once more before it becomes
machine code, and a block with such an instruction is made again: a block of one instruction, or #UD.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.native.language import call1, load32, load64, native, slots, store32
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.atomics import translate_block
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.softmmu import load_8
from euxen.cpu.unicorn.traps import raise_trap

LOCK, TWO_BYTES, BIT_TEST_IMMEDIATE = 0xF0, 0x0F, 0xBA
EXCEPTION = 6


@native
def _is_prefix(byte: int, long_mode: int) -> int:
    """Legacy prefixes, and REX in 64-bit code."""
    if byte & ~3 == 0xF0:
        return 0 if byte == 0xF1 else 1
    if byte & ~3 == 0x64 or byte & ~0x18 == 0x26:
        return 1
    return 1 if long_mode and byte & 0xF0 == 0x40 else 0


@native
def _tests_register(env: int, address: int, mmu: int) -> int:
    """Whether the bytes after 0x0f are BT, BTS, BTR or BTC of a register."""
    opcode = load_8(env, address, mmu, 0)
    if opcode & ~0x18 == 0xA3:
        return 1 if load_8(env, address + 1, mmu, 0) >= 0xC0 else 0
    return 1 if opcode == BIT_TEST_IMMEDIATE and load_8(env, address + 1, mmu, 0) >= 0xE0 else 0


@native
def _is_locked_test(env: int, address: int, size: int, mmu: int, long_mode: int) -> int:
    """Whether the instruction at an address is one of these."""
    locked = 0
    for at in range(address, address + size):
        byte = load_8(env, at, mmu, 0)
        if byte == TWO_BYTES:
            return 1 if locked and _tests_register(env, at + 1, mmu) else 0
        if not _is_prefix(byte, long_mode):
            return 0
        if byte == LOCK:
            locked = 1
    return 0


@native
def _may_have_locked_test(env: int, address: int, size: int, mmu: int) -> int:
    """Whether there are bytes in a block that may be one of these, or part of something else."""
    locked = 0
    for at in range(address, address + size - 2):
        byte = load_8(env, at, mmu, 0)
        if byte == TWO_BYTES and locked and _tests_register(env, at + 1, mmu):
            return 1
        if byte == LOCK:
            locked = 1
        elif not _is_prefix(byte, 1):
            locked = 0
    return 0


@native
def translate(cpu: int, translation: int, instructions: int) -> int:
    """``gen_intermediate_code``: raises #UD for a locked bit test of a register."""
    translate_block(cpu, translation, instructions)
    env = cpu + layout.ENV_TO_CPU
    address = load64(translation)
    size = load32(translation + layout.TB_SIZE) & 0xFFFF
    hflags = load32(env + state.HFLAGS)
    mmu = layout.MMU_USER if hflags & state.HF_CPL == 3 else layout.MMU_KERNEL
    if not _may_have_locked_test(env, address, size, mmu):
        return 0
    if _is_locked_test(env, address, size, mmu, hflags & state.HF_CS64):
        raise_trap(env, EXCEPTION, 0, 0)
    context = load64(load64(cpu + layout.CPU_UC) + layout.UC_TCG_CONTEXT)
    call1(load64(slots() + Functions.tcg_func_start), context)
    store32(context + layout.TCG_TB_CFLAGS, load32(translation + layout.TB_CFLAGS))
    return translate_block(cpu, translation, 1)
