"""What becomes of domains, for Domain 0's daemons and tools: VIRQ_DOM_EXC, and a look at each domain behind it."""

from __future__ import annotations

import enum
from collections.abc import Callable

from euxen.abi.domctl import XEN_DOMINF_dying, XEN_DOMINF_shutdown
from euxen.abi.xen import VIRQ_DOM_EXC
from euxen.dom0.evtchn import Evtchn
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError


class Fate(enum.Enum):
    """What a domain is, as far as its daemons care."""

    ALIVE = enum.auto()
    SHUT_DOWN = enum.auto()
    """It ended itself, crashed or suspended itself, and is there."""
    GONE = enum.auto()
    """It was destroyed, or there never was one: let go of what it had."""


class DomainEvents:
    """Tells listeners that domains may have changed. The port for that is open while there is a listener."""

    def __init__(self, control: Control, events: Evtchn) -> None:
        self._control = control
        self._events = events
        self._listeners: list[Callable[[], None]] = []
        self._port = 0

    def add(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, in any thread, with the machine's lock, when a domain has shut down or died."""
        with self._control.lock:
            if not self._listeners:
                self._port = self._events.bind_virq(VIRQ_DOM_EXC, self.tell)
            self._listeners.append(listener)

    def remove(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._control.lock:
            self._listeners.remove(listener)
            if not self._listeners:
                self._events.unbind(self._port)

    def tell(self) -> None:
        """Call the listeners now: who has destroyed a domain need not wait for the interrupt."""
        with self._control.lock:
            for listener in list(self._listeners):
                listener()

    def fate_of(self, domid: int) -> Fate:
        """What has become of a domain."""
        try:
            info = self._control.domain_info(domid)
        except XenError:
            return Fate.GONE
        if info.domain != domid or info.flags & XEN_DOMINF_dying:
            return Fate.GONE
        return Fate.SHUT_DOWN if info.flags & XEN_DOMINF_shutdown else Fate.ALIVE
