"""Segment descriptors: their parts, and whether ring 3 may load them. Source: Intel SDM volume 3, chapter 3."""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.native.language import native, shr

GP, NP, STACK = 13, 11, 12
RING = 3
NO_DESCRIPTOR = -1


@native
def attributes(descriptor: int) -> int:
    """The second word of a descriptor."""
    return shr(descriptor, 32)


@native
def base_of(descriptor: int) -> int:
    """The base address in a descriptor."""
    return (shr(descriptor, 16) & 0xFFFFFF) | (shr(descriptor, 56) << 24)


@native
def limit_of(descriptor: int) -> int:
    """The limit in a descriptor, in bytes."""
    limit = (descriptor & 0xFFFF) | (shr(descriptor, 48) & 0xF) << 16
    if attributes(descriptor) & state.DESC_G:
        limit = (limit << 12) | 0xFFF
    return limit


@native
def install(env: int, segment: int, selector: int, descriptor: int) -> int:
    """Load a segment register from a descriptor. ``update_hflags`` has to follow."""
    state.set_segment(env, segment, selector, base_of(descriptor), limit_of(descriptor), attributes(descriptor))
    return 0


@native
def stack_fault(selector: int, descriptor: int) -> int:
    """The vector with which loading SS fails, or 0."""
    flags = attributes(descriptor)
    if descriptor == NO_DESCRIPTOR or selector & 3 != RING or (flags >> state.DESC_DPL_SHIFT) & 3 != RING:
        return GP
    if flags & (state.DESC_S | state.DESC_CODE | state.DESC_WRITABLE) != state.DESC_S | state.DESC_WRITABLE:
        return GP
    return 0 if flags & state.DESC_P else STACK


@native
def data_fault(descriptor: int) -> int:
    """The vector with which loading DS, ES, FS or GS fails, or 0."""
    flags = attributes(descriptor)
    if descriptor == NO_DESCRIPTOR or not flags & state.DESC_S:
        return GP
    if flags & state.DESC_CODE and not flags & state.DESC_READABLE:
        return GP
    conforming = flags & state.DESC_CODE and flags & state.DESC_CONFORMING
    if not conforming and (flags >> state.DESC_DPL_SHIFT) & 3 != RING:
        return GP
    return 0 if flags & state.DESC_P else NP


@native
def code_fault(selector: int, descriptor: int) -> int:
    """The vector with which a far transfer to a code segment fails, or 0."""
    flags = attributes(descriptor)
    if selector & 0xFFFC == 0 or descriptor == NO_DESCRIPTOR or not flags & state.DESC_S or not flags & state.DESC_CODE:
        return GP
    if not flags & state.DESC_CONFORMING and (flags >> state.DESC_DPL_SHIFT) & 3 != RING:
        return GP
    if flags & state.DESC_L and flags & state.DESC_B:
        return GP
    return 0 if flags & state.DESC_P else NP
