"""Domain 0's daemons at work: xenstored, the console back end and those on XenBus, connected with guests.

Events arrive in a thread of their own; the machine's lock makes them and the tools one at a time.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from euxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from euxen.abi.xen import VIRQ_DOM_EXC
from euxen.dom0.backends.block.backend import block_drivers
from euxen.dom0.console.ring import ConsoleRing
from euxen.dom0.evtchn import Evtchn
from euxen.dom0.xenbus.bus import BackendBus
from euxen.dom0.xenstore import Connection, XenStore, XenStoreRing
from euxen.dom0.xenstore_client import XenStoreClient
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.granted import GrantedPages


@dataclass
class _Xenstored:
    """The host that xenstored runs on: it maps rings and binds event channels in Domain 0's name."""

    control: Control
    events: Evtchn
    rings: dict[int, XenStoreRing] = field(default_factory=dict)
    pages: dict[int, GrantedPages] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    store: XenStore | None = None
    client: XenStoreClient | None = None
    """The one in Domain 0 itself."""

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """Connect a guest's ring."""
        domid = connection.identity.domid
        assert self.store is not None
        try:
            page = self.control.map_grants(domid, [GNTTAB_RESERVED_XENSTORE])
            try:
                local = self.events.bind_interdomain(domid, port, lambda: self._serve(domid))
            except XenError:
                page.unmap()
                raise
        except XenError as error:
            raise OSError(error.errno, str(error)) from error
        except GrantError as error:
            raise OSError(errno.EINVAL, str(error)) from error
        self.pages[domid], self.ports[domid] = page, local
        self.rings[domid] = XenStoreRing(self.store, connection, page.pages[0], lambda: self.events.notify(local))

    def release(self, domid: int) -> None:
        """Let go of a guest's ring."""
        self.events.unbind(self.ports.pop(domid))
        self.rings.pop(domid).close()
        self.pages.pop(domid).unmap()

    def _serve(self, domid: int) -> bool:
        ring = self.rings.get(domid)
        again = ring is not None and ring.service()
        self.flush()
        return again

    def flush(self) -> None:
        """Send answers, and the watch events that one client's request caused for others."""
        assert self.store is not None
        for connection in self.store.take_ready():
            ring = self.rings.get(connection.identity.domid)
            if ring is not None and ring.connection is connection:
                ring.flush()
            elif self.client is not None and self.client.connection is connection:
                self.client.take_events()


class Services:
    """The daemons of Domain 0."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.events = Evtchn(control)
        self._xenstored = _Xenstored(control, self.events)
        self.store = self._xenstored.store = XenStore(host=self._xenstored)
        self.xenstore = XenStoreClient(self.store, self._xenstored.flush, control.lock)
        """For tools in Domain 0."""
        self._xenstored.client = self.xenstore
        self.consoles: dict[int, ConsoleRing] = {}
        self._console_pages: dict[int, GrantedPages] = {}
        self._console_ports: dict[int, int] = {}
        self.xenstore.write("/tool/xenstored", "")
        self._watchers: list[Callable[[], None]] = []
        self._dom_exc_port = 0
        self.backends = BackendBus(self.xenstore, block_drivers(control, self.events, self.log), self.log)
        """Whatever the toolstack puts below Domain 0's ``backend`` directory."""

    def log(self, line: str) -> None:
        """Say something on Xen's console, from any thread."""
        with self.control.lock:
            self.control.console_write(f"{line}\n")

    @contextlib.contextmanager
    def watching_domains(self, changed: Callable[[], None]) -> Iterator[None]:
        """Have ``changed`` called, in any thread, whenever a domain has shut down, or has died (VIRQ_DOM_EXC)."""
        with self.control.lock:
            if not self._watchers:
                self._dom_exc_port = self.events.bind_virq(VIRQ_DOM_EXC, self._tell_watchers)
            self._watchers.append(changed)
        try:
            yield
        finally:
            with self.control.lock:
                self._watchers.remove(changed)
                if not self._watchers:
                    self.events.unbind(self._dom_exc_port)

    def _tell_watchers(self) -> None:
        for changed in list(self._watchers):
            changed()

    def attach_console(self, domid: int, port: int, wake: Callable[[], None]) -> ConsoleRing:
        """Serve a guest's console ring, which it lends by the reference that is reserved for it.

        Raises XenError or GrantError.

        ``wake`` is called, in any thread, when there may be something to ``receive``. What is not received stays in
        the ring, and the guest waits: nothing grows here however much it writes.
        """
        with self.control.lock:
            page = self._console_pages[domid] = self.control.map_grants(domid, [GNTTAB_RESERVED_CONSOLE])
            try:
                local = self._console_ports[domid] = self.events.bind_interdomain(domid, port, wake)
            except XenError:
                self._console_pages.pop(domid).unmap()
                raise
            ring = ConsoleRing(page.pages[0], lambda: self.events.notify(local))
            self.consoles[domid] = ring
            return ring

    def detach_console(self, domid: int) -> None:
        """The guest is gone."""
        with self.control.lock:
            if self.consoles.pop(domid, None) is not None:
                self.events.unbind(self._console_ports.pop(domid))
                self._console_pages.pop(domid).unmap()

    def domain_gone(self, domid: int) -> None:
        """xenstored lets go of a guest's ring and its connection."""
        with self.control.lock:
            self.store.domain_gone(domid)
