"""Domain 0's daemons at work: xenstored, the console back end and those on XenBus, connected with guests.

Events arrive in a thread of their own; the machine's lock makes them and the tools one at a time.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from euxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from euxen.dom0.backends.block.backend import block_drivers
from euxen.dom0.backends.net.backend import net_drivers
from euxen.dom0.console.ring import ConsoleRing
from euxen.dom0.domain_events import DomainEvents, Fate
from euxen.dom0.evtchn import Evtchn
from euxen.dom0.net.networks import Networks
from euxen.dom0.xenbus.bus import BackendBus, Make
from euxen.dom0.xenstore import Connection, XenStore, XenStoreRing
from euxen.dom0.xenstore_client import XenStoreClient
from euxen.dom0.xenstore_socket import XenStoreSocket
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.granted import GrantedPages


@dataclass
class _Xenstored:
    """The host that xenstored runs on: it maps rings and binds event channels in Domain 0's name."""

    control: Control
    events: Evtchn
    domain_events: DomainEvents

    def __post_init__(self) -> None:
        self.rings: dict[int, XenStoreRing] = {}
        self._pages: dict[int, GrantedPages] = {}
        self._ports: dict[int, int] = {}
        self.socket: XenStoreSocket | None = None
        self.client: XenStoreClient | None = None
        """The one in Domain 0 itself."""
        self.store = XenStore(host=self)

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """Connect a guest's ring."""
        domid = connection.identity.domid
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
        if not self.rings:
            self.domain_events.add(self._domains_changed)
        self._pages[domid], self._ports[domid] = page, local
        self.rings[domid] = XenStoreRing(self.store, connection, page.pages[0], lambda: self.events.notify(local))

    def release(self, domid: int) -> None:
        """Let go of a guest's ring."""
        self.events.unbind(self._ports.pop(domid))
        self.rings.pop(domid).close()
        self._pages.pop(domid).unmap()
        if not self.rings:
            self.domain_events.remove(self._domains_changed)

    def _domains_changed(self) -> None:
        """VIRQ_DOM_EXC (domain_cleanup in tools/xenstore/xenstored_domain.c)."""
        for domid in list(self.rings):
            fate = self.domain_events.fate_of(domid)
            if fate is Fate.GONE:
                self.store.domain_gone(domid)
            elif fate is Fate.SHUT_DOWN:
                self.store.domain_shut_down(domid)
        self.flush()

    def _serve(self, domid: int) -> bool:
        ring = self.rings.get(domid)
        again = ring is not None and ring.service()
        self.flush()
        return again

    def flush(self) -> None:
        """Send answers, and the watch events that one client's request caused for others."""
        for connection in self.store.take_ready():
            ring = self.rings.get(connection.identity.domid)
            if ring is not None and ring.connection is connection:
                ring.flush()
            elif self.client is not None and self.client.connection is connection:
                self.client.take_events()
            elif self.socket is not None:
                self.socket.flush(connection)


@dataclass
class _Console:
    """What the console back end has of a guest."""

    ring: ConsoleRing
    page: GrantedPages
    port: int


class Services:
    """The daemons of Domain 0."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.events = Evtchn(control)
        self.domain_events = DomainEvents(control, self.events)
        self._xenstored = _Xenstored(control, self.events, self.domain_events)
        self.store = self._xenstored.store
        self.xenstore = XenStoreClient(self.store, self._xenstored.flush, control.lock)
        """For tools in Domain 0."""
        self._xenstored.client = self.xenstore
        self._consoles: dict[int, _Console] = {}
        self.xenstore.write("/tool/xenstored", "")
        self.networks = Networks(control, self.log)
        drivers: dict[str, Make] = {
            **block_drivers(control, self.events, self.log),
            **net_drivers(control, self.events, self.networks, self.log),
        }
        self.backends = BackendBus(self.xenstore, drivers, self.log)
        """Whatever the toolstack puts below Domain 0's ``backend`` directory."""

    def log(self, line: str) -> None:
        """Say something on Xen's console, from any thread."""
        with self.control.lock:
            self.control.console_write(f"{line}\n")

    @property
    def consoles(self) -> dict[int, ConsoleRing]:
        """The console rings, by domid."""
        return {domid: console.ring for domid, console in self._consoles.items()}

    def xenstored_socket(self, path: Path) -> XenStoreSocket:
        """Let tools talk with xenstored through a Unix socket, until that is closed. Raises OSError."""
        self._xenstored.socket = XenStoreSocket(self.store, path, self.control.lock, self._xenstored.flush)
        return self._xenstored.socket

    @contextlib.contextmanager
    def watching_domains(self, changed: Callable[[], None]) -> Iterator[None]:
        """Have ``changed`` called, in any thread, whenever a domain has shut down, or has died."""
        self.domain_events.add(changed)
        try:
            yield
        finally:
            self.domain_events.remove(changed)

    def attach_console(self, domid: int, port: int, wake: Callable[[], None]) -> ConsoleRing:
        """Serve a guest's console ring, which it lends by the reference that is reserved for it, until it is gone.

        Raises XenError or GrantError.

        ``wake`` is called, in any thread, when there may be something to ``receive``. What is not received stays in
        the ring, and the guest waits: nothing grows here however much it writes.
        """
        with self.control.lock:
            page = self.control.map_grants(domid, [GNTTAB_RESERVED_CONSOLE])
            try:
                local = self.events.bind_interdomain(domid, port, wake)
            except XenError:
                page.unmap()
                raise
            if not self._consoles:
                self.domain_events.add(self._drop_consoles)
            console = self._consoles[domid] = _Console(
                ConsoleRing(page.pages[0], lambda: self.events.notify(local)), page, local
            )
            return console.ring

    def _drop_consoles(self) -> None:
        """Let go of the consoles of domains that are gone."""
        for domid in [domid for domid in self._consoles if self.domain_events.fate_of(domid) is Fate.GONE]:
            console = self._consoles.pop(domid)
            console.ring.close()
            self.events.unbind(console.port)
            console.page.unmap()
            if not self._consoles:
                self.domain_events.remove(self._drop_consoles)
