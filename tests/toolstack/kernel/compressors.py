"""The other direction of euxen.toolstack.kernel.decompress: what Linux's build makes, and what its tools make."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable

import lz4.block
import lzallright
import zstandard

LZ4_BLOCK = 8 << 20
LZO_BLOCK = 256 << 10


def lz4_legacy(data: bytes) -> bytes:
    """As ``lz4 -l`` writes it."""
    out = struct.pack("<I", 0x184C2102)
    for at in range(0, len(data), LZ4_BLOCK):
        block = lz4.block.compress(data[at : at + LZ4_BLOCK], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def lzop(data: bytes, *, filter: bool = False) -> bytes:
    """As ``lzop`` writes it: big-endian header, blocks of 256 KiB, and a block as it is where it would not shrink."""
    flags = 0x0800 if filter else 0
    head = struct.pack(">HHHBBI", 0x1030, 0x2080, 0x0940, 1, 9, flags)
    head += (struct.pack(">I", 1) if filter else b"") + struct.pack(">III", 0o100644, 0, 0) + b"\4name"
    out = b"\x89LZO\x00\r\n\x1a\n" + head + struct.pack(">I", zlib.adler32(head))
    for at in range(0, len(data), LZO_BLOCK):
        block = data[at : at + LZO_BLOCK]
        packed = lzallright.LZOCompressor().compress(block)
        packed = packed if len(packed) < len(block) else block
        out += struct.pack(">III", len(block), len(packed), zlib.adler32(block)) + packed
    return out + bytes(4)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lzo": lzop,
    "lz4": lz4_legacy,
    # Linux pipes its kernel through zstd, which then does not know the size.
    "zstd": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
}

TOOLS = {
    "gzip": ["gzip", "-n", "-9"],
    "bzip2": ["bzip2", "-9"],
    "xz": ["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB"],
    "lzma": ["lzma", "-9"],
    "lzo": ["lzop", "-9"],
    "lz4": ["lz4", "-l", "-9", "-", "-"],
    "zstd": ["zstd", "-22", "--ultra"],
}
"""The commands with which Linux compresses its kernel: scripts/Makefile.lib."""


def with_tool(name: str, data: bytes) -> bytes | None:
    """Compress with the tool of this host, or None where it has none."""
    command = TOOLS[name]
    if shutil.which(command[0]) is None:
        return None
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def payload(name: str, data: bytes) -> bytes:
    """As a bzImage has it: the size of the unpacked data behind it, which gzip's own format has already."""
    packed = COMPRESSORS[name](data)
    return packed if name == "gzip" else packed + struct.pack("<I", len(data))
