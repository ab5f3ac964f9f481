"""Where a machine's time comes from.

Native code asks for it at every read of the time stamp counter, so a clock is a native function.
"""

from __future__ import annotations

import time

from euxen.cpu.native.language import call1, load64, monotonic, native
from euxen.cpu.native.memory import Record
from euxen.hypervisor.records import DomainRecord, MachineRecord, VcpuRecord

SECOND = 1_000_000_000
NEVER = 0x7FFF_FFFF_FFFF_FFFF


@native
def now(machine: int) -> int:
    """System time: ns since the machine was started (NOW)."""
    return call1(load64(machine + MachineRecord.clock), machine)


@native
def now_for(vcpu: int) -> int:
    """System time of the machine that a vCPU is on."""
    return now(load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.machine))


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
