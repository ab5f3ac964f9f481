"""Machine code on the host's own CPU: what the guest's CPU is compared with, and races against."""

from __future__ import annotations

import ctypes
import mmap

from assembler import assemble

SAVED = "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15"
RESTORED = "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx"


class HostCode:
    """A C function of one argument, in RDI, that is a few lines of assembler. It may change every register."""

    def __init__(self, source: str) -> None:
        code = assemble(f"{SAVED}; {source}; {RESTORED}; ret")
        protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self._memory = mmap.mmap(-1, len(code), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection)
        self._memory.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64)(address)

    def __call__(self, argument: int) -> int:
        """Runs without the GIL. Returns RAX."""
        return int(self._function(argument))
