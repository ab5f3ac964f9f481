"""How much a guest may send: a credit of so many bytes every so many microseconds.

Source: tx_add_credit and tx_credit_exceeded in drivers/net/xen-netback/netback.c of Linux. Pure: time is told.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_BURST = 131072
"""Bytes that can be saved up at least, so that the largest packet can be sent at all."""
MICROSECONDS = 1e6


@dataclass(frozen=True)
class Rate:
    """What is in the node ``rate``."""

    size: int
    """Bytes."""
    period: int
    """Microseconds."""


def parse_rate(text: str | None) -> Rate | None:
    """Read ``BYTES,MICROSECONDS``; None where there is no limit, or no sense in it (xen_net_read_rate)."""
    size, comma, period = (text or "").partition(",")
    if not comma or not all(part.isascii() and part.isdecimal() for part in (size, period)):
        return None
    return Rate(int(size), int(period)) if int(size) and int(period) else None


class Credit:
    """What is left of a credit."""

    def __init__(self, rate: Rate, now: float) -> None:
        """``now`` is in seconds."""
        self._rate = rate
        self._window = now
        self.bytes = rate.size
        """That may be sent now."""

    def wait(self, wanted: int, now: float) -> float:
        """Seconds until there may be as much as is wanted; 0 when ``bytes`` has been renewed, or is enough."""
        renewal = self._window + self._rate.period / MICROSECONDS
        if wanted <= self.bytes:
            return 0.0
        if now < renewal:
            return renewal - now
        self._window = now
        burst = max(MIN_BURST, self._rate.size)
        self.bytes = min(self.bytes + self._rate.size, burst)
        if wanted <= self.bytes:
            return 0.0
        return self._rate.period / MICROSECONDS
