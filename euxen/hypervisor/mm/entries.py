"""Page-table entries: their bits, and which of them a PV guest may set.

Source: xen/arch/x86/include/asm/page.h and xen/arch/x86/pv/mm.h.
"""

from __future__ import annotations

from euxen.cpu.native.language import native, signed
from euxen.hypervisor.records import PAGE_SHIFT

_PAGE_PRESENT = 0x001
_PAGE_RW = 0x002
_PAGE_USER = 0x004
_PAGE_ACCESSED = 0x020
_PAGE_DIRTY = 0x040
_PAGE_GLOBAL = 0x100
_PAGE_GUEST_KERNEL = 1 << 52
_PAGE_NX = signed(1 << 63)
PADDR_MASK = 0x000F_FFFF_FFFF_F000
ENTRIES = 512

# What an unprivileged guest must not set: PSE or PAT, PCD, PWT; and G above level 1.
L1_DISALLOW_MASK = 0x098
LN_DISALLOW_MASK = 0x198

# What may change in an entry without looking at it again: NX, the available bits, G, D, A, U.
FASTPATH_FLAGS = signed(0xFFF0_0000_0000_0F64)
CHECKED_BITS = ~FASTPATH_FLAGS


@native
def mfn_in(entry: int) -> int:
    """The frame number in a page-table entry."""
    return (entry & PADDR_MASK) >> PAGE_SHIFT


@native
def adjust_l1e(entry: int) -> int:
    """What Xen makes of a guest's level 1 entry: kernel and user pages are both accessible in ring 3."""
    if entry & _PAGE_PRESENT:
        if not entry & _PAGE_USER:
            entry |= _PAGE_GUEST_KERNEL | _PAGE_USER
        if not entry & _PAGE_GUEST_KERNEL:
            entry |= _PAGE_GLOBAL | _PAGE_USER
    return entry


@native
def adjust_lne(entry: int, level: int) -> int:
    """What Xen makes of an entry of level 2 to 4."""
    if entry & _PAGE_PRESENT:
        entry |= _PAGE_USER
        if level == 4:
            entry |= _PAGE_ACCESSED
    return entry
