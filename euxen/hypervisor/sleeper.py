"""Threads that sleep until a time or until somebody wakes them, without the GIL and without losing a wake-up.

Who sleeps says so first, then looks once more whether there is a reason not to, and sleeps. Who has made a reason
looks then whether anybody is asleep. Each step is a full barrier, so one of the two sees the other.
"""

from __future__ import annotations

import ctypes
import os
import weakref

from euxen.cpu.native.language import call3, call4, load64, native, store32, store64, xchg64
from euxen.cpu.native.memory import Record
from euxen.hypervisor.clock import SECOND
from euxen.hypervisor.records import SleeperRecord

POLLIN = 1
LONGEST = 3600 * SECOND


@native
def prepare(sleeper: int) -> int:
    """The caller is about to sleep. It looks for a reason not to after this."""
    xchg64(sleeper + SleeperRecord.asleep, 1)
    return 0


@native
def sleep(sleeper: int, duration: int) -> int:
    """Sleep for some ns, or until somebody wakes us; it may be for nothing."""
    store32(sleeper + SleeperRecord.pollfd, load64(sleeper + SleeperRecord.eventfd))
    store32(sleeper + SleeperRecord.pollfd + 4, POLLIN)
    duration = min(duration, LONGEST)
    store64(sleeper + SleeperRecord.timespec, duration // SECOND)
    store64(sleeper + SleeperRecord.timespec + 8, duration % SECOND)
    ppoll = load64(sleeper + SleeperRecord.ppoll)
    pollfd = sleeper + SleeperRecord.pollfd
    if call4(ppoll, pollfd, 1, sleeper + SleeperRecord.timespec, 0) & 0xFFFF_FFFF == 1:
        eventfd = load64(sleeper + SleeperRecord.eventfd)
        call3(load64(sleeper + SleeperRecord.read), eventfd, sleeper + SleeperRecord.count, 8)
    store64(sleeper + SleeperRecord.asleep, 0)
    return 0


@native
def wake(sleeper: int) -> int:
    """From any thread: let ``sleep`` return, if somebody is there or about to be."""
    if xchg64(sleeper + SleeperRecord.asleep, 0):
        eventfd = load64(sleeper + SleeperRecord.eventfd)
        call3(load64(sleeper + SleeperRecord.write), eventfd, sleeper + SleeperRecord.one, 8)
    return 0


class Sleeper:
    """A place for one thread to sleep. Whoever has its address has to keep it."""

    def __init__(self) -> None:
        self.record = Record(SleeperRecord)
        self.address = self.record.address
        file = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.close = weakref.finalize(self, os.close, file)
        """Close it, if that was not done before. Nobody uses it any more."""
        self.record["eventfd"], self.record["one"] = file, 1
        libc = ctypes.CDLL(None)
        for field in ("read", "write", "ppoll"):
            address = ctypes.cast(libc[field], ctypes.c_void_p).value
            assert address is not None
            self.record[field] = address
