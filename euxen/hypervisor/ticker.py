"""The ticker: a thread that kicks an engine when its time has come.

It sleeps in a native loop, without the GIL, until the deadline in the engine's block; a new and earlier
deadline wakes it through an eventfd.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, call3, call4, load64, native, store32, store64
from euxen.cpu.native.memory import Record
from euxen.hypervisor.clock import SECOND
from euxen.hypervisor.records import TickerRecord
from euxen.hypervisor.time import NEVER, now

POLLIN = 1


@native
def wake(block: int) -> int:
    """``CpuBlock.wake_ticker``: have the ticker look at the deadline now."""
    ticker = load64(block + CpuBlock.ticker)
    store64(ticker + TickerRecord.one, 1)
    return call3(
        load64(ticker + TickerRecord.write), load64(ticker + TickerRecord.eventfd), ticker + TickerRecord.one, 8
    )


@native
def _sleep(ticker: int, duration: int) -> int:
    """Sleep for some ns, or until somebody wakes us."""
    store32(ticker + TickerRecord.pollfd, load64(ticker + TickerRecord.eventfd))
    store32(ticker + TickerRecord.pollfd + 4, POLLIN)
    store64(ticker + TickerRecord.timespec, duration // SECOND)
    store64(ticker + TickerRecord.timespec + 8, duration % SECOND)
    woken = call4(
        load64(ticker + TickerRecord.ppoll), ticker + TickerRecord.pollfd, 1, ticker + TickerRecord.timespec, 0
    )
    if woken & 0xFFFF_FFFF == 1:
        call3(load64(ticker + TickerRecord.read), load64(ticker + TickerRecord.eventfd), ticker + TickerRecord.one, 8)
    return 0


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
            store64(block + CpuBlock.ticker_sleeps_until, deadline)
            again = load64(block + CpuBlock.deadline)
            if again >= deadline or again == kicked_for:
                _sleep(ticker, min(deadline - time, SECOND))
    return 0


class Ticker:
    """The ticker of one engine, as a context manager."""

    def __init__(self, block: Record, machine: int) -> None:
        self._record = Record(TickerRecord)
        self._block = block
        self._machine = machine
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC)
        libc = ctypes.CDLL(None)
        for field in ("read", "write", "ppoll"):
            address = ctypes.cast(libc[field], ctypes.c_void_p).value
            assert address is not None
            self._record[field] = address
        self._record["eventfd"] = self._eventfd
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
        with contextlib.suppress(OSError):
            os.close(self._eventfd)
