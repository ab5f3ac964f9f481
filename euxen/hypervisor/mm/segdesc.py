"""Segment descriptors that a guest may have. Source: xen/arch/x86/pv/descriptor-tables.c."""

from __future__ import annotations

from euxen.abi.arch_x86_xen import FIRST_RESERVED_GDT_BYTE, FLAT_KERNEL_CS
from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.native.language import load64, native, shr, store64

DESCRIPTORS = 512
"""In a page."""


@native
def validate_segdesc_page(host: int) -> int:
    """Validate a page of segment descriptors; 0 or a negative errno."""
    for i in range(DESCRIPTORS):
        descriptor = load64(host + i * 8)
        checked = check_descriptor(descriptor)
        if checked == 0 and descriptor != 0:
            return -XEN_EINVAL
        if checked != descriptor:
            store64(host + i * 8, checked)
    return 0


@native
def check_descriptor(descriptor: int) -> int:
    """A descriptor as Xen lets a 64-bit guest have it, or 0 if it can't have it (check_descriptor).

    A descriptor that is not present always faults, so it is harmless. Code and data are all right at any
    base and limit, as paging protects Xen. Of the others a call gate is let through, made one for ring 0 so that
    it is never taken; its selector keeps for what it was.
    """
    high = shr(descriptor, 32)
    if not high & 0x8000:
        return descriptor
    # Kernel and user both run in ring 3.
    high |= 3 << 13
    kind = high & 0x1F00
    if not high & 0x1000:
        if kind == 0:
            return descriptor
        selector = (descriptor >> 16) & 0xFFFF
        xens = not selector & 4 and selector >= FIRST_RESERVED_GDT_BYTE and selector != FLAT_KERNEL_CS
        if kind != 0x0C00 or high & 0xFF or xens:
            return 0
        return (descriptor & 0xFFFF) | ((selector | 3) << 16) | ((high & ~(3 << 13)) << 32)
    return (descriptor & 0xFFFF_FFFF) | (high << 32)
