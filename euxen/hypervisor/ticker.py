"""The ticker: a thread that kicks an engine when its time has come.

It sleeps in a native loop, without the GIL, until the deadline in the engine's block; a new and earlier
deadline wakes it.
"""

from __future__ import annotations

import threading

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, load64, native, xchg64
from euxen.cpu.native.memory import Record
from euxen.hypervisor import sleeper
from euxen.hypervisor.clock import SECOND
from euxen.hypervisor.records import TickerRecord
from euxen.hypervisor.sleeper import Sleeper
from euxen.hypervisor.time import NEVER, now


@native
def wake(block: int) -> int:
    """``CpuBlock.wake_ticker``: have the ticker look at the deadline now."""
    return sleeper.wake(load64(load64(block + CpuBlock.ticker) + TickerRecord.sleeper))


@native
def tick(block: int, machine: int) -> int:
    """Kick the engine at each of its deadlines, until told to stop."""
    ticker = load64(block + CpuBlock.ticker)
    kicked_for = -1
    while load64(ticker + TickerRecord.stop) == 0:
        deadline = load64(block + CpuBlock.deadline)
        if deadline == kicked_for:
            deadline = NEVER  # it has been told; a new deadline will follow
        time = now(machine)
        if deadline <= time:
            kicked_for = deadline
            call1(load64(block + CpuBlock.kick), block)
        else:
            sleeper.prepare(load64(ticker + TickerRecord.sleeper))
            # Who sets a deadline looks at this after that: one of us sees the other.
            xchg64(block + CpuBlock.ticker_sleeps_until, deadline)
            again = load64(block + CpuBlock.deadline)
            if load64(ticker + TickerRecord.stop) == 0 and (again >= deadline or again == kicked_for):
                sleeper.sleep(load64(ticker + TickerRecord.sleeper), min(deadline - time, SECOND))
    return 0


class Ticker:
    """The ticker of one engine, as a context manager."""

    def __init__(self, block: Record, machine: int) -> None:
        self._record = Record(TickerRecord)
        self._block = block
        self._machine = machine
        self._sleeper = Sleeper()
        self._record["sleeper"] = self._sleeper.address
        block["ticker"], block["wake_ticker"] = self._record.address, wake.address
        block["deadline"] = block["ticker_sleeps_until"] = NEVER
        self._thread = threading.Thread(target=tick, args=(block.address, machine), name="euxen-ticker", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._record["stop"] = 1
        wake(self._block.address)
        self._thread.join()
