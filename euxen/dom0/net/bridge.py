"""An Ethernet bridge: which ports a frame leaves through. IEEE 802.1D, clause 7, without the spanning tree.

Pure: frames have only their addresses here, ports are anything, and time is told by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Port = TypeVar("Port")

AGEING_TIME = 300.0
"""Seconds after which an address is forgotten that was not seen."""
MAX_ADDRESSES = 4096
"""How many addresses are remembered: who sends from more has the others' frames flooded."""
MAX_ADDRESSES_OF_PORT = 1024
"""And how many behind one port, so that no guest can take them all."""
REFRESH = 1.0
"""Seconds within which an address that is seen again need not be noted."""
GROUP = 1
"""Bit of an address's first byte: it is that of a group."""
RESERVED = bytes.fromhex("0180c20000")
"""Groups of the link itself, 01-80-C2-00-00-00 to -0F: never forwarded."""


@dataclass(slots=True)
class _Entry(Generic[Port]):
    port: Port
    seen: float


class Bridge(Generic[Port]):
    """Joins ports."""

    def __init__(self) -> None:
        self._ports: list[Port] = []
        self._table: dict[bytes, _Entry[Port]] = {}
        self._counts: dict[Port, int] = {}
        self._last_sweep = 0.0
        self.changes = 0
        """Counts how often an address was found behind a port where it was not before."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """All ports, in the order in which they came."""
        return tuple(self._ports)

    def add(self, port: Port) -> None:
        """Join a port."""
        self._ports.append(port)
        self._counts[port] = 0

    def remove(self, port: Port) -> None:
        """Take a port away, and forget what is behind it."""
        self._ports.remove(port)
        del self._counts[port]
        for address in [address for address, entry in self._table.items() if entry.port is port]:
            del self._table[address]

    def route(self, port: Port, addresses: bytes, now: float) -> tuple[Port, ...]:
        """Where a frame goes that came through a port: its first 12 bytes are ``addresses``, ``now`` is in seconds."""
        destination, source = addresses[:6], addresses[6:12]
        if source[0] & GROUP or not any(source):
            return ()
        entry = self._table.get(source)
        if entry is None or entry.port is not port or now - entry.seen > REFRESH:
            self._learn(port, source, entry, now)
        if destination[0] & GROUP:
            if destination.startswith(RESERVED) and destination[5] < 0x10:
                return ()
        else:
            entry = self._table.get(destination)
            if entry is not None and now - entry.seen <= AGEING_TIME:
                return () if entry.port is port else (entry.port,)
        return tuple(other for other in self._ports if other is not port)

    def _learn(self, port: Port, source: bytes, entry: _Entry[Port] | None, now: float) -> None:
        if entry is not None:
            if entry.port is not port:
                self._counts[entry.port] -= 1
                self._counts[port] += 1
                entry.port = port
                self.changes += 1
            entry.seen = now
            return
        full = len(self._table) >= MAX_ADDRESSES or self._counts[port] >= MAX_ADDRESSES_OF_PORT
        if full and now - self._last_sweep > REFRESH:
            self._last_sweep = now
            self._sweep(now)
            full = len(self._table) >= MAX_ADDRESSES or self._counts[port] >= MAX_ADDRESSES_OF_PORT
        if not full:
            self._table[source] = _Entry(port, now)
            self._counts[port] += 1
            self.changes += 1

    def _sweep(self, now: float) -> None:
        """Forget what was not seen for long."""
        for address in [address for address, entry in self._table.items() if now - entry.seen > AGEING_TIME]:
            self._counts[self._table.pop(address).port] -= 1

    def addresses(self, now: float) -> dict[bytes, Port]:
        """What is known of who is where (``bridge fdb``)."""
        return {address: e.port for address, e in self._table.items() if now - e.seen <= AGEING_TIME}
