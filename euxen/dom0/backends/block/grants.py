"""The front end's pages: mapped for a while, or kept where it uses the same ones again (feature-persistent).

A page that is mapped writable has an open window for as long as it is mapped: code that its owner has in it is then
translated again and again (hypervisor/mm/outside_writes.py). So a page is mapped writable only to be read into, or to
be kept, and what was kept and is not used any more is let go.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from euxen.hypervisor.control import Control
from euxen.hypervisor.granted import GrantedPage

MAX_PERSISTENT = 1056
"""Pages that are kept for each ring, as by Linux: 32 requests of 32 segments and an indirect page each."""
UNUSED = 60.0
"""Seconds after which a page that was kept is let go (persistent_grant_unused_seconds)."""


class PersistentGrants:
    """Pages of one front end, of which those are kept that it promised to use again."""

    def __init__(self, control: Control, domid: int, keep: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """``keep`` is whether it promised that."""
        self._control, self._domid, self._clock = control, domid, clock
        self._most = MAX_PERSISTENT if keep else 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        """By their references, those that were used last at the end."""
        self._next_purge = clock() + UNUSED

    def borrow(self, refs: Iterable[int], writable: bool) -> Loan:
        """Map pages: those that can be."""
        wanted = set(refs)
        pages: dict[int, memoryview] = {}
        with self._lock:
            used = []
            for ref in wanted:
                kept = self._kept.get(ref)
                if kept is not None:
                    pages[ref] = kept.page.memory
                    used.append(ref)
            room = self._most - len(self._kept)
            missing = list(wanted.difference(pages))
            kept_refs, rest = missing[: max(room, 0)], missing[max(room, 0) :]
            for ref, page in self._map(kept_refs, True):
                self._kept[ref] = _Kept(page)
                pages[ref] = page.memory
                used.append(ref)
            now = self._clock()
            for ref in used:
                self._kept[ref].users += 1
                self._kept[ref].last_used = now
                self._kept.move_to_end(ref)
            if now >= self._next_purge:
                self._purge(now)
        borrowed = []
        for ref, page in self._map(rest, writable):
            pages[ref] = page.memory
            borrowed.append(page)
        return Loan(self, pages, used, borrowed)

    def _map(self, refs: Sequence[int], writable: bool) -> Iterable[tuple[int, GrantedPage]]:
        if not refs:
            return
        for ref, page in zip(refs, self._control.map_each_grant(self._domid, refs, writable), strict=True):
            if isinstance(page, GrantedPage):
                yield ref, page

    def _purge(self, now: float) -> None:
        """Let go of what was not used for long."""
        self._next_purge = now + UNUSED / 2
        old = [ref for ref, kept in self._kept.items() if not kept.users and now - kept.last_used >= UNUSED]
        self._control.unmap_grants([self._kept.pop(ref).page for ref in old])

    def give_back(self, used: Sequence[int], borrowed: Sequence[GrantedPage]) -> None:
        """For loans."""
        if borrowed:
            self._control.unmap_grants(borrowed)
        if used:
            with self._lock:
                for ref in used:
                    self._kept[ref].users -= 1

    @property
    def kept(self) -> int:
        """How many pages are kept."""
        return len(self._kept)

    def close(self) -> None:
        """Let go of everything. Nothing is on loan any more."""
        with self._lock:
            self._control.unmap_grants([kept.page for kept in self._kept.values()])
            self._kept.clear()


class _Kept:
    """A page that is kept."""

    __slots__ = ("last_used", "page", "users")

    def __init__(self, page: GrantedPage) -> None:
        self.page = page
        self.users = 0
        self.last_used = 0.0


class Loan:
    """Pages that were mapped, until ``end``."""

    __slots__ = ("_borrowed", "_grants", "_used", "pages")

    def __init__(
        self,
        grants: PersistentGrants,
        pages: dict[int, memoryview],
        used: Sequence[int],
        borrowed: Sequence[GrantedPage],
    ) -> None:
        self._grants, self._used, self._borrowed = grants, used, borrowed
        self.pages = pages
        """By their references; those that could not be mapped are not here."""

    def end(self) -> None:
        """Nobody looks at them any more."""
        self.pages.clear()
        self._grants.give_back(self._used, self._borrowed)
