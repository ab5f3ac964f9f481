"""The symbol table that BSD kernels ask for with XEN_ELFNOTE_BSD_SYMTAB: xen/common/libelf/libelf-loader.c.

It is loaded behind the kernel as a small ELF file of its own, after a 32-bit word with its size::

    size | ELF header | 3 section headers | symbols | strings

The headers of 32-bit kernels have the room of 64-bit ones, too. (libelf puts them there, but counts 68 bytes less.)
"""

from __future__ import annotations

import struct

from euxen.toolstack.kernel.elf import (
    SHT_STRTAB,
    SHT_SYMTAB,
    Elf64_Ehdr,
    Elf64_Shdr,
    ElfImage,
    Segment,
)

_SIZE_WORD = 4
_SECTIONS = 3
_SYMTAB_INDEX, _STRTAB_INDEX = 1, 2
_HEADER_ROOM = Elf64_Ehdr.size
_SYMBOLS_AT = _SIZE_WORD + _HEADER_ROOM + _SECTIONS * Elf64_Shdr.size
_EV_CURRENT = 1


def bsd_symtab(elf: ElfImage) -> Segment | None:
    """The segment with the symbols of an image, behind its last one; None, as in libelf, where it was stripped.

    Raises KernelError where the symbols lie outside the file.
    """
    sections = elf.section_headers
    symbols = next((section for section in sections if section.sh_type == SHT_SYMTAB), None)
    if symbols is None or symbols.sh_link >= len(sections):
        return None
    strings = sections[symbols.sh_link]
    if strings.sh_type != SHT_STRTAB:
        return None
    symbol_bytes = elf.bytes_at(symbols.sh_offset, symbols.sh_size, "symbol table")
    string_bytes = elf.bytes_at(strings.sh_offset, strings.sh_size, "string table")

    align = elf.bits // 8
    symbols_at = _round_up(_SYMBOLS_AT, align)
    strings_at = _round_up(symbols_at + len(symbol_bytes), align)
    end = strings_at + len(string_bytes)

    image = bytearray(_round_up(end, align))
    struct.pack_into("<I", image, 0, end - _SIZE_WORD)
    header = type(elf.header).unpack_from(elf.data)
    header.e_ehsize = header.size
    header.e_version = _EV_CURRENT
    header.e_phoff = header.e_phentsize = header.e_phnum = header.e_shstrndx = 0
    header.e_shoff = _HEADER_ROOM
    header.e_shentsize = symbols.size
    header.e_shnum = _SECTIONS
    header.pack_into(image, _SIZE_WORD)
    for index, section, at in ((_SYMTAB_INDEX, symbols, symbols_at), (_STRTAB_INDEX, strings, strings_at)):
        place = _SIZE_WORD + _HEADER_ROOM + index * section.size
        section.pack_into(image, place)
        # Offsets in this small file count from its ELF header.
        loaded = type(section).unpack_from(image, place)
        loaded.sh_offset = at - _SIZE_WORD
        if index == _SYMTAB_INDEX:
            loaded.sh_link = _STRTAB_INDEX
        loaded.pack_into(image, place)
    image[symbols_at : symbols_at + len(symbol_bytes)] = symbol_bytes
    image[strings_at:end] = string_bytes

    last = max(elf.segments, key=lambda segment: segment.end)
    paddr = _round_up(last.end, align)
    return Segment(paddr, paddr - last.paddr + last.vaddr, len(image), memoryview(image).toreadonly())


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) // align * align
