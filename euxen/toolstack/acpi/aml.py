"""A small assembler for AML, the byte code in ACPI's tables: each function gives the bytes of one construct.

Source: ACPI specification 6.3, chapter 20. Names are as in ASL: up to four letters, ``^`` for the parent scope, ``\\``
for the root, and dots between segments.
"""

from __future__ import annotations

ZERO, ONE = b"\x00", b"\x01"
NO_TARGET = b"\x00"
"""Where a result is not to be stored."""

SYSTEM_MEMORY, SYSTEM_IO = 0, 1
BYTE_ACCESS = 1
"""Flags of a field: accessed by bytes, without a lock, other bits preserved."""

MOST_IN_ONE_BYTE = 0x3F


def _length(value: int) -> bytes:
    """A PkgLength that holds just this value."""
    if value <= MOST_IN_ONE_BYTE:
        return bytes([value])
    more = -(-(value.bit_length() - 4) // 8)
    return bytes([more << 6 | value & 0xF]) + (value >> 4).to_bytes(more, "little")


def _package(opcode: bytes, content: bytes) -> bytes:
    """An opcode and its content with a PkgLength between them, which counts itself."""
    length = len(content) + 1
    if length > MOST_IN_ONE_BYTE:
        length = next(size for more in (1, 2, 3) if (size := len(content) + 1 + more) < 1 << 4 + 8 * more)
    return opcode + _length(length) + content


def name(path: str) -> bytes:
    """A NameString."""
    prefix = path[: len(path) - len(path.lstrip("\\^"))]
    segments = [segment.encode().ljust(4, b"_") for segment in path[len(prefix) :].split(".")]
    many = {1: b"", 2: b"\x2e"}.get(len(segments), b"\x2f" + bytes([len(segments)]))
    return prefix.encode() + many + b"".join(segments)


def integer(value: int) -> bytes:
    """The shortest constant of a value of up to 32 bits."""
    if value <= 1:
        return bytes([value])
    for prefix, size in ((b"\x0a", 1), (b"\x0b", 2)):
        if value < 1 << 8 * size:
            return prefix + value.to_bytes(size, "little")
    return b"\x0c" + value.to_bytes(4, "little")


def string(text: str) -> bytes:
    return b"\x0d" + text.encode("ascii") + b"\0"


def buffer(content: bytes) -> bytes:
    return _package(b"\x11", integer(len(content)) + content)


def arg(number: int) -> bytes:
    return bytes([0x68 + number])


def local(number: int) -> bytes:
    return bytes([0x60 + number])


# What is declared.


def scope(path: str, *terms: bytes) -> bytes:
    return _package(b"\x10", name(path) + b"".join(terms))


def named(path: str, value: bytes) -> bytes:
    """Name(path, value)."""
    return b"\x08" + name(path) + value


def operation_region(path: str, space: int, offset: bytes, length: bytes) -> bytes:
    return b"\x5b\x80" + name(path) + bytes([space]) + offset + length


def field(region: str, flags: int, *elements: tuple[str, int]) -> bytes:
    """Names for bits of a region, in their order: a name and how many bits; an empty name leaves bits out."""
    parts = ((name(element) if element else b"\x00") + _length(bits) for element, bits in elements)
    return _package(b"\x5b\x81", name(region) + bytes([flags]) + b"".join(parts))


def method(path: str, arguments: int, *terms: bytes) -> bytes:
    """A method that is not serialized."""
    return _package(b"\x14", name(path) + bytes([arguments]) + b"".join(terms))


def processor(path: str, number: int, block: int, block_length: int, *terms: bytes) -> bytes:
    """A processor, with its number and its block of registers, which is at an I/O port."""
    head = name(path) + bytes([number]) + block.to_bytes(4, "little") + bytes([block_length])
    return _package(b"\x5b\x83", head + b"".join(terms))


# What methods do.


def if_(predicate: bytes, *terms: bytes) -> bytes:
    return _package(b"\xa0", predicate + b"".join(terms))


def else_(*terms: bytes) -> bytes:
    return _package(b"\xa1", b"".join(terms))


def return_(value: bytes) -> bytes:
    return b"\xa4" + value


def store(value: bytes, target: bytes) -> bytes:
    return b"\x70" + value + target


def add(first: bytes, second: bytes, target: bytes = NO_TARGET) -> bytes:
    return b"\x72" + first + second + target


def subtract(first: bytes, second: bytes, target: bytes = NO_TARGET) -> bytes:
    return b"\x74" + first + second + target


def shift_right(value: bytes, bits: bytes, target: bytes = NO_TARGET) -> bytes:
    return b"\x7a" + value + bits + target


def and_(first: bytes, second: bytes, target: bytes = NO_TARGET) -> bytes:
    return b"\x7b" + first + second + target


def deref_of(reference: bytes) -> bytes:
    return b"\x83" + reference


def index(sequence: bytes, number: bytes, target: bytes = NO_TARGET) -> bytes:
    return b"\x88" + sequence + number + target


def to_buffer(value: bytes, target: bytes = NO_TARGET) -> bytes:
    return b"\x96" + value + target


def equal(first: bytes, second: bytes) -> bytes:
    return b"\x93" + first + second


def not_equal(first: bytes, second: bytes) -> bytes:
    return b"\x92" + equal(first, second)


def less(first: bytes, second: bytes) -> bytes:
    return b"\x95" + first + second


def notify(path: str, value: bytes) -> bytes:
    return b"\x86" + name(path) + value


def sleep(milliseconds: bytes) -> bytes:
    return b"\x5b\x22" + milliseconds


def call(path: str, *arguments: bytes) -> bytes:
    """Call a method."""
    return name(path) + b"".join(arguments)
