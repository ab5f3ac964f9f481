"""What a domain whose kernel is this program, the built-in Domain 0, does with grants of others.

It makes the operations that a guest makes, with the same checks. It has all of the machine's memory before it, so
mapping a frame is taking hold of it.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from euxen.abi.grant_table import GNTMAP_host_map, GNTMAP_readonly, GNTST_okay, GnttabCopy
from euxen.hypervisor.errors import GrantError
from euxen.hypervisor.grants import operations
from euxen.hypervisor.machine import PAGE_SIZE

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain


class GrantedPages:
    """Frames that others lend, mapped until ``unmap``: ``pages`` are their contents."""

    def __init__(self, domain: Domain, domid: int, refs: Sequence[int], writable: bool) -> None:
        """Map grants of ``domid`` for ``domain``: all of them or none. Raises GrantError."""
        self._domain = domain
        words = _map(domain, domid, refs, writable)
        mapped = [at for at in range(0, len(words), 3) if words[at] == GNTST_okay]
        self._handles = array("q", [words[at + 1] for at in mapped])
        pages = [domain.machine.frame(words[at + 2] // PAGE_SIZE) for at in mapped]
        self.pages: list[memoryview] = pages if writable else [page.toreadonly() for page in pages]
        """Writable if they were mapped so."""
        if len(mapped) < len(refs):
            self.unmap()
            raise GrantError(next(status for status in words[::3] if status != GNTST_okay))

    def unmap(self) -> None:
        """Let go of the frames. Nobody may look at them, or at parts of them, any more."""
        for page in self.pages:
            page.release()
        self.pages.clear()
        handles, self._handles = self._handles, array("q")
        _unmap(self._domain, handles)


@dataclass(slots=True)
class GrantedPage:
    """One frame that another domain lends, mapped."""

    memory: memoryview
    """Its contents; writable if it was mapped so."""
    handle: int


def map_each(domain: Domain, domid: int, refs: Sequence[int], writable: bool) -> list[GrantedPage | int]:
    """Map grants of ``domid`` for ``domain``, each for itself: the page, or GNTST_* of what can't be mapped."""
    words = _map(domain, domid, refs, writable)
    machine, pages = domain.machine, list[GrantedPage | int]()
    for at in range(0, len(words), 3):
        if words[at] != GNTST_okay:
            pages.append(words[at])
            continue
        memory = machine.frame(words[at + 2] // PAGE_SIZE)
        pages.append(GrantedPage(memory if writable else memory.toreadonly(), words[at + 1]))
    return pages


def unmap_each(domain: Domain, pages: Iterable[GrantedPage]) -> None:
    """Let go of pages that ``map_each`` gave. Nobody may look at them any more."""
    handles = array("q")
    for page in pages:
        page.memory.release()
        handles.append(page.handle)
    _unmap(domain, handles)


def _map(domain: Domain, domid: int, refs: Sequence[int], writable: bool) -> array[int]:
    """Three words for each reference: status, handle and machine address."""
    flags = GNTMAP_host_map if writable else GNTMAP_host_map | GNTMAP_readonly
    words = array("q", bytes(24 * len(refs)))
    words[::3] = array("q", refs)
    with domain.machine.lock:
        operations.map_refs(domain.record.address, domid, flags, words.buffer_info()[0], len(refs))
    return words


def _unmap(domain: Domain, handles: array[int]) -> None:
    with domain.machine.lock:
        operations.unmap_handles(domain.record.address, handles.buffer_info()[0], len(handles))
        domain.hypervisor.forget_gone()
    assert not any(handles), "what was mapped can be unmapped"


def grant_copy(domain: Domain, copies: Sequence[GnttabCopy]) -> None:
    """GNTTABOP_copy for ``domain``: what became of each is in its ``status``."""
    packed = ctypes.create_string_buffer(b"".join(map(bytes, copies)), GnttabCopy.size * len(copies))
    with domain.machine.lock:
        operations.copy_host_array(domain.record.address, ctypes.addressof(packed), len(copies))
    for number, op in enumerate(copies):
        op.status = GnttabCopy.unpack_from(packed, number * GnttabCopy.size).status
