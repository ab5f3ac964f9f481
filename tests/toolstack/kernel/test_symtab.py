"""The symbol table of BSD kernels: a small ELF file behind the kernel."""

from __future__ import annotations

import struct

import pytest

from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.image import parse_kernel
from euxen.toolstack.kernel.layout import GuestKind

from .elf_writer import (
    BSD_SYMTAB,
    PHYS32_ENTRY,
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    Elf,
    Load,
    Section,
    note,
    pv_notes,
)

SYMBOLS = bytes(range(48))
NAMES = b"\0start\0main\0"
TABLES = [Section(".symtab", SHT_SYMTAB, SYMBOLS, link=2), Section(".strtab", SHT_STRTAB, NAMES)]
NOTES = pv_notes(note(BSD_SYMTAB, "yes"), note(PHYS32_ENTRY, 0x100000))


@pytest.mark.parametrize("bits, shentsize, header_code", [(64, 64, "<QQIHHHHHH"), (32, 40, "<IIIHHHHHH")])
def test_an_elf_file_with_the_symbols_lies_behind_the_kernel(bits: int, shentsize: int, header_code: str) -> None:
    elf = Elf(loads=[Load(memsz=0x1003)], notes=NOTES, sections=TABLES, bits=bits)
    image = parse_kernel(elf.build(), "netbsd")
    kernel, segment = image.segments
    align = bits // 8
    assert segment.paddr == (kernel.end + align - 1) // align * align
    assert segment.memsz == len(segment.data)
    assert len(segment.data) % align == 0

    size = struct.unpack_from("<I", segment.data)[0]
    small = bytes(segment.data[4 : 4 + size])
    assert small[:20] == elf.build()[:20]
    phoff, shoff, _, ehsize, phentsize, phnum, entry_size, shnum, shstrndx = struct.unpack_from(
        header_code, small, 32 if bits == 64 else 28
    )
    assert (phoff, phentsize, phnum, shstrndx) == (0, 0, 0, 0)
    assert (ehsize, entry_size, shnum) == (64 if bits == 64 else 52, shentsize, 3)

    contents = []
    for index in range(3):
        at = shoff + index * entry_size
        kind = struct.unpack_from("<I", small, at + 4)[0]
        code, place = ("<QQI", at + 24) if bits == 64 else ("<III", at + 16)
        offset, length, link = struct.unpack_from(code, small, place)
        contents.append((kind, link, small[offset : offset + length]))
    assert contents == [(0, 0, b""), (SHT_SYMTAB, 2, SYMBOLS), (SHT_STRTAB, 0, NAMES)]
    assert small.endswith(NAMES)


def test_the_kernel_ends_behind_its_symbols() -> None:
    image = parse_kernel(Elf(loads=[Load(memsz=0x1000)], notes=NOTES, sections=TABLES).build(), "netbsd")
    for kind in GuestKind:
        assert image.layout(kind).virt_kend == image.segments[-1].end > 0x101000


@pytest.mark.parametrize(
    "notes, sections",
    [
        (pv_notes(), TABLES),  # not asked for
        (NOTES, []),  # stripped
        (NOTES, [Section(".symtab", SHT_SYMTAB, SYMBOLS, link=9)]),
        (NOTES, [Section(".symtab", SHT_SYMTAB, SYMBOLS, link=2), Section(".strtab", SHT_PROGBITS, NAMES)]),
    ],
)
def test_no_symbols_to_load(notes: bytes, sections: list[Section]) -> None:
    assert len(parse_kernel(Elf(notes=notes, sections=sections).build(), "netbsd").segments) == 1


@pytest.mark.parametrize("index, words", [(0, "symbol table"), (1, "string table")])
def test_symbols_outside_the_file(index: int, words: str) -> None:
    tables = [
        Section(t.name, t.type, t.data, t.link, size=1 << 40 if i == index else None) for i, t in enumerate(TABLES)
    ]
    with pytest.raises(KernelError, match=f"its {words} should end at byte"):
        parse_kernel(Elf(notes=NOTES, sections=tables).build(), "netbsd")
