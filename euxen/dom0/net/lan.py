"""A bridge at work: batches of packets come through ports and leave through others.

Everything that happens to a bridge and its ports happens under one lock, the bridge's. Whoever has it may take the
machine's, and never the other way round.
"""

from __future__ import annotations

import ctypes
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Protocol

from euxen.abi.grant_table import GNTST_okay
from euxen.abi.structure import Structure, u64
from euxen.cpu.native import spinlock
from euxen.cpu.native.memory import Memory, Record
from euxen.dom0.net.bridge import Bridge
from euxen.dom0.net.copying import Copier, gather
from euxen.dom0.net.packet import MAX_FRAME, STRIDE, NetPacket, runs, word_at
from euxen.dom0.net.segmentation import MAX_SEGMENTS
from euxen.hypervisor.control import Control

WORKSHOP_ORDER = 6
"""256 KiB: a packet as it came, and room for what it is divided into."""
FIRST_HALF = 1 << 16


class LanRecord(Structure):
    """What native code knows of a bridge."""

    lock: int = u64()  # who changes or uses its ports has it; native code only tries to take it
    generation: int = u64()  # changes when a packet may go elsewhere than before


class LanLock:
    """A bridge's lock: one for threads that wait, and a spin lock behind it for native code, which does not."""

    def __init__(self, record: Record) -> None:
        self._lock = threading.Lock()
        self._address = record.address + LanRecord.offsetof("lock")

    def __enter__(self) -> None:
        self._lock.acquire()
        spinlock.lock(self._address)

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        spinlock.unlock(self._address)
        self._lock.release()


class Port(ABC):
    """One way into a bridge and out of it."""

    name: str
    """As an interface is called: "vif1.0"."""

    @abstractmethod
    def send(self, packets: int, count: int, source: Port) -> None:
        """A batch leaves through this port that came through another. With the bridge's lock."""

    def learned(self, header: int, target: Port) -> None:  # noqa: B027 most ports have no use for it
        """Packets that begin like one, and come through this port, all go to another. With the lock.

        The bridge wants to be asked again when its record's generation has changed, and now and then, as it forgets
        the addresses that it does not see.
        """


class Workshop:
    """Memory of Domain 0's own in which packets are looked at and changed. Used under one lock."""

    def __init__(self, control: Control) -> None:
        """Raises XenError."""
        self._control = control
        self._pages = control.allocate_pages(WORKSHOP_ORDER)
        self.copier = Copier(control)
        self._packets = Memory(MAX_SEGMENTS * NetPacket.size)
        self.packets = self._packets.address
        """Room for MAX_SEGMENTS packets."""
        self.machine_address = self._pages.machine_address
        self.address = self._pages.address
        """A packet that was brought in begins here; what is made of it, FIRST_HALF behind."""
        self.room = self._pages.size - FIRST_HALF

    def bring(self, packet: int) -> int:
        """Copy a packet to the first half; its size, or 0 if its sender took the pages away."""
        size = min(word_at(packet, NetPacket.size_), MAX_FRAME)
        if gather(self.copier.address, packet, self.machine_address, size) != GNTST_okay:
            return 0
        return size

    def bytes_of(self, packet: int) -> bytes:
        """A copy of a packet; empty if its sender took the pages away."""
        return ctypes.string_at(self.address, self.bring(packet))

    def close(self) -> None:
        """Give the memory back."""
        self._control.free_pages(self._pages)


class Capture(Protocol):
    """Who listens."""

    def write(self, time: int, frames: list[bytes]) -> None:
        """Frames passed, at a time in ns since 1970."""
        ...


class Lan:
    """A bridge, the ports that it joins, and who listens."""

    def __init__(
        self,
        control: Control,
        name: str,
        captures: Mapping[str, Capture] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``captures`` are of this bridge or of ports, by their names; they may come and go.

        Raises XenError where Domain 0 has no memory for it.
        """
        self.name = name
        self.record = Record(LanRecord)
        self.lock = LanLock(self.record)
        self.workshop = Workshop(control)
        self._bridge: Bridge[Port] = Bridge()
        self._clock = clock
        self._captures = captures

    @property
    def ports(self) -> tuple[Port, ...]:
        """All ports."""
        with self.lock:
            return self._bridge.ports

    def add(self, port: Port) -> None:
        """Join a port."""
        with self.lock:
            self._bridge.add(port)
            self.changed()

    def remove(self, port: Port) -> None:
        """Take a port away: it is not called any more."""
        with self.lock:
            self._bridge.remove(port)
            self.changed()

    def changed(self) -> None:
        """Packets may go elsewhere than before. With the lock."""
        self.record["generation"] += 1

    def receive(self, port: Port, packets: int, count: int) -> None:
        """A batch came through a port. With the lock."""
        now = self._clock()
        if self._captures:
            self._capture((self.name, port.name), packets, count)
        for first, length, addresses in runs(packets, count):
            changes = self._bridge.changes
            targets = self._bridge.route(port, addresses, now)
            if self._bridge.changes != changes:
                self.changed()
            if len(targets) == 1 and not self._captures:
                port.learned(word_at(first, NetPacket.header), targets[0])
            for target in targets:
                if self._captures:
                    self._capture((target.name,), first, length)
                target.send(first, length, port)

    def _capture(self, names: tuple[str, ...], packets: int, count: int) -> None:
        for name in names:
            writer = self._captures.get(name)
            if writer is None:
                continue
            records = (packets + number * STRIDE for number in range(count))
            frames = [self.workshop.bytes_of(record) for record in records if not word_at(record, NetPacket.mcast)]
            writer.write(time.time_ns(), list(filter(None, frames)))

    def close(self) -> None:
        """Nobody uses the bridge any more."""
        self.workshop.close()
