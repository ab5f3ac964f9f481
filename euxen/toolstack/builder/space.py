"""The guest's memory while it is being built: where parts of it go, one after another (struct xc_dom_image)."""

from __future__ import annotations

from dataclasses import dataclass

from euxen.toolstack.errors import UserError

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
ADDRESS_MASK = (1 << 48) - 1


class BuildError(UserError):
    """The domain can't be built from what was given."""


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


class Space:
    """Pages that are not given to anything yet. pfns and virtual addresses grow together, from ``base``."""

    def __init__(self, pages: int, base: int, followed_by_hole: bool = False) -> None:
        """For a domain that has so many pages, or more, but not next to these."""
        self._pages, self._followed_by_hole = pages, followed_by_hole
        self.segments: list[Segment] = []
        self.pfn_end = 0
        self.virt_end = base

    def allocate(self, name: str, size: int) -> Segment:
        """The next pages, for ``size`` bytes (xc_dom_alloc_segment). Raises BuildError."""
        pages = -(-size // PAGE_SIZE)
        segment = Segment(name, self.pfn_end, pages, self.virt_end)
        self._advance(pages, name)
        self.segments.append(segment)
        return segment

    def pad_to(self, address: int, what: str) -> None:
        """Leave pages out up to a virtual address (xc_dom_alloc_pad). ``what`` is there. Raises BuildError."""
        self._advance((address - self.virt_end & ADDRESS_MASK) >> PAGE_SHIFT, what)

    def _advance(self, pages: int, what: str) -> None:
        if self.pfn_end + pages > self._pages:
            end = -(-(self.pfn_end + pages) * PAGE_SIZE >> 20)
            size = self._pages * PAGE_SIZE >> 20
            if self._followed_by_hole:
                raise BuildError(f"the {what} would end at {end} MiB; no PVH guest has memory from {size} MiB to 4 GiB")
            raise BuildError(
                f"{size} MiB is too little memory: the {what} would end at {end} MiB; give the domain more"
            )
        self.pfn_end += pages
        self.virt_end += pages * PAGE_SIZE
