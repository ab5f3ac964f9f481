"""The translator's jump cache: which translated block begins at a linear address.

The cache knows addresses only, so what it says of an address space goes with that space. Few of its
blocks do: a log remembers the places of those that are not the kernel's own, and only they are emptied
when the address space changes.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, u64
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import fill, load64, native, shr, store64
from euxen.cpu.unicorn import layout

LOG_ENTRIES = 509
PAGE_MASK = ~0xFFF
ENTRIES_OF_A_PAGE = 64


class Log(Structure):
    """Places in the cache that depend on the address space, each a number below 4096. Ours."""

    count: int = u64()
    entries: int = u64()  # the first of LOG_ENTRIES


LOG_BYTES = Log.size + 8 * (LOG_ENTRIES - 1)


@native
def _place(address: int) -> int:
    """Where in the cache a block is that begins at an address (tb_jmp_cache_hash_func)."""
    mixed = address ^ shr(address, 6)
    return (shr(mixed, 6) & 0xFC0) | (mixed & 63)


@native
def log(block: int, address: int) -> int:
    """Note that the cache will know of a block that is not the kernel's own."""
    record = load64(block + CpuBlock.jump_log)
    count = load64(record)
    if count < LOG_ENTRIES:
        store64(record + Log.entries + count * 8, _place(address))
    store64(record, count + 1)
    return 0


@native
def forget_transient(block: int) -> int:
    """The address space changes: forget the blocks that are not the kernel's own."""
    log = load64(block + CpuBlock.jump_log)
    count = load64(log)
    if count > LOG_ENTRIES:
        forget_all(block)
    else:
        cache = load64(block + CpuBlock.cpu) + layout.CPU_TB_JMP_CACHE
        for i in range(count):
            store64(cache + load64(log + Log.entries + i * 8) * 8, 0)
        store64(log, 0)
    return 0


@native
def forget_all(block: int) -> int:
    """Forget every block."""
    store64(load64(block + CpuBlock.jump_log), 0)
    fill(load64(block + CpuBlock.cpu) + layout.CPU_TB_JMP_CACHE, 0, layout.TB_JMP_CACHE_BYTES)
    return 0


@native
def forget_page(block: int, address: int) -> int:
    """Forget the blocks that may have code from a page: they begin there or in the page before."""
    cache = load64(block + CpuBlock.cpu) + layout.CPU_TB_JMP_CACHE
    page = address & PAGE_MASK
    fill(cache + (_place(page - 4096) & 0xFC0) * 8, 0, ENTRIES_OF_A_PAGE * 8)
    fill(cache + (_place(page) & 0xFC0) * 8, 0, ENTRIES_OF_A_PAGE * 8)
    return 0
