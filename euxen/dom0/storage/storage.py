"""What a back end asks of whatever a disk is kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SECTOR = 512
"""Bytes; the least that a disk can have in a sector."""


class StorageError(Exception):
    """A disk cannot be used: one sentence that says why, without a full stop."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a disk is like. All in bytes."""

    size: int
    sector_size: int = SECTOR
    """What reads and writes are multiples of."""
    physical_sector_size: int = SECTOR
    """What they should be multiples of, to be fast."""
    discard_granularity: int = 0
    """What discards should be multiples of; 0 if there is no discarding."""


class Storage(Protocol):
    """An open disk. Every method but ``close`` is called by several threads at once, and raises OSError."""

    @property
    def geometry(self) -> Geometry:
        """What the disk is like now."""
        ...

    @property
    def can_try(self) -> bool:
        """Whether ``try_read`` is worth while."""
        ...

    def try_read(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Fill buffers from an offset if that needs no waiting; whether it was done. If not, they may hold anything."""
        ...

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill buffers from an offset in bytes."""
        ...

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write buffers to an offset in bytes."""
        ...

    def flush(self) -> None:
        """What was written before will outlast a loss of power."""
        ...

    def discard(self, offset: int, size: int) -> None:
        """What is there is not needed any more."""
        ...

    def close(self) -> None:
        """Let go of it, when nobody uses it any more."""
        ...


class Empty:
    """A drive without a medium."""

    geometry = Geometry(0)
    can_try = False

    def try_read(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """There is nothing to read."""
        return False

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """There is nothing to read."""
        raise OSError("there is no medium")

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """There is nothing to write to."""
        raise OSError("there is no medium")

    def flush(self) -> None:
        """Nothing waits."""

    def discard(self, offset: int, size: int) -> None:
        """There is nothing to discard."""
        raise OSError("there is no medium")

    def close(self) -> None:
        """Nothing is open."""
