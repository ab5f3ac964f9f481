"""ELF headers, as far as loading a kernel needs them. System V ABI, "Object Files"; Linux: include/uapi/linux/elf.h

Only headers are read, and section headers only when asked for: a kernel waits for nothing else here. Every offset
and size is checked against the file before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from euxen.abi.structure import Structure, chars, u8, u16, u32, u64
from euxen.toolstack.kernel.errors import KernelError

MAGIC = b"\x7fELF"

ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB = 1
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
SHT_SYMTAB, SHT_STRTAB, SHT_NOTE = 2, 3, 7
PF_RWX = 7

STRING_MAX = 4096
"""libelf's ELF_MAX_STRING_LENGTH, in bytes."""
NOTES_MAX = 65536
"""libelf's ELF_MAX_TOTAL_NOTE_COUNT."""


class Elf_Ident(Structure):
    """e_ident, the same in both classes."""

    magic: bytes = chars(4)
    ei_class: int = u8()
    ei_data: int = u8()
    ei_version: int = u8()
    pad: bytes = chars(9)


class Elf64_Ehdr(Structure):
    e_ident: bytes = chars(16)
    e_type: int = u16()
    e_machine: int = u16()
    e_version: int = u32()
    e_entry: int = u64()
    e_phoff: int = u64()
    e_shoff: int = u64()
    e_flags: int = u32()
    e_ehsize: int = u16()
    e_phentsize: int = u16()
    e_phnum: int = u16()
    e_shentsize: int = u16()
    e_shnum: int = u16()
    e_shstrndx: int = u16()


class Elf32_Ehdr(Structure):
    e_ident: bytes = chars(16)
    e_type: int = u16()
    e_machine: int = u16()
    e_version: int = u32()
    e_entry: int = u32()
    e_phoff: int = u32()
    e_shoff: int = u32()
    e_flags: int = u32()
    e_ehsize: int = u16()
    e_phentsize: int = u16()
    e_phnum: int = u16()
    e_shentsize: int = u16()
    e_shnum: int = u16()
    e_shstrndx: int = u16()


class Elf64_Phdr(Structure):
    p_type: int = u32()
    p_flags: int = u32()
    p_offset: int = u64()
    p_vaddr: int = u64()
    p_paddr: int = u64()
    p_filesz: int = u64()
    p_memsz: int = u64()
    p_align: int = u64()


class Elf32_Phdr(Structure):
    p_type: int = u32()
    p_offset: int = u32()
    p_vaddr: int = u32()
    p_paddr: int = u32()
    p_filesz: int = u32()
    p_memsz: int = u32()
    p_flags: int = u32()
    p_align: int = u32()


class Elf64_Shdr(Structure):
    sh_name: int = u32()
    sh_type: int = u32()
    sh_flags: int = u64()
    sh_addr: int = u64()
    sh_offset: int = u64()
    sh_size: int = u64()
    sh_link: int = u32()
    sh_info: int = u32()
    sh_addralign: int = u64()
    sh_entsize: int = u64()


class Elf32_Shdr(Structure):
    sh_name: int = u32()
    sh_type: int = u32()
    sh_flags: int = u32()
    sh_addr: int = u32()
    sh_offset: int = u32()
    sh_size: int = u32()
    sh_link: int = u32()
    sh_info: int = u32()
    sh_addralign: int = u32()
    sh_entsize: int = u32()


class Elf_Nhdr(Structure):
    """A note's header, the same in both classes; the name and the description follow, each aligned to 4 bytes."""

    n_namesz: int = u32()
    n_descsz: int = u32()
    n_type: int = u32()


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory that the kernel asks to have loaded: ``data``, then zeros up to ``memsz`` bytes."""

    paddr: int
    """Where, in bytes, by the ELF image's own physical addresses (see ``Layout`` for what they mean to a PV guest)."""
    vaddr: int
    memsz: int
    """In bytes, at least ``len(data)``."""
    data: memoryview
    """A view of the image, not a copy."""

    @property
    def end(self) -> int:
        """The first physical address behind the segment."""
        return self.paddr + self.memsz


