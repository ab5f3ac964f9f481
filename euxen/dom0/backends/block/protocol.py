"""What is on a block ring: requests of either ABI, and what a request may ask of a disk. Pure.

xen/include/public/io/blkif.h; where that is silent, Linux's back end (drivers/block/xen-blkback) is followed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from euxen.abi.io.blkif import (
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BlkifRequestSegment,
)
from euxen.abi.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64

PAGE_SIZE = 4096
SECTOR = 512
MAX_INDIRECT_SEGMENTS = 256
"""What is offered, as by Linux."""
SEGMENTS_PER_PAGE = PAGE_SIZE // BlkifRequestSegment.size

WRITES = frozenset({BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE})
WITH_SEGMENTS = WRITES | {BLKIF_OP_READ}
_SEGMENT = struct.Struct("<IBBxx")


class BadRequest(Exception):
    """A request that is answered with BLKIF_RSP_ERROR: why."""


class Unsupported(Exception):
    """A request that is answered with BLKIF_RSP_EOPNOTSUPP."""


Segment = tuple[int, int, int]
"""A part of one page of the front end's: its gref, where the part begins, and where it ends, in bytes."""


@dataclass(slots=True)
class Request:
    """A request as it was copied from the ring."""

    operation: int
    """BLKIF_OP_*; never BLKIF_OP_INDIRECT."""
    id: int
    sector: int
    segments: Sequence[Segment] = ()
    sectors: int = 0
    """Of a discard."""
    flag: int = 0
    """Of a discard: BLKIF_DISCARD_*."""
    indirect_grefs: Sequence[int] = ()
    """Of the pages with the segments, where they are not in the request."""
    indirect_segments: int = 0


@dataclass(frozen=True)
class Abi:
    """Where things are in a ring's entries, which depends on how the front end's compiler aligns 64-bit numbers."""

    entry_size: int
    request: struct.Struct
    """Operation, number of segments, handle, id, sector, and gref, first and last sector of each segment."""
    discard: struct.Struct
    """Operation, flag, handle, id, sector, number of sectors."""
    indirect: struct.Struct
    """Operation, operation proper, number of segments, id, sector, handle, grefs."""
    response: struct.Struct
    """id, operation, status."""


def _abi(gap: str, padding: str, entry_size: int) -> Abi:
    """``gap`` is before an id, ``padding`` at the end of a response."""
    segments = "IBBxx" * BLKIF_MAX_SEGMENTS_PER_REQUEST
    grefs = "I" * BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST
    return Abi(
        entry_size,
        struct.Struct(f"<BBH{gap}QQ{segments}"),
        struct.Struct(f"<BBH{gap}QQQ"),
        struct.Struct(f"<BBH{gap}QQHxx{grefs}"),
        struct.Struct(f"<QBxh{padding}"),
    )


ABIS = {
    XEN_IO_PROTO_ABI_X86_64: _abi("xxxx", "xxxx", 112),
    XEN_IO_PROTO_ABI_X86_32: _abi("", "", 108),
}
"""By what a front end writes as ``protocol``."""


def parse(abi: Abi, entry: bytes, unit: int = SECTOR) -> Request:
    """Read a request; ``unit`` is what the front end counts in. Raises BadRequest or Unsupported."""
    operation = entry[0]
    if operation in WITH_SEGMENTS:
        _op, count, _handle, number, sector, *fields = abi.request.unpack_from(entry)
        if count > BLKIF_MAX_SEGMENTS_PER_REQUEST:
            raise BadRequest(f"{count} segments")
        segments = list(_segments(zip(fields[0 : count * 3 : 3], fields[1::3], fields[2::3], strict=False), unit))
        return Request(operation, number, sector, segments)
    if operation == BLKIF_OP_DISCARD:
        _op, flag, _handle, number, sector, sectors = abi.discard.unpack_from(entry)
        return Request(operation, number, sector, sectors=sectors, flag=flag)
    if operation == BLKIF_OP_INDIRECT:
        _op, proper, count, number, sector, _handle, *grefs = abi.indirect.unpack_from(entry)
        if proper not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            raise BadRequest(f"operation {proper} with indirect segments")
        if not 0 < count <= MAX_INDIRECT_SEGMENTS:
            raise BadRequest(f"{count} indirect segments")
        pages = -(-count // SEGMENTS_PER_PAGE)
        return Request(proper, number, sector, indirect_grefs=grefs[:pages], indirect_segments=count)
    raise Unsupported


def name_of(abi: Abi, entry: bytes) -> tuple[int, int]:
    """What names a request in its response, whatever else is in it: its id and its operation."""
    operation = entry[1] if entry[0] == BLKIF_OP_INDIRECT else entry[0]
    return abi.discard.unpack_from(entry)[3], operation


def indirect_segments(pages: Sequence[bytes], count: int, unit: int = SECTOR) -> list[Segment]:
    """The segments that copies of indirect pages tell of. Raises BadRequest."""
    data = b"".join(pages)[: count * _SEGMENT.size]
    return list(_segments(_SEGMENT.iter_unpack(data), unit))


def _segments(fields: Iterable[tuple[int, ...]], unit: int) -> Iterator[Segment]:
    for gref, first, last in fields:
        if first > last or (last + 1) * unit > PAGE_SIZE:
            raise BadRequest(f"a segment from sector {first} to {last} of a page")
        yield gref, first * unit, (last + 1) * unit


@dataclass(frozen=True, slots=True)
class Disk:
    """What a disk allows. Sizes in bytes."""

    size: int
    sector_size: int
    unit: int
    """What the front end counts in: SECTOR, or ``sector_size`` if it can (feature-large-sector-size)."""
    writable: bool
    discard: bool

    def offset(self, request: Request) -> int:
        """Where a request begins, in bytes."""
        return request.sector * self.unit

    def check(self, request: Request) -> None:
        """Raises BadRequest or Unsupported for what the disk does not allow."""
        operation, offset = request.operation, self.offset(request)
        if operation == BLKIF_OP_DISCARD:
            if not self.discard or request.flag:
                raise Unsupported
            size = request.sectors * self.unit
        else:
            size = sum(end - start for _gref, start, end in request.segments)
            if not size and operation not in (BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER):
                raise BadRequest("no segments")
        if operation != BLKIF_OP_READ and not self.writable:
            raise BadRequest("a write to a read-only disk")
        if not size and operation != BLKIF_OP_DISCARD:
            return  # a flush alone, which may name any sector
        if not size or offset + size > self.size:
            raise BadRequest(f"{size} bytes from {offset} on a disk of {self.size}")
        if offset % self.sector_size or size % self.sector_size:
            raise BadRequest(f"{size} bytes from {offset}, with sectors of {self.sector_size}")
        if self.sector_size != SECTOR and any((end - start) % self.sector_size for _, start, end in request.segments):
            raise BadRequest(f"a segment that is no multiple of {self.sector_size}")
