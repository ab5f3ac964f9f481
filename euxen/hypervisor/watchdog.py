"""Watchdogs of a domain: it is ended if it does not poke them in time. Source: domain_watchdog in
xen/common/sched/core.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from euxen.abi.errno import XEN_EINVAL, XEN_ENOSPC
from euxen.abi.sched import SHUTDOWN_watchdog
from euxen.hypervisor.errors import XenError

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

NR_DOMAIN_WATCHDOG_TIMERS = 2
SECOND = 1_000_000_000


class Watchdogs:
    """Those of one domain. The CPU that runs it looks at them when the first is due."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._deadlines: dict[int, int] = {}

    def set(self, number: int, timeout: int) -> int:
        """SCHEDOP_watchdog: make one for number 0 and return its number, poke one, or stop it with a timeout of 0.

        ``timeout`` is in seconds. Raises XenError.
        """
        deadline = self._domain.machine.now() + timeout * SECOND
        if number == 0:
            number = self._make()
            self._deadlines[number] = deadline
            self._tell()
            return number
        if number not in self._deadlines:
            raise XenError(XEN_EINVAL)
        if timeout:
            self._deadlines[number] = deadline
        else:
            del self._deadlines[number]
        self._tell()
        return 0

    def _make(self) -> int:
        for number in range(1, NR_DOMAIN_WATCHDOG_TIMERS + 1):
            if number not in self._deadlines:
                return number
        raise XenError(XEN_ENOSPC)

    def _tell(self) -> None:
        """Let native code know when the first is due; 0 is never."""
        self._domain.record["watchdog_deadline"] = min(self._deadlines.values(), default=0)

    @property
    def remaining(self) -> float | None:
        """How many seconds it takes until one is due; None if there is none."""
        deadline = self._domain.record["watchdog_deadline"]
        return max(0, deadline - self._domain.machine.now()) / SECOND if deadline else None

    def check(self) -> None:
        """End the domain if one is due."""
        deadline = self._domain.record["watchdog_deadline"]
        if deadline and not self._domain.is_shut_down and self._domain.machine.now() >= deadline:
            self._domain.machine.printk(f"Watchdog timer fired for domain {self._domain.domid}")
            self._domain.shutdown(SHUTDOWN_watchdog)
