"""The registers of the vCPU that is loaded in an engine, for Python: rare and comfortable.

Only while the engine does not run.
"""

from __future__ import annotations

import ctypes

from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.memory import Record

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
SEGMENTS = {"es": state.ES, "cs": state.CS, "ss": state.SS, "ds": state.DS, "fs": state.FS, "gs": state.GS}
MASK = (1 << 64) - 1


class Registers:
    """Reads and writes the registers in place. ``registers[n]`` is the general register with that encoding."""

    def __init__(self, block: Record) -> None:
        assert block.kind is CpuBlock
        self._block = block
        size = state.CONTEXT_SIZE // 8
        self._words = memoryview((ctypes.c_uint64 * size).from_address(block["env"])).cast("B").cast("Q")

    def __getitem__(self, number: int) -> int:
        return self._words[number]

    def __setitem__(self, number: int, value: int) -> None:
        self._words[number] = value & MASK

    @property
    def rip(self) -> int:
        """The address of the next instruction."""
        return self._words[state.RIP // 8]

    @rip.setter
    def rip(self, value: int) -> None:
        self._words[state.RIP // 8] = value & MASK

    @property
    def rflags(self) -> int:
        """RFLAGS as the hardware has it. A PV guest sees IF and IOPL that Xen makes up instead."""
        return state.rflags(self._block.address) & MASK

    @rflags.setter
    def rflags(self, value: int) -> None:
        state.set_rflags(self._block.address, value)

    @property
    def cpl(self) -> int:
        """The translator's privilege level: a PV guest's kernel runs at 1, its programs at 3."""
        return self._words[state.HFLAGS // 8] & state.HF_CPL

    @property
    def long_mode(self) -> bool:
        """Whether 64-bit code runs."""
        return bool(self._words[state.HFLAGS // 8] & state.HF_CS64)

    def selector(self, segment: str) -> int:
        """The selector in a segment register, by name."""
        return self._words[SEGMENTS[segment] // 8] & 0xFFFF

    def base(self, segment: str) -> int:
        """The base address of a segment register, by name."""
        return self._words[(SEGMENTS[segment] + state.BASE) // 8]

    def word(self, offset: int) -> int:
        """A 64-bit part of the state, by its offset in ``cpu.state``."""
        return self._words[offset // 8]

    def set_word(self, offset: int, value: int) -> None:
        """Write a 64-bit part of the state."""
        self._words[offset // 8] = value & MASK
