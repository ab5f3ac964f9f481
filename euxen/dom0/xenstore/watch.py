"""Watches: who is told of which change, in which order, and by which path.

A change is told to the watches on its path and on every path above it, the root's first; a removal
also to the watches below it, since what they watch went too. On one path the newest watch is first.
Specified in docs/misc/xenstore.txt, "Watches".
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from euxen.dom0.xenstore.paths import Path, unparse, unparse_relative
from euxen.dom0.xenstore.permissions import Access, Identity
from euxen.dom0.xenstore.transaction import Change
from euxen.dom0.xenstore.tree import Tree

if TYPE_CHECKING:
    from euxen.dom0.xenstore.connection import Connection


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One watch of one connection."""

    connection: Connection = field(repr=False)
    path: Path
    token: bytes
    relative: bool
    """Whether the client gave a relative path, and so wants relative ones back."""
    depth: int | None = None
    """How many levels below ``path`` it reaches; None for all."""

    def payload(self, path: Path) -> bytes:
        """The payload of a WATCH_EVENT for a change at ``path``, which is at or below the watch's own."""
        told = unparse_relative(path, self.connection.identity.domid) if self.relative else unparse(path)
        return told + b"\0" + self.token + b"\0"


@dataclass(frozen=True, slots=True)
class Event:
    """One change as one watch is told of it."""

    watch: Watch
    path: Path


class WatchTable:
    """The watches of all connections."""

    def __init__(self) -> None:
        self._at: dict[Path, list[Watch]] = {}
        self._paths: list[Path] = []  # the keys, sorted, so that those below a path stand together

    def add(self, watch: Watch) -> None:
        """Set up a watch; its connection has seen to it that there is no other like it."""
        if watch.path not in self._at:
            self._at[watch.path] = []
            insort(self._paths, watch.path)
        self._at[watch.path].insert(0, watch)

    def remove(self, watches: Iterable[Watch]) -> None:
        """Take watches away that are there."""
        for watch in watches:
            self._at[watch.path].remove(watch)
            if not self._at[watch.path]:
                del self._at[watch.path]
                del self._paths[bisect_left(self._paths, watch.path)]

    def at(self, path: Path) -> list[Watch]:
        """The watches on exactly this path."""
        return list(self._at.get(path, ()))

    def told_of(self, changes: Iterable[Change], before: Tree, after: Tree) -> Iterator[Event]:
        """The events of changes that led from one tree to another."""
        for change in changes:
            for event in self._matching(change):
                if _visible(event.watch.connection.identity, event.path, (before, after)):
                    yield event

    def _matching(self, change: Change) -> Iterator[Event]:
        for length in range(len(change.path) + 1):
            for watch in self._at.get(change.path[:length], ()):
                if watch.depth is None or len(change.path) - length <= watch.depth:
                    yield Event(watch, change.path)
        if change.removal:
            for path in self._below(change.path):
                for watch in self._at[path]:
                    yield Event(watch, path)

    def _below(self, top: Path) -> list[Path]:
        first = last = bisect_left(self._paths, (*top, ""))
        while last < len(self._paths) and self._paths[last][: len(top)] == top:
            last += 1
        return self._paths[first:last]


def _visible(who: Identity, path: Path, trees: Iterable[Tree]) -> bool:
    """Whether a client may know of a change: if it can read, or could, the node or its parent.

    Where there was neither node nor parent before nor after, there was no change to know of.
    """
    for tree in trees:
        near = tree.chain(path)[max(len(path) - 1, 0) :]
        if any(who.may(Access.READ, node.permissions) for node in near):
            return True
    return False
