"""Requests as they are read from rings of either ABI, and what a disk allows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BlkifRequest,
    BlkifRequestDiscard,
    BlkifRequestIndirect,
    BlkifRequestSegment,
    BlkifResponse,
    BlkifSringEntry,
)
from euxen.dom0.backends.block.protocol import (
    ABIS,
    BadRequest,
    Disk,
    Request,
    Unsupported,
    indirect_segments,
    name_of,
    parse,
)

NATIVE, BITS32 = ABIS["x86_64-abi"], ABIS["x86_32-abi"]
DISK = Disk(1 << 20, 512, 512, True, True)
U64 = st.integers(0, (1 << 64) - 1)


def entry(request: BlkifRequest | BlkifRequestDiscard | BlkifRequestIndirect) -> bytes:
    return bytes(request).ljust(BlkifSringEntry.size, b"\0")


def test_sizes_are_those_of_the_header() -> None:
    assert NATIVE.entry_size == BlkifSringEntry.size
    assert NATIVE.request.size == BlkifRequest.size
    assert NATIVE.response.size == BlkifResponse.size
    assert (BITS32.entry_size, BITS32.response.size) == (108, 12)


def test_a_read() -> None:
    request = BlkifRequest(operation=BLKIF_OP_READ, nr_segments=2, id=77, sector_number=5)
    segments = list(request.seg)
    segments[0] = BlkifRequestSegment(gref=9, first_sect=0, last_sect=7)
    segments[1] = BlkifRequestSegment(gref=8, first_sect=3, last_sect=3)
    request.seg = tuple(segments)
    read = parse(NATIVE, entry(request))
    assert read == Request(BLKIF_OP_READ, 77, 5, [(9, 0, 4096), (8, 1536, 2048)])
    assert DISK.offset(read) == 2560
    DISK.check(read)


def test_a_discard_and_an_indirect_write() -> None:
    discard = BlkifRequestDiscard(operation=BLKIF_OP_DISCARD, flag=1, id=3, sector_number=4, nr_sectors=5)
    assert parse(NATIVE, entry(discard)) == Request(BLKIF_OP_DISCARD, 3, 4, sectors=5, flag=1)
    indirect = BlkifRequestIndirect(
        operation=BLKIF_OP_INDIRECT,
        indirect_op=BLKIF_OP_WRITE,
        nr_segments=200,
        id=3,
        sector_number=4,
        indirect_grefs=tuple(range(8)),
    )
    # 200 segments need one page, whatever more is named.
    assert parse(NATIVE, entry(indirect)) == Request(BLKIF_OP_WRITE, 3, 4, indirect_grefs=[0], indirect_segments=200)
    assert name_of(NATIVE, entry(indirect)) == (3, BLKIF_OP_WRITE)


@given(st.binary(min_size=112, max_size=112), st.sampled_from([512, 4096]))
def test_any_bytes(data: bytes, unit: int) -> None:
    for abi in (NATIVE, BITS32):
        name_of(abi, data)
        try:
            request = parse(abi, data, unit)
            assert all(0 <= start < end <= 4096 for _gref, start, end in request.segments)
            Disk(1 << 20, unit, unit, True, True).check(request)
        except (BadRequest, Unsupported):
            continue
        size = sum(end - start for _, start, end in request.segments)
        assert request.indirect_segments or size == 0 or request.sector * unit + size <= 1 << 20


@given(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 9), st.integers(0, 9)), max_size=1100))
def test_indirect_pages(segments: list[tuple[int, int, int]]) -> None:
    data = b"".join(struct.pack("<IBBH", *segment, 0xFFFF) for segment in segments)
    pages = [data[at : at + 4096].ljust(4096, b"\xff") for at in range(0, len(data), 4096)]
    try:
        read = indirect_segments(pages, len(segments))
    except BadRequest:
        assert any(first > last or last > 7 for _, first, last in segments)
    else:
        assert read == [(gref, first * 512, (last + 1) * 512) for gref, first, last in segments]


def rw(operation: int, sector: int, *sizes: int) -> Request:
    return Request(operation, 0, sector, [(0, 0, size) for size in sizes])


@pytest.mark.parametrize(
    ("request_", "disk"),
    [
        (rw(BLKIF_OP_READ, 0), DISK),
        (rw(BLKIF_OP_READ, 2048, 512), DISK),
        (rw(BLKIF_OP_READ, 2047, 1024), DISK),
        (rw(BLKIF_OP_WRITE, (1 << 64) - 1, 512), DISK),
        (rw(BLKIF_OP_WRITE, 0, 512), Disk(1 << 20, 512, 512, False, False)),
        (rw(BLKIF_OP_FLUSH_DISKCACHE, 0), Disk(1 << 20, 512, 512, False, False)),
        (rw(BLKIF_OP_READ, 1, 4096), Disk(1 << 20, 4096, 512, True, True)),
        (rw(BLKIF_OP_READ, 8, 512), Disk(1 << 20, 4096, 512, True, True)),
        (rw(BLKIF_OP_READ, 8, 2048, 2048), Disk(1 << 20, 4096, 512, True, True)),
        (rw(BLKIF_OP_READ, 256, 4096), Disk(1 << 20, 4096, 4096, True, True)),
        (Request(BLKIF_OP_DISCARD, 0, 0, sectors=2049), DISK),
        (Request(BLKIF_OP_DISCARD, 0, 0, sectors=0), DISK),
        (Request(BLKIF_OP_DISCARD, 0, 1, sectors=(1 << 64) - 1), DISK),
    ],
)
def test_what_a_disk_refuses(request_: Request, disk: Disk) -> None:
    with pytest.raises(BadRequest):
        disk.check(request_)


@pytest.mark.parametrize(
    ("request_", "disk"),
    [
        (rw(BLKIF_OP_READ, 2047, 512), DISK),
        (rw(BLKIF_OP_FLUSH_DISKCACHE, (1 << 64) - 1), DISK),
        (rw(BLKIF_OP_WRITE_BARRIER, 0), DISK),
        (rw(BLKIF_OP_READ, 8, 4096), Disk(1 << 20, 4096, 512, True, True)),
        (rw(BLKIF_OP_READ, 255, 4096), Disk(1 << 20, 4096, 4096, True, True)),
        (Request(BLKIF_OP_DISCARD, 0, 0, sectors=2048), DISK),
    ],
)
def test_what_a_disk_allows(request_: Request, disk: Disk) -> None:
    disk.check(request_)


def test_discards_where_there_are_none() -> None:
    with pytest.raises(Unsupported):
        Disk(1 << 20, 512, 512, True, False).check(Request(BLKIF_OP_DISCARD, 0, 0, sectors=8))
