"""Spin locks: whoever waits for one gets it when it is free, and no two have it."""

from __future__ import annotations

import threading

from euxen.cpu.native import spinlock
from euxen.cpu.native.memory import Memory

ROUNDS = 2000
PATIENCE = 20.0


def test_whoever_waits_gets_it(native: None) -> None:
    memory = Memory(8)
    spinlock.lock(memory.address)
    waiting = threading.Thread(target=spinlock.lock, args=(memory.address,), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    spinlock.unlock(memory.address)
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert memory.words()[0] == 1


def test_one_at_a_time(native: None) -> None:
    memory, count = Memory(8), [0]

    def add() -> None:
        for _ in range(ROUNDS):
            spinlock.lock(memory.address)
            before = count[0]
            count[0] = before + 1
            spinlock.unlock(memory.address)

    threads = [threading.Thread(target=add, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert count == [3 * ROUNDS]
