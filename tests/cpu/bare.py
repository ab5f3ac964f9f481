"""A bare machine for tests: the engine, a flat address space, and a few lines of assembler.

The code runs where a PV guest's kernel would (CPL 1) or its programs (CPL 3), until SYSCALL ends it or it traps.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from assembler import assemble

from euxen.cpu import cpuid, exits, state
from euxen.cpu.cpuid import Leaf
from euxen.cpu.engine import ExitReason
from euxen.cpu.registers import Registers
from euxen.cpu.unicorn.engine import UnicornEngine

MEMORY = 16 << 20
SUPERPAGE = 2 << 20
PML4, PDPT, PAGE_DIRECTORY = 0x1000, 0x2000, 0x3000
CODE, DATA, STACK = 0x20_0000, 0x40_0000, 0x60_0000
"""Where the code is, 2 MiB of memory for it, and the end of its stack. All is mapped where it is."""

PRESENT_WRITABLE_USER, PAGE_SIZE_ACCESSED_DIRTY = 0x7, 0xE7
CR0, CR4, EFER = 0x8005_0033, 0x0001_06E0, 0xD01
HF_MP, HF_OSFXSR = 0x200, 1 << 22
FLAT = state.DESC_G | state.DESC_P | state.DESC_S | 3 << state.DESC_DPL_SHIFT | state.DESC_ACCESSED
FLAT_CODE64 = FLAT | state.DESC_CODE | state.DESC_READABLE | state.DESC_L
FLAT_CODE32 = FLAT | state.DESC_CODE | state.DESC_READABLE | state.DESC_B
FLAT_DATA = FLAT | state.DESC_WRITABLE | state.DESC_B
NO_LIMIT = 0xFFFF_FFFF
PATIENCE = 20.0
"""Seconds after which code that does not end is stopped, and the test fails."""

SYSCALL, TRAP, PAGE_FAULT, TIMEOUT = "syscall", "trap", "page fault", "timeout"


@dataclass(frozen=True)
class Outcome:
    """How the code ended: by SYSCALL, or by an exception."""

    kind: str
    vector: int = 0
    error_code: int = 0
    address: int = 0


class BareEngine:
    """An engine with 16 MiB of memory, mapped one to one. The native library has to be loaded."""

    def __init__(self, policy: Sequence[Leaf] = (), shared: BareEngine | None = None) -> None:
        """``shared``: another engine, with which this one has its memory in common."""
        self._ram: mmap.mmap = shared._ram if shared else mmap.mmap(-1, MEMORY)
        self.memory = memoryview(self._ram)
        self.engine = UnicornEngine(ctypes.addressof(ctypes.c_char.from_buffer(self._ram)), MEMORY >> 12)
        self.registers = Registers(self.engine.block)
        self.ticks = 0
        """What the time stamp counter says."""
        self.descriptors: dict[int, int] = {}
        """What selectors stand for."""
        self._outcome = Outcome(TIMEOUT)
        self._callbacks: list[Any] = []
        self._map_memory()
        self._install_handlers()
        self.set_policy(policy)

    def set_policy(self, policy: Sequence[Leaf]) -> None:
        """Let the CPU be the one that a policy describes."""
        self._policy = cpuid.install(list(policy))
        block = self.engine.block
        block["cpuid"], block["cpuid_entries"] = self._policy.address, len(policy)
        self.engine.set_features(list(policy))

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def _map_memory(self) -> None:
        words = self.memory.cast("Q")
        words[PML4 // 8] = PDPT | PRESENT_WRITABLE_USER
        words[PDPT // 8] = PAGE_DIRECTORY | PRESENT_WRITABLE_USER
        for number in range(MEMORY // SUPERPAGE):
            words[PAGE_DIRECTORY // 8 + number] = number * SUPERPAGE | PAGE_SIZE_ACCESSED_DIRTY
        self.engine.block["root"] = self.engine.block["user_root"] = PML4

    def _install_handlers(self) -> None:
        block = self.engine.block
        handlers: dict[str, tuple[int, Callable[..., int]]] = {
            "on_syscall": (2, lambda block, how: self._end(Outcome(SYSCALL))),
            "on_trap": (4, lambda block, vector, code, soft: self._end(Outcome(TRAP, vector, code))),
            "on_page_fault": (3, lambda block, at, code: self._end(Outcome(PAGE_FAULT, 14, code, at))),
            "on_interrupt": (1, lambda block: self._interrupt()),
            "on_store": (4, lambda block, address, value, size: 0),
            "on_descriptor": (4, lambda block, selector, load, unused: self.descriptors.get(selector & 0xFFFF, -1)),
            "on_tsc": (1, lambda block: self.ticks),
        }
        for name, (arity, handler) in handlers.items():
            callback = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(handler)
            self._callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p).value
            assert address is not None
            block[name] = address

    def _end(self, outcome: Outcome) -> int:
        self._outcome = outcome
        exits.request_exit(self.engine.block.address, int(ExitReason.HYPERCALL), 0)
        return 0

    def _interrupt(self) -> int:
        # A kick may come while the code has ended already and the engine is about to come back.
        return 0 if self.engine.block["exit_reason"] else self._end(Outcome(TIMEOUT))

    def reset(self, cpl: int = 1, bits: int = 64) -> None:
        """Clear the registers: 64-bit or 32-bit code at a privilege level, with the floating-point unit enabled."""
        registers, env = self.registers, self.engine.block["env"]
        for number in range(16):
            registers[number] = 0
        registers.rip, registers[4], registers.rflags = CODE, STACK, 0x202
        registers.set_word(state.CR0, CR0)
        registers.set_word(state.CR4, CR4)
        registers.set_word(state.EFER, EFER)
        state.set_hflags(env, state.HF_PE | state.HF_LMA | HF_MP | HF_OSFXSR)
        state.set_segment(env, state.CS, 0xE033, 0, NO_LIMIT, FLAT_CODE64 if bits == 64 else FLAT_CODE32)
        for segment in (state.SS, state.DS, state.ES, state.FS, state.GS):
            state.set_segment(env, segment, 0xE02B, 0, NO_LIMIT, FLAT_DATA)
        state.update_hflags(env, cpl)
        state.init_fpu(env, 0x37F, 0x1F80)

    def run(self, source: str | bytes, cpl: int = 1, bits: int = 64) -> Outcome:
        """Execute code from its beginning, in fresh registers, until it ends."""
        code = assemble(source, bits, CODE) if isinstance(source, str) else source
        self.reset(cpl, bits)
        return self.resume(code)

    def resume(self, code: bytes) -> Outcome:
        """Execute code in the registers as they are."""
        self.place(CODE, code)
        return self.finish()

    def finish(self) -> Outcome:
        """Go on from where the registers are, until the code ends or has to be stopped."""
        alarm = threading.Timer(PATIENCE, self.engine.kick)
        alarm.start()
        try:
            return self.go()
        finally:
            alarm.cancel()

    def place(self, address: int, code: bytes) -> None:
        """Write code, or any data, into memory."""
        self.memory[address : address + len(code)] = code
        self.engine.invalidate_code(address, len(code))

    def go(self) -> Outcome:
        """Go on from where the registers are. Nobody stops code that does not end."""
        self._outcome = Outcome(TIMEOUT)
        self.engine.block["exit_reason"] = 0
        self.engine.run()
        return self._outcome
