"""Where a machine's time comes from.

Native code asks for it at every read of the time stamp counter, so a clock is a native function.
"""

from __future__ import annotations

import ctypes
import time

from euxen.cpu.native.language import call2, load64, native
from euxen.hypervisor.records import MachineRecord

CLOCK_MONOTONIC = 1
SECOND = 1_000_000_000


@native
def host_clock(machine: int) -> int:
    """System time by the host's monotonic clock, in ns since the machine was made."""
    timespec = machine + MachineRecord.clock_scratch
    call2(load64(machine + MachineRecord.clock_gettime), CLOCK_MONOTONIC, timespec)
    return load64(timespec) * SECOND + load64(timespec + 8) - load64(machine + MachineRecord.clock_start)


class HostClock:
    """Time passes as it does on the host."""

    def install(self, record: dict[str, int]) -> None:
        """Fill in what native code needs to know."""
        libc = ctypes.CDLL(None)
        address = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value
        assert address is not None
        record["clock_gettime"] = address
        record["clock_start"] = time.monotonic_ns()
        record["clock"] = host_clock.address

    def wall_clock(self) -> int:
        """The time of day, in ns since 1970."""
        return time.time_ns()
