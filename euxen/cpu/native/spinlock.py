"""Spin locks, for what is done in a few instructions. No Python runs while one is held."""

from __future__ import annotations

from euxen.cpu.native.language import cas64, cpu_relax, load64, native, ult, xchg64


@native
def lock(address: int) -> int:
    """Take a lock."""
    while cas64(address, 0, 1) != 0:
        # Only look until it is free: whoever has it needs its cache line.
        while load64(address):
            cpu_relax()
    return 0


@native
def unlock(address: int) -> int:
    """Give a lock back."""
    # An exchange, so that nothing of what was done under the lock is done after it.
    xchg64(address, 0)
    return 0


@native
def lock_both(first: int, second: int) -> int:
    """Take two locks, which may be one, in the order of their addresses: whoever takes two takes them so."""
    lock(first if ult(first, second) else second)
    if first != second:
        lock(second if ult(first, second) else first)
    return 0


@native
def unlock_both(first: int, second: int) -> int:
    """Give both back."""
    unlock(first)
    if first != second:
        unlock(second)
    return 0
