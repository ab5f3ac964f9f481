"""What building a PV and a PVH guest has in common: memory, rings, and the grants for them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from euxen.abi.grant_table import (
    GNTTAB_RESERVED_CONSOLE,
    GNTTAB_RESERVED_XENSTORE,
    GrantEntryV1,
    GTF_permit_access,
)
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError
from euxen.toolstack.builder.space import PAGE_SIZE, BuildError, Segment


@dataclass(frozen=True)
class Rings:
    """The event channels for a guest's console and xenstore rings."""

    console_port: int
    xenstore_port: int


@dataclass(frozen=True)
class BuiltDomain:
    """Where things are in a domain that was built."""

    console_frame: int
    """Of a PV guest its machine frame, of a PVH guest its guest frame."""
    xenstore_frame: int
    segments: tuple[Segment, ...]


def populate(control: Control, domid: int, first: int, pages: int, whole: int) -> memoryview:
    """Give a domain memory, of ``whole`` pages; its frames as ``populate_physmap`` tells them. Raises BuildError."""
    try:
        return control.populate_physmap(domid, first, pages)
    except XenError as error:
        raise BuildError(
            f"the machine has not enough free memory for a domain of {whole * PAGE_SIZE >> 20} MiB"
        ) from error


GZIP = b"\x1f\x8b"
SHORTEST_GZIP = 6
MAX_MODULE_SIZE = 1 << 30
"""XC_DOM_DECOMPRESS_MAX in tools/include/xenguest.h, bytes."""
GUNZIP_SLACK = 16
"""By how much libxenguest takes what it unpacks for larger, bytes."""


@dataclass(frozen=True)
class Module:
    """A RAM disk as the guest gets it, and for how many bytes there has to be room."""

    data: bytes
    size: int


def ramdisk_module(content: bytes) -> Module | None:
    """None for none. One that is packed by gzip is unpacked, unless it is damaged (xc_dom_build_module)."""
    if not content:
        return None
    size = int.from_bytes(content[-4:], "little") + GUNZIP_SLACK
    if content[:2] != GZIP or len(content) < SHORTEST_GZIP or size > MAX_MODULE_SIZE + GUNZIP_SLACK:
        return Module(content, len(content))
    unpacked = _gunzip(content, size)
    return Module(content if unpacked is None else unpacked, max(size, len(content)))


def _gunzip(content: bytes, most: int) -> bytes | None:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = unpacker.decompress(content, most)
    except zlib.error:
        return None
    return data if unpacker.eof else None


def seed_grants(control: Control, domid: int, console: int, xenstore: int) -> None:
    """Lend the frames of the rings to Domain 0, by the references that are reserved for them (xc_dom_gnttab_seed)."""
    with control.map_grant_table(domid) as table:
        for reference, frame in ((GNTTAB_RESERVED_CONSOLE, console), (GNTTAB_RESERVED_XENSTORE, xenstore)):
            entry = GrantEntryV1(flags=GTF_permit_access, domid=0, frame=frame)
            entry.pack_into(table, reference * GrantEntryV1.size)
