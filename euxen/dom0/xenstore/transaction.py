"""Transactions: requests on a snapshot, which then happen at once or not at all.

A transaction keeps the tree that it started from, its own tree, and each of its requests with the
reply it gave. At its end, where nothing else has changed the database, its tree becomes the
database. Where something has, the same requests are made again on the database as it is now: if
every reply is the same, the client cannot tell that it had not waited till now, so the result is
committed. If one reply differs, the client acted on what is no longer true, and gets EAGAIN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.paths import Path
from euxen.dom0.xenstore.tree import Tree
from euxen.dom0.xenstore.wire import Packet


@dataclass(frozen=True, slots=True)
class Change:
    """One modification, which watches are told of."""

    path: Path
    removal: bool = False
    """Whether everything below the path went too."""


@dataclass
class View:
    """The tree that requests act on, and what they changed in it."""

    tree: Tree
    changes: list[Change] = field(default_factory=list)


Perform = Callable[[View, Packet], Packet]
"""Makes a request on a view and gives its reply."""


class Transaction:
    """One open transaction of one connection."""

    def __init__(self, tree: Tree) -> None:
        self._start = tree
        self._view = View(tree)
        self._done: list[tuple[Packet, Packet]] = []

    @property
    def requests(self) -> int:
        """How many requests were made in it."""
        return len(self._done)

    def perform(self, perform: Perform, request: Packet) -> Packet:
        """Make a request in the transaction."""
        reply = perform(self._view, request)
        self._done.append((request, reply))
        return reply

    def commit(self, current: Tree, perform: Perform) -> View:
        """End it: the tree that is to take the place of ``current``, and the changes between them.

        Raises XenstoreError EAGAIN if the transaction is in conflict with what happened since it
        started. One that changed nothing never is: all it read was true at the same moment.
        """
        if not self._view.changes:
            return View(current)
        if current is self._start:
            return self._view
        view = View(current)
        for request, reply in self._done:
            if perform(view, request) != reply:
                raise XenstoreError("EAGAIN")
        return view