@dataclass(frozen=True, slots=True)
class Note:
    """A note whose name was "Xen": its type, and where in the image its description lies."""

    type: int
    desc: int
    descsz: int


Ehdr = Elf32_Ehdr | Elf64_Ehdr
Phdr = Elf32_Phdr | Elf64_Phdr
Shdr = Elf32_Shdr | Elf64_Shdr
_Entry = TypeVar("_Entry", Phdr, Shdr)


class ElfImage:
    """A little-endian x86 ELF image whose headers were checked. Raises KernelError where they are wrong."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.header = _header(data)
        self.bits = 64 if isinstance(self.header, Elf64_Ehdr) else 32
        header = self.header
        kind: type[Phdr] = Elf64_Phdr if self.bits == 64 else Elf32_Phdr
        self.program_headers = self._table("program", kind, header.e_phoff, header.e_phentsize, header.e_phnum)
        # Section headers come last in a file: looking for them now finds every image that was cut off.
        self._check_table("section", header.e_shoff, header.e_shentsize, header.e_shnum)

    def _table(self, what: str, kind: type[_Entry], offset: int, step: int, count: int) -> tuple[_Entry, ...]:
        self._check_table(what, offset, step, count)
        if count and step < kind.size:
            raise KernelError(
                f"its ELF {what} headers are {step} bytes each instead of {kind.size}; get the kernel again"
            )
        return tuple(kind.unpack_from(self.data, offset + i * step) for i in range(count))

    def _check_table(self, what: str, offset: int, step: int, count: int) -> None:
        if offset + step * count > len(self.data):
            raise KernelError(
                f"its ELF {what} headers should end at byte {offset + step * count}, but the image has "
                f"{len(self.data)} bytes, so it was cut off; get the kernel again"
            )

    @cached_property
    def section_headers(self) -> tuple[Shdr, ...]:
        """All section headers; raises KernelError where they are wrong."""
        header = self.header
        kind: type[Shdr] = Elf64_Shdr if self.bits == 64 else Elf32_Shdr
        return self._table("section", kind, header.e_shoff, header.e_shentsize, header.e_shnum)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments to load, in the file's order. Raises KernelError where one is impossible or two overlap."""
        segments = []
        for index, phdr in enumerate(self.program_headers):
            # Like libelf, skip segments that nobody may read, write or execute.
            if phdr.p_type != PT_LOAD or not phdr.p_flags & PF_RWX:
                continue
            if phdr.p_filesz > phdr.p_memsz:
                raise KernelError(
                    f"its ELF segment {index} has {phdr.p_filesz} bytes in the file but only {phdr.p_memsz} in memory; "
                    "get the kernel again"
                )
            if max(phdr.p_paddr, phdr.p_vaddr) + phdr.p_memsz > 1 << self.bits:
                raise KernelError(
                    f"its ELF segment {index} wraps around the end of the address space; get the kernel again"
                )
            data = self.bytes_at(phdr.p_offset, phdr.p_filesz, f"ELF segment {index}")
            segments.append(Segment(phdr.p_paddr, phdr.p_vaddr, phdr.p_memsz, data))
        if not segments:
            raise KernelError("its ELF image has no segment to load (PT_LOAD); link it as an executable")
        in_order = sorted(segments, key=lambda segment: (segment.paddr, segment.end))
        for below, above in pairwise(in_order):
            if above.paddr < below.end:
                raise KernelError(
                    f"its ELF segments at {below.paddr:#x} and {above.paddr:#x} overlap in memory; get the kernel again"
                )
        return tuple(segments)

    def bytes_at(self, offset: int, size: int, what: str) -> memoryview:
        """A view of ``size`` bytes of the image. Raises KernelError, naming ``what``, where they are not all there."""
        if offset + size > len(self.data):
            raise KernelError(
                f"its {what} should end at byte {offset + size}, but the image has {len(self.data)} bytes, "
                "so it was cut off; get the kernel again"
            )
        return self.data[offset : offset + size]

    def integer(self, offset: int, size: int, what: str) -> int:
        """An unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.bytes_at(offset, size, what), "little")

    def string(self, offset: int, what: str) -> str:
        """A zero-terminated string of at most STRING_MAX bytes."""
        text = bytes(self.data[offset : offset + STRING_MAX + 1])
        end = text.find(b"\0")
        if end < 0:
            raise KernelError(f"its {what} has no end within {STRING_MAX} bytes; get the kernel again")
        return text[:end].decode("latin-1")

    def section_named(self, name: str) -> Shdr | None:
        """The first section with that name."""
        headers = self.section_headers
        if self.header.e_shstrndx >= len(headers):
            return None
        strings = headers[self.header.e_shstrndx].sh_offset
        wanted = name.encode() + b"\0"
        for section in headers:
            start = strings + section.sh_name
            if self.data[start : start + len(wanted)] == wanted:
                return section
        return None

    def xen_notes(self) -> tuple[Note, ...]:
        """Every note named "Xen": of the PT_NOTE segments or, where those have none, of the SHT_NOTE sections."""
        # Some binutils leave p_offset of note segments zero, and the sections tell where the notes are.
        segments = [(p.p_offset, p.p_filesz) for p in self.program_headers if p.p_type == PT_NOTE and p.p_offset]
        if notes := self._xen_notes_in(segments):
            return notes
        return self._xen_notes_in([(s.sh_offset, s.sh_size) for s in self.section_headers if s.sh_type == SHT_NOTE])

    def _xen_notes_in(self, areas: list[tuple[int, int]]) -> tuple[Note, ...]:
        seen = 0
        found = []
        for start, size in areas:
            self.bytes_at(start, size, "notes")
            for name, note in self._notes_between(start, start + size):
                seen += 1
                if seen > NOTES_MAX:
                    raise KernelError(f"it has more than {NOTES_MAX} ELF notes; get the kernel again")
                if name == b"Xen\0":
                    found.append(note)
        return tuple(found)

    def _notes_between(self, start: int, end: int) -> Iterator[tuple[bytes, Note]]:
        """Notes with the first four bytes of their names.

        GRUB's last note claims more bytes than it has, so only headers must lie before ``end``; who reads a
        description checks it.
        """
        while start < end:
            self.bytes_at(start, Elf_Nhdr.size, "ELF note")
            namesz, descsz, kind = struct.unpack_from("<III", self.data, start)
            name = start + Elf_Nhdr.size
            desc = name + (namesz + 3 & ~3)
            yield bytes(self.data[name : name + 4]), Note(kind, desc, descsz)
            start = desc + (descsz + 3 & ~3)


def _header(data: memoryview) -> Ehdr:
    """The ELF header, after the checks that tell an x86 kernel from another ELF file."""
    if len(data) < Elf32_Ehdr.size:
        raise KernelError(f"its ELF image was cut off after {len(data)} bytes; get the kernel again")
    ident = Elf_Ident.unpack_from(data)
    if ident.ei_class not in (ELFCLASS32, ELFCLASS64):
        raise KernelError(f"its ELF class is {ident.ei_class}, neither 32-bit nor 64-bit; get the kernel again")
    if ident.ei_data != ELFDATA2LSB:
        raise KernelError("it is a big-endian ELF image; use a kernel built for x86")
    if ident.ei_class == ELFCLASS64 and len(data) < Elf64_Ehdr.size:
        raise KernelError(f"its ELF image was cut off after {len(data)} bytes; get the kernel again")
    header: Ehdr
    if ident.ei_class == ELFCLASS64:
        header, machine, name = Elf64_Ehdr.unpack_from(data), EM_X86_64, "x86-64 (EM_X86_64)"
    else:
        header, machine, name = Elf32_Ehdr.unpack_from(data), EM_386, "i386 (EM_386)"
    if header.e_machine != machine:
        raise KernelError(
            f"it is an ELF image for machine {header.e_machine}, where its class demands {name}; "
            "use a kernel built for x86"
        )
    if header.e_type not in (ET_EXEC, ET_DYN):
        raise KernelError(f"its ELF type is {header.e_type}, which is no executable; use the linked kernel (vmlinux)")
    return header
