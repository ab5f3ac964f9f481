"""The guest's memory while it is being built: pfns to machine frames, and writing across frames."""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


@dataclass(frozen=True)
class Segment:
    """A part of the guest's initial memory (struct xc_dom_seg)."""

    name: str
    pfn: int
    pages: int
    vstart: int

    @property
    def vend(self) -> int:
        """The address after the last byte."""
        return self.vstart + self.pages * PAGE_SIZE
