"""Grant tables: the frames in which a domain says what of its memory others may use. Source: xen/common/grant_table.c.

This is the table itself, with entries of version 1, as of a Xen with gnttab=max-ver:1. Nobody looks into it yet but
Domain 0's tools: nothing is mapped, copied or transferred by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from euxen.abi.grant_table import GNTST_general_error
from euxen.hypervisor.errors import GrantError
from euxen.hypervisor.machine import OutOfMemory
from euxen.hypervisor.mm import heap

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

MAX_FRAMES = 64
"""opt_max_grant_frames."""
INITIAL_FRAMES = 1
VERSION = 1


class GrantTable:
    """The grant table of one domain. Its frames are Xen's, and the domain may map them writable."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.frames: list[int] = []
        """Their machine frame numbers."""

    def grow(self, frames: int = INITIAL_FRAMES) -> None:
        """Make the table at least so long (gnttab_grow_table). Raises GrantError."""
        if frames > MAX_FRAMES:
            raise GrantError(GNTST_general_error)
        try:
            while len(self.frames) < max(frames, INITIAL_FRAMES):
                self.frames.append(self._domain.share_page())
        except OutOfMemory:
            raise GrantError(GNTST_general_error) from None

    def release(self) -> None:
        """Give the frames back. Nobody may refer to them any more."""
        for frame in self.frames:
            heap.free_frame(self._domain.machine.record.address, frame)
        self.frames.clear()
