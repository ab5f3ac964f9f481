"""Accesses of HVM guests across a page boundary where one side is no memory: byte by byte, each where it belongs."""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call4, call5, load64, native, shr, slots, store64
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.hvm import mmio
from euxen.cpu.unicorn.hvm.walk import LOAD, STORE, WALK_MMIO, walk
from euxen.cpu.unicorn.library import Functions
from euxen.cpu.unicorn.tlb import PAGE_MASK

PAGE_SIZE = 4096


@native
def _is_wanted(block: int, mmu: int, address: int, access: int) -> int:
    """Whether one of the two pages is no memory. The library does the others."""
    if not load64(block + CpuBlock.hvm):
        return 0
    if walk(block, mmu, address, access) == WALK_MMIO:
        return 1
    return 1 if walk(block, mmu, (address & PAGE_MASK) + PAGE_SIZE, access) == WALK_MMIO else 0


@native
def _load_byte(env: int, block: int, address: int, operand: int, code: int) -> int:
    result = walk(block, operand & 15, address, LOAD)
    if mmio.access(block, address, result, 1, 0, 0):
        return load64(block + CpuBlock.mmio_value) & 0xFF
    return call4(load64(slots() + Functions.helper_ret_ldub_mmu), env, address, operand, code) & 0xFF


@native
def load(env: int, address: int, operand: int, code: int, size: int) -> int:
    """The host address of what is loaded, or 0 where the library has to do it."""
    block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
    if not _is_wanted(block, operand & 15, address, LOAD):
        return 0
    value = 0
    for number in range(size):
        value |= _load_byte(env, block, address + number, operand, code) << (8 * number)
    store64(block + CpuBlock.mmio_value, value)
    return block + CpuBlock.mmio_value


@native
def store(env: int, address: int, value: int, operand: int, code: int, size: int) -> int:
    """Whether it was done; 0 where the library has to do it."""
    block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
    if not _is_wanted(block, operand & 15, address, STORE):
        return 0
    for number in range(size):
        at = address + number
        byte = shr(value, 8 * number) & 0xFF
        result = walk(block, operand & 15, at, STORE)
        if not mmio.access(block, at, result, 1, 1, byte):
            call5(load64(slots() + Functions.helper_ret_stb_mmu), env, at, byte, operand, code)
    return 1
