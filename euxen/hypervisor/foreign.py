"""A page of another domain's, mapped for as long as its user wants it: a ring, above all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from euxen.hypervisor.errors import XenError
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm import pagetable

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain


class ForeignPage:
    """Writable memory. While it is held, its domain can neither give it away nor make a page table of it."""

    def __init__(self, domain: Domain, frame: int) -> None:
        """Take hold of a machine frame of ``domain``. Raises XenError."""
        error = pagetable.get_page_and_type_from_mfn(domain.record.address, frame, pg.PGT_writable_page)
        if error:
            raise XenError(-error)
        self.frame = frame
        self._pages = domain.foreign_pages
        self._pages.append(self)
        self._page = pg.page_of(domain.machine.record.address, frame)
        self.memory = domain.machine.frame(frame)

    def release(self) -> None:
        """Let it go."""
        if self._page:
            pagetable.put_page_and_type(self._page)
            self._page = 0
            self._pages.remove(self)
