"""Domain 0's daemons at work: xenstored and the console back end, connected with guests.

An event arrives in whatever thread its sender runs in; the machine's lock makes them one at a time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from euxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from euxen.dom0.console.ring import ConsoleRing
from euxen.dom0.xenstore import Connection, XenStore, XenStoreRing
from euxen.dom0.xenstore_client import XenStoreClient
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.granted import GrantedPages
from euxen.hypervisor.hypervisor import Control


@dataclass
class _Xenstored:
    """The host that xenstored runs on: it maps rings and binds event channels in Domain 0's name."""

    control: Control
    rings: dict[int, XenStoreRing]
    pages: dict[int, GrantedPages]
    store: XenStore | None = None

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """Connect a guest's ring."""
        domid = connection.identity.domid
        assert self.store is not None
        try:
            local = self.control.bind_interdomain(domid, port, lambda: self._serve(domid))
            page = self.control.map_grants(domid, [GNTTAB_RESERVED_XENSTORE])
        except XenError as error:
            raise OSError(error.errno, str(error)) from error
        except GrantError as error:
            raise OSError(errno.EINVAL, str(error)) from error
        self.pages[domid] = page
        self.rings[domid] = XenStoreRing(self.store, connection, page.pages[0], lambda: self.control.notify(local))

    def release(self, domid: int) -> None:
        """Let go of a guest's ring."""
        self.rings.pop(domid).close()
        self.pages.pop(domid).unmap()

    def _serve(self, domid: int) -> None:
        ring = self.rings.get(domid)
        if ring is not None:
            ring.service()
            self.flush()

    def flush(self) -> None:
        """Send answers, and the watch events that one client's request caused for others."""
        assert self.store is not None
        for connection in self.store.take_ready():
            ring = self.rings.get(connection.identity.domid)
            if ring is not None and ring.connection is connection:
                ring.flush()


class Services:
    """The daemons of Domain 0."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self._xenstored = _Xenstored(control, {}, {})
        self.store = self._xenstored.store = XenStore(host=self._xenstored)
        self.xenstore = XenStoreClient(self.store, self._xenstored.flush)
        """For tools in Domain 0."""
        self.consoles: dict[int, ConsoleRing] = {}
        self._console_pages: dict[int, GrantedPages] = {}
        self.xenstore.write("/tool/xenstored", "")

    def attach_console(self, domid: int, port: int, wake: Callable[[], None]) -> ConsoleRing:
        """Serve a guest's console ring, which it lends by the reference that is reserved for it.

        Raises XenError or GrantError.

        ``wake`` is called, in any thread, when there may be something to ``receive``. What is not received stays in
        the ring, and the guest waits: nothing grows here however much it writes.
        """
        local = self.control.bind_interdomain(domid, port, wake)
        page = self._console_pages[domid] = self.control.map_grants(domid, [GNTTAB_RESERVED_CONSOLE])
        ring = ConsoleRing(page.pages[0], lambda: self.control.notify(local))
        self.consoles[domid] = ring
        return ring

    def detach_console(self, domid: int) -> None:
        """The guest is gone."""
        if self.consoles.pop(domid, None) is not None:
            self._console_pages.pop(domid).unmap()
