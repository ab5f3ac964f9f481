"""Every compression a kernel comes in, the right way round, cut off, damaged and as a bomb."""

from __future__ import annotations

import lzma
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.toolstack.kernel.decompress import compression_of, decompress
from euxen.toolstack.kernel.errors import KernelError

from .compressors import COMPRESSORS, LZ4_BLOCK, LZO_BLOCK, TOOLS, lz4_legacy, lzop, with_tool

every_compression = pytest.mark.parametrize("name", COMPRESSORS)

# Text that shrinks, and noise that does not, over more than one block of lzo.
SAMPLE = b"The hypervisor handles no I/O. " * 20_000 + random.Random(1).randbytes(300_000)


@every_compression
@pytest.mark.parametrize("data", [b"", b"x", SAMPLE], ids=["empty", "byte", "sample"])
def test_round_trip(name: str, data: bytes) -> None:
    packed = memoryview(COMPRESSORS[name](data))
    assert compression_of(packed) == name
    assert decompress(packed, name) == data


@pytest.mark.parametrize("name", TOOLS)
def test_what_the_tools_of_linux_write(name: str) -> None:
    packed = with_tool(name, SAMPLE)
    if packed is None:
        pytest.skip(f"{TOOLS[name][0]} is not on this host")
    assert compression_of(memoryview(packed)) == name
    assert decompress(memoryview(packed), name) == SAMPLE


@every_compression
def test_stops_at_the_limit(name: str) -> None:
    packed = memoryview(COMPRESSORS[name](bytes(3 << 20)))
    assert len(decompress(packed, name, 3 << 20)) == 3 << 20
    with pytest.raises(KernelError, match="unpack to more than 3145727 bytes"):
        decompress(packed, name, (3 << 20) - 1)


@every_compression
def test_a_stream_that_was_cut_off(name: str) -> None:
    packed = COMPRESSORS[name](SAMPLE)
    for length in (len(packed) - 10, len(packed) // 2, 40, 12):
        with pytest.raises(KernelError, match=f"its {name} data are damaged"):
            decompress(memoryview(packed)[:length], name)


@every_compression
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_a_kernel_error(name: str, data: st.DataObject) -> None:
    packed = bytearray(COMPRESSORS[name](b"abc" * 2000 + bytes(range(256))))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(packed)))
    try:
        assert len(decompress(memoryview(packed)[:end], name, 1 << 20)) <= 1 << 20
    except KernelError as error:
        assert name in str(error)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x1f", b"hello"])
def test_what_is_not_compressed(data: bytes) -> None:
    assert compression_of(memoryview(data)) is None


def test_lz4_of_several_files_in_a_row() -> None:
    assert decompress(memoryview(lz4_legacy(b"one") + lz4_legacy(b"two")), "lz4") == b"onetwo"


def test_lz4_of_more_than_one_block() -> None:
    data = bytes(LZ4_BLOCK) + b"end"
    assert decompress(memoryview(lz4_legacy(data)), "lz4") == data


def test_lzo_with_a_filter_in_its_header() -> None:
    assert decompress(memoryview(lzop(SAMPLE, filter=True)), "lzo") == SAMPLE


def test_lzo_block_of_an_impossible_length() -> None:
    head = lzop(b"")[:-4]
    for block in (
        struct.pack(">III", LZO_BLOCK + 1, 8, 0) + bytes(8),  # larger than lzop makes them
        struct.pack(">III", 8, 9, 0) + bytes(9),  # grows
        struct.pack(">III", 8, 0, 0),
        struct.pack(">III", 8, 8, 0) + bytes(7),  # lacks a byte
    ):
        with pytest.raises(KernelError, match="its lzo data are damaged"):
            decompress(memoryview(head + block), "lzo")


def test_xz_that_asks_for_too_much_memory() -> None:
    stream = bytearray(lzma.compress(b"small", lzma.FORMAT_XZ))
    # The block's header: its size, flags, the filter LZMA2 with one byte of properties, then padding and a checksum.
    header = stream[12:24]
    assert header[2:4] == b"\x21\x01"
    header[4] = 36  # a dictionary of 1 GiB
    header[8:12] = struct.pack("<I", zlib.crc32(header[:8]))
    stream[12:24] = header
    with pytest.raises(KernelError, match="its xz data are damaged"):
        decompress(memoryview(stream), "xz")


def test_zstd_that_claims_to_be_huge() -> None:
    # A frame whose header says that 2^62 bytes come out of its one empty block.
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 62) + b"\x01\x00\x00"
    with pytest.raises(KernelError, match="unpack to more than"):
        decompress(memoryview(frame), "zstd")
