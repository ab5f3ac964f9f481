"""Where a machine's time comes from.

Native code asks for it at every read of the time stamp counter, so a clock is a native function.
"""

from __future__ import annotations

import time

from euxen.cpu.native.language import load64, monotonic, native
from euxen.cpu.native.memory import Record
from euxen.hypervisor.records import MachineRecord

SECOND = 1_000_000_000


@native
def host_clock(machine: int) -> int:
    """System time by the host's monotonic clock, in ns since the machine was made."""
    return monotonic() - load64(machine + MachineRecord.clock_start)


class HostClock:
    """Time passes as it does on the host."""

    def install(self, record: Record) -> None:
        """Start it for the machine of this MachineRecord."""
        record["clock"], record["clock_start"] = host_clock.address, time.monotonic_ns()

    def wall_clock(self) -> int:
        """The time of day, in ns since 1970."""
        return time.time_ns()
