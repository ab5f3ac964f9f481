"""Pages of other domains, mapped: whose they may be, and what keeps them while they are.

Source: get_pg_owner in xen/arch/x86/mm.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from euxen.abi.errno import XEN_EINVAL, XEN_ESRCH
from euxen.abi.xen import DOMID_IO, DOMID_SELF
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.machine import PAGE_SIZE
from euxen.hypervisor.mm import l1

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

RIGHTS = 0x001 | 0x002 | 0x004
"""Of an entry: present, writable, for user mode."""


class PageOwner:
    """Whose pages a request is about: a domain's, or those that only the domain named has, as DOMID_IO."""

    def __init__(self, caller: Domain, domid: int) -> None:
        """Raises XenError for who is not there; nobody may name himself but as DOMID_SELF."""
        self.domain: Domain | None = None
        """The domain, if it is one that runs."""
        self.domid = domid
        system = caller.hypervisor.system_domains.get(domid)
        if system is not None:
            self.record = system
            return
        self.domain = caller if domid == DOMID_SELF else caller.hypervisor.find(domid)
        if self.domain is None or (self.domain is caller and domid != DOMID_SELF):
            raise XenError(XEN_ESRCH)
        self.record = self.domain.record


def check_mmu_update(caller: Domain, tables: Domain | None, pages: PageOwner) -> None:
    """Whether a domain may have pages of others in page tables. Raises XenError."""
    if pages.domain is not None or pages.domid == DOMID_IO:
        xsm.mmu_update(caller, tables, pages.domain)
    else:
        xsm.system_pages(caller)


class ForeignMapping:
    """Pages of a domain, in a row, mapped by another domain as by an entry of its page tables each.

    While they are, their owner can neither give them away nor make page tables of them, and they outlive it.
    A context manager, for those who need them for a moment.
    """

    def __init__(self, caller: Domain, domid: int, frame: int, pages: int = 1, translate: bool = True) -> None:
        """Map frames: of a PV domain machine frames, of another guest frames if they are to be translated.

        Raises XenError.
        """
        owner = PageOwner(caller, DOMID_SELF if domid == caller.domid else domid)
        check_mmu_update(caller, None, owner)
        self._mapper = caller
        self._ram = caller.machine.ram
        self.frames: list[int] = []
        """The machine frames."""
        try:
            for number in range(frame, frame + pages):
                self._map(owner, _machine_frame(owner, number) if translate else number)
        except XenError:
            self.release()
            raise
        caller.foreign_mappings.append(self)

    def _map(self, owner: PageOwner, mfn: int) -> None:
        error = l1.get_page_from_l1e(mfn * PAGE_SIZE | RIGHTS, self._mapper.record.address, owner.record.address)
        if error:
            raise XenError(-error)
        self.frames.append(mfn)

    @property
    def memory(self) -> memoryview:
        """The pages, if their machine frames are in a row, as those of a PV domain are."""
        (run,) = self._runs()
        return self._ram[run.start * PAGE_SIZE : run.stop * PAGE_SIZE]

    def _runs(self) -> Iterator[range]:
        """The machine frames, as many at a time as are in a row."""
        start = 0
        for number in range(1, len(self.frames) + 1):
            if number == len(self.frames) or self.frames[number] != self.frames[number - 1] + 1:
                yield range(self.frames[start], self.frames[number - 1] + 1)
                start = number

    def write(self, data: bytes | memoryview, offset: int = 0) -> None:
        """Copy into them, from so many bytes on."""
        view = memoryview(data)
        done = -offset
        for run in self._runs():
            start, end = max(done, 0), min(done + len(run) * PAGE_SIZE, len(view))
            if start < end:
                place = run.start * PAGE_SIZE + start - done
                self._ram[place : place + end - start] = view[start:end]
            done += len(run) * PAGE_SIZE

    def release(self) -> None:
        """Unmap them."""
        if self in self._mapper.foreign_mappings:
            self._mapper.foreign_mappings.remove(self)
        while self.frames:
            l1.put_page_from_l1e(self.frames.pop() * PAGE_SIZE | RIGHTS, self._mapper.record.address)
        with self._mapper.machine.lock:
            self._mapper.hypervisor.forget_gone()

    def __enter__(self) -> memoryview:
        return self.memory

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self.release()


def _machine_frame(owner: PageOwner, frame: int) -> int:
    mfn = frame if owner.domain is None else owner.domain.mfn_of(frame)
    if mfn is None:
        raise XenError(XEN_EINVAL)
    return mfn
