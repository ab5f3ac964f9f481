"""What all clients share: the database, the watches, the domains, and who has something to read.

Nothing here waits, reads a clock or opens anything; what requests do is in ``server``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from euxen.dom0.xenstore.connection import Connection
from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.paths import INTRODUCE_DOMAIN, RELEASE_DOMAIN, Path
from euxen.dom0.xenstore.permissions import Access, Identity
from euxen.dom0.xenstore.quota import Quota
from euxen.dom0.xenstore.transaction import View
from euxen.dom0.xenstore.tree import new_tree
from euxen.dom0.xenstore.watch import Event, WatchTable


class Host(Protocol):
    """What xenstored asks of the machine when domains come and go."""

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """Connect a domain's ring, the page ``gfn``, and its event channel ``port`` to a connection.

        Called again for a domain that has a new event channel. Raises OSError if the page cannot be
        mapped or the channel cannot be bound; INTRODUCE then fails with EINVAL.
        """

    def release(self, domid: int) -> None:
        """Let go of a domain's ring and event channel."""


@dataclass
class Domain:
    """A domain that xenstored talks with."""

    connection: Connection
    gfn: int
    port: int
    shut_down: bool = False
    """Whether @releaseDomain told of its shutdown; RESUME clears it."""


class XenStore:
    """The state of one xenstored.

    ``domain0`` is the connection of Domain 0's own ring. ``host`` may be None where no domain has a
    ring; ``log`` is given lines for people to read.
    """

    def __init__(
        self, *, host: Host | None = None, quota: Quota | None = None, log: Callable[[str], None] = lambda line: None
    ) -> None:
        self.host = host
        self.quota = quota or Quota()
        self.log = log
        self.tree = new_tree()
        self.watches = WatchTable()
        self.domain0 = Connection("D0", Identity(0))
        self.domains = {0: Domain(self.domain0, 0, 0)}
        self._clients = 0
        self._events: list[Event] = []
        self._ready: dict[Connection, None] = {}  # a set that keeps its order

    # Connections

    def connect(self) -> Connection:
        """A new client in Domain 0 beside its ring, such as one that came through a socket."""
        self._clients += 1
        return Connection(f"A{self._clients}", Identity(0))

    def disconnect(self, connection: Connection) -> None:
        """Forget all of a client that is gone."""
        self.forget_session(connection)
        connection.forget_traffic()
        self._ready.pop(connection, None)

    def fail(self, connection: Connection, error: int, why: str) -> None:
        """Stop talking with a client that broke the protocol; ``error`` is one of XENSTORE_ERROR_*."""
        self.disconnect(connection)
        connection.broken = error
        connection.failures += 1
        if connection.failures == 1:  # or it could fill the log, reconnecting and failing again
            self.log(f"{connection.name} is disconnected: {why}")

    def reset(self, connection: Connection) -> None:
        """Bring a client back to where it was when it connected, broken or not."""
        self.disconnect(connection)
        connection.broken = None

    def forget_session(self, connection: Connection) -> None:
        """Drop a client's watches and transactions."""
        self.watches.remove(connection.watches.values())
        connection.watches.clear()
        connection.transactions.clear()

    def may_serve(self, connection: Connection) -> bool:
        """Whether requests of a client are answered; not while it leaves too many replies unread."""
        return connection.broken is None and connection.outstanding < self.quota.outstanding

    def wants_input(self, connection: Connection) -> bool:
        """Whether a transport is to read from a client. If not, the bytes stay where they are.

        So what waits inside is never more than one packet and what one reading brought.
        """
        return self.may_serve(connection) and not connection.reader.has_packet

    def take_ready(self) -> list[Connection]:
        """The connections that got something to send since the last call."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    # Domains

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Start to talk with a domain, or with a known one over a new event channel.

        Raises XenstoreError EINVAL where the host cannot, or the domain is known by another page.
        """
        known = self.domains.get(domid)
        if known is not None and known.gfn != gfn:
            raise XenstoreError("EINVAL")
        connection = known.connection if known else Connection(f"D{domid}", Identity(domid))
        try:
            if self.host is not None:
                self.host.introduce(connection, gfn, port)
        except OSError as error:
            self.log(f"domain {domid} cannot be introduced: {error}")
            raise XenstoreError("EINVAL") from error
        if known is not None:
            known.port = port
        else:
            self.domains[domid] = Domain(connection, gfn, port)
            self._fire_special(INTRODUCE_DOMAIN, domid)

    def release(self, domid: int) -> None:
        """Stop to talk with a domain, and remove what it owns. Raises XenstoreError EINVAL if it is unknown."""
        domain = self.domains.pop(domid, None) if domid != 0 else None
        if domain is None:
            raise XenstoreError("EINVAL")
        self.disconnect(domain.connection)
        for other in self.domains.values():
            if other.connection.identity.target == domid:
                other.connection.identity = replace(other.connection.identity, target=None)
        self.tree = self.tree.without_domain(domid)
        if self.host is not None:
            self.host.release(domid)
        self._fire_special(RELEASE_DOMAIN, domid)

    def domain_shut_down(self, domid: int) -> None:
        """VIRQ_DOM_EXC: a domain crashed, shut down or suspended. It is told once, until RESUME."""
        domain = self.domains.get(domid)
        if domain is not None and not domain.shut_down:
            domain.shut_down = True
            self._fire_special(RELEASE_DOMAIN, domid)
            self.deliver()

    def domain_gone(self, domid: int) -> None:
        """VIRQ_DOM_EXC: a domain is being destroyed. As RELEASE, but a domain unknown here is passed over."""
        if domid in self.domains and domid != 0:
            self.release(domid)
            self.deliver()

    # Events

    def install(self, view: View) -> None:
        """Make a view's tree the database, and have its changes told."""
        before, self.tree = self.tree, view.tree
        self._events += self.watches.told_of(view.changes, before, self.tree)

    def tell(self, event: Event) -> None:
        """Have one event told."""
        self._events.append(event)

    def deliver(self) -> None:
        """Queue what is to be told in the connections that it is for."""
        for event in self._events:
            event.watch.connection.send_event(event, self.quota.watch_events)
            self._ready[event.watch.connection] = None
        self._events.clear()

    def replied(self, connection: Connection) -> None:
        """Note that a reply was queued in a connection, and deliver the events behind it."""
        self._ready[connection] = None
        self.deliver()

    def _fire_special(self, path: Path, domid: int) -> None:
        """Tell of a domain to the watches on a special path, as far as the permissions of its node allow."""
        node = self.tree.find(path)
        assert node is not None, "the nodes of special paths cannot be removed"
        for watch in self.watches.at(path) + self.watches.at((*path, str(domid))):
            if watch.connection.identity.may(Access.READ, node.permissions):
                self.tell(Event(watch, (*path, str(domid)) if watch.depth == 1 else watch.path))
