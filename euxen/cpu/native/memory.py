"""Memory that native code and Python share: fixed addresses, zeroed, freed with its owner."""

from __future__ import annotations

import ctypes
import mmap

from euxen.abi.structure import Structure

MAP_NORESERVE = 0x4000


class Memory:
    """A block of host memory with an address for native code and a ``view`` for Python."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        self.size = size
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def words(self) -> memoryview:
        """The block as unsigned 64-bit words, for single fields at the speed of an index."""
        return self.view[: self.size & ~7].cast("Q")


class Record:
    """One structure that lives in shared memory; its fields are read and written by name.

    Only 64-bit fields can be named: native code keeps every number in 64 bits.
    """

    def __init__(self, kind: type[Structure], memory: Memory | None = None, offset: int = 0) -> None:
        self.memory = memory or Memory(kind.size)
        self.kind = kind
        self.address = self.memory.address + offset
        self._words = self.memory.view[offset : offset + kind.size].cast("Q")

    def __getitem__(self, field: str) -> int:
        return int(self._words[self.kind.offsetof(field) >> 3])

    def __setitem__(self, field: str, value: int) -> None:
        self._words[self.kind.offsetof(field) >> 3] = value & 0xFFFF_FFFF_FFFF_FFFF
