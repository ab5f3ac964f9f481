"""The compressions that a kernel can come in, as libxenguest's xg_dom_bzimageloader.c knows them.

Nothing that a file claims is believed before it is checked: no decompressor writes more than ``limit`` bytes, or
asks for more memory than its format needs for a kernel.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

from euxen.toolstack.kernel.errors import KernelError

LIMIT = 1 << 30
"""No kernel is larger than this when unpacked, in bytes."""

# A small file can ask for a gigantic dictionary; 256 MiB is what libxenguest allows.
_LZMA_MEMORY = 256 << 20
# What Linux itself allows in lib/decompress_unlz4.c and lib/decompress_unlzo.c.
_LZ4_BLOCK = 8 << 20
_LZO_BLOCK = 256 << 10
_LZ4_LEGACY_MAGIC = 0x184C2102
_LZOP_HEADER_HAS_FILTER = 0x800


class _DamagedError(Exception):
    """The data are not what the format demands; says how."""


class _TooLargeError(Exception):
    """There is more output than the limit."""


class _Decompressor(Protocol):
    """What bz2 and lzma share."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: memoryview, max_length: int) -> bytes: ...


def _gzip(data: memoryview, limit: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    return _bounded(decompressor.decompress(data, limit + 1), decompressor.eof, limit)


def _bzip2(data: memoryview, limit: int) -> bytes:
    return _stream(bz2.BZ2Decompressor(), data, limit)


def _xz(data: memoryview, limit: int) -> bytes:
    return _stream(lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY), data, limit)


def _lzma(data: memoryview, limit: int) -> bytes:
    return _stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY), data, limit)


def _stream(decompressor: _Decompressor, data: memoryview, limit: int) -> bytes:
    return _bounded(decompressor.decompress(data, limit + 1), decompressor.eof, limit)


def _bounded(output: bytes, complete: bool, limit: int) -> bytes:
    if len(output) > limit:
        raise _TooLargeError
    if not complete:
        raise _DamagedError("it ends too early")
    return output


def _zstd(data: memoryview, limit: int) -> bytes:
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    try:
        # What a frame claims would be allocated at once, whatever the limit.
        if zstandard.frame_content_size(data) > limit:
            raise _TooLargeError
        # In one piece, as the streaming reader takes the end of the data for the end of the frame.
        output = decompressor.decompress(data, max_output_size=limit + 1, allow_extra_data=True)
        return _bounded(output, True, limit)
    except zstandard.ZstdError as error:
        trouble = str(error)
    # The error is the same for a frame that is cut off and for one that is too large.
    try:
        output = decompressor.stream_reader(data).read(limit + 1)
    except zstandard.ZstdError:
        output = b""
    if len(output) > limit:
        raise _TooLargeError
    raise _DamagedError(trouble)


def _lz4(data: memoryview, limit: int) -> bytes:
    """The "legacy frame": blocks of at most 8 MiB after their compressed length, and no end mark."""
    import lz4.block

    blocks: list[bytes] = []
    total = 0
    at = 4
    while at < len(data):
        length = _u32(data, at, "<I")
        at += 4
        if length == _LZ4_LEGACY_MAGIC:
            continue  # the frames of several files, one after another
        if length > len(data) - at:
            raise _DamagedError("it ends too early")
        try:
            block = lz4.block.decompress(data[at : at + length], uncompressed_size=_LZ4_BLOCK)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise _DamagedError(str(error)) from None
        at += length
        blocks.append(block)
        total += len(block)
        if total > limit:
            raise _TooLargeError
    return b"".join(blocks)


def _lzo(data: memoryview, limit: int) -> bytes:
    """The file format of lzop: a header with the original file's name, then blocks of LZO1X."""
    import lzallright

    blocks: list[bytes] = []
    total = 0
    at = _lzop_header(data)
    while size := _u32(data, at, ">I"):
        length = _u32(data, at + 4, ">I")
        at += 12  # both lengths and the block's checksum
        if size > _LZO_BLOCK or not 0 < length <= min(size, len(data) - at):
            raise _DamagedError("a block has an impossible length")
        compressed = data[at : at + length]
        at += length
        if length == size:
            block = bytes(compressed)  # lzop stores a block that did not shrink
        else:
            try:
                block = lzallright.LZOCompressor.decompress(compressed, size)
            except lzallright.LZOError as error:
                raise _DamagedError(str(error)) from None
        if len(block) != size:
            raise _DamagedError("a block has another length than it claims")
        blocks.append(block)
        total += size
        if total > limit:
            raise _TooLargeError
    return b"".join(blocks)


def _lzop_header(data: memoryview) -> int:
    """The length of lzop's header, whose members depend on its version and flags."""
    if len(data) < 38:
        raise _DamagedError("it ends too early")
    newer = struct.unpack_from(">H", data, 9)[0] >= 0x0940
    flags_at = 17 if newer else 16
    has_filter = bool(_u32(data, flags_at, ">I") & _LZOP_HEADER_HAS_FILTER)
    # flags, filter, mode, one or two halves of the time; then the name and a checksum
    name_at = flags_at + 4 + 4 * has_filter + 4 + (8 if newer else 4)
    return name_at + 1 + data[name_at] + 4


def _u32(data: memoryview, at: int, code: str) -> int:
    if at + 4 > len(data):
        raise _DamagedError("it ends too early")
    value: int = struct.unpack_from(code, data, at)[0]
    return value


_FORMATS: dict[str, tuple[bytes, Callable[[memoryview, int], bytes]]] = {
    "gzip": (b"\x1f\x8b", _gzip),
    "bzip2": (b"BZh", _bzip2),
    "xz": (b"\xfd7zXZ\x00", _xz),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
    "lzma": (b"\x5d\x00\x00", _lzma),
    "lzo": (b"\x89LZO\x00\r\n\x1a\n", _lzo),
    "lz4": (b"\x02\x21\x4c\x18", _lz4),
}


def compression_of(data: memoryview) -> str | None:
    """The name of the compression whose magic number ``data`` starts with."""
    for name, (magic, _) in _FORMATS.items():
        if data[: len(magic)] == magic:
            return name
    return None


def decompress(data: memoryview, compression: str, limit: int = LIMIT) -> bytes:
    """Unpack ``data``, whose compression is one of ``compression_of``'s names, to at most ``limit`` bytes.

    What follows the compressed stream is ignored. Raises KernelError where the data are damaged or too large.
    """
    unpack = _FORMATS[compression][1]
    try:
        return unpack(data, limit)
    except _TooLargeError:
        raise KernelError(f"its {compression} data unpack to more than {limit} bytes; get the kernel again") from None
    except (_DamagedError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise KernelError(f"its {compression} data are damaged ({error}); get the kernel again") from None
