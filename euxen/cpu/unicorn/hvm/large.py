"""Large pages in the TLBs, which hold them as many small ones: INVLPG has to drop all of those at once.

So it is noted where large pages were used, in a filter that knows regions by a few bits of their number.
"""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import fill, load8, load64, native, store8

REGION_SHIFT = 21
REGIONS = 4096
"""How many the filter tells apart: a byte for each."""
NOT_LARGE, LARGE, LARGER = 0, 1, 2
"""What a byte says of the largest page that was used in such a region: 4 KiB, 2 MiB, or more."""


@native
def note(block: int, address: int, shift: int) -> int:
    """A page of ``1 << shift`` bytes is used."""
    filter_ = load64(block + CpuBlock.large_pages)
    first = (address >> shift) << (shift - REGION_SHIFT)
    if shift == REGION_SHIFT:
        place = filter_ + (first & (REGIONS - 1))
        if load8(place) == NOT_LARGE:
            store8(place, LARGE)
    else:
        fill(filter_ + (first & (REGIONS - 1)), LARGER, 1 << (shift - REGION_SHIFT))
    return 0


@native
def size_at(block: int, address: int) -> int:
    """The largest page that may have been used at an address."""
    return load8(load64(block + CpuBlock.large_pages) + ((address >> REGION_SHIFT) & (REGIONS - 1)))


@native
def forget(block: int) -> int:
    """The TLBs are empty."""
    fill(load64(block + CpuBlock.large_pages), NOT_LARGE, REGIONS)
    return 0
