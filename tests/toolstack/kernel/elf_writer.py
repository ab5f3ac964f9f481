"""Write small ELF images and bzImages for tests, right ones and wrong ones, without any code of euxen."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
SHT_SYMTAB, SHT_STRTAB, SHT_NOTE, SHT_PROGBITS = 2, 3, 7, 1

# XEN_ELFNOTE_* of xen/include/public/elfnote.h
INFO, ENTRY, HYPERCALL_PAGE, VIRT_BASE, PADDR_OFFSET, XEN_VERSION = range(6)
GUEST_OS, GUEST_VERSION, LOADER, PAE_MODE, FEATURES, BSD_SYMTAB = range(6, 12)
HV_START_LOW, L1_MFN_VALID, SUSPEND_CANCEL, INIT_P2M, MOD_START_PFN = range(12, 17)
SUPPORTED_FEATURES, PHYS32_ENTRY = 17, 18


@dataclass
class Load:
    """A PT_LOAD segment; ``filesz``, ``offset`` and ``type`` are for wrong ones."""

    paddr: int = 0x100000
    data: bytes = b"\x90" * 64
    vaddr: int | None = None
    memsz: int | None = None
    flags: int = 7
    filesz: int | None = None
    offset: int | None = None


@dataclass
class Section:
    """A section with its contents in the file."""

    name: str
    type: int = SHT_PROGBITS
    data: bytes = b""
    link: int = 0
    size: int | None = None


@dataclass
class Elf:
    """An ELF image. What is None gets the right value."""

    loads: Sequence[Load] = (Load(),)
    notes: bytes = b""
    """Of one PT_NOTE segment."""
    sections: Sequence[Section] = ()
    entry: int = 0x100000
    bits: int = 64
    machine: int | None = None
    type: int = 2
    data_encoding: int = 1
    ei_class: int | None = None
    phentsize: int | None = None
    shentsize: int | None = None
    shoff: int | None = None
    note_offset: int | None = None
    tail: bytes = field(default=b"")

    def build(self) -> bytes:
        wide = self.bits == 64
        ehsize, phentsize, shentsize = (64, 56, 64) if wide else (52, 32, 40)
        headers = len(self.loads) + bool(self.notes)
        body = bytearray()
        start = ehsize + headers * phentsize

        def place(data: bytes) -> int:
            body.extend(bytes(-(start + len(body)) % 16))
            body.extend(data)
            return start + len(body) - len(data)

        phdrs = b"".join(
            self._phdr(
                PT_LOAD,
                load.flags,
                place(load.data) if load.offset is None else load.offset,
                load.paddr if load.vaddr is None else load.vaddr,
                load.paddr,
                len(load.data) if load.filesz is None else load.filesz,
                len(load.data) if load.memsz is None else load.memsz,
            )
            for load in self.loads
        )
        if self.notes:
            at = place(self.notes)
            offset = at if self.note_offset is None else self.note_offset
            phdrs += self._phdr(PT_NOTE, 4, offset, 0, 0, len(self.notes), 0)

        sections = [Section("", 0), *self.sections] if self.sections else []
        if sections:
            names = b"\0" + b"".join(s.name.encode() + b"\0" for s in sections[1:]) + b".shstrtab\0"
            sections.append(Section(".shstrtab", SHT_STRTAB, names))
        shdrs = b""
        for section in sections:
            name = names.index(b"\0" + section.name.encode() + b"\0") + 1 if section.name else 0
            size = len(section.data) if section.size is None else section.size
            shdrs += self._shdr(name, section.type, place(section.data), size, section.link)
        shoff = place(shdrs) if sections else 0

        ident = b"\x7fELF" + bytes([self.ei_class or (2 if wide else 1), self.data_encoding, 1]) + bytes(9)
        machine = self.machine or (EM_X86_64 if wide else EM_386)
        header = ident + struct.pack(
            "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH",
            self.type,
            machine,
            1,
            self.entry,
            ehsize,
            shoff if self.shoff is None else self.shoff,
            0,
            ehsize,
            phentsize if self.phentsize is None else self.phentsize,
            headers,
            shentsize if self.shentsize is None else self.shentsize,
            len(sections),
            max(len(sections) - 1, 0),
        )
        return header + phdrs + bytes(body) + self.tail

    def _phdr(self, kind: int, flags: int, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int) -> bytes:
        if self.bits == 64:
            return struct.pack("<IIQQQQQQ", kind, flags, offset, vaddr, paddr, filesz, memsz, 1)
        return struct.pack("<IIIIIIII", kind, offset, vaddr, paddr, filesz, memsz, flags, 1)

    def _shdr(self, name: int, kind: int, offset: int, size: int, link: int) -> bytes:
        code = "<IIQQQQIIQQ" if self.bits == 64 else "<IIIIIIIIII"
        return struct.pack(code, name, kind, 0, 0, offset, size, link, 0, 1, 0)


def note(kind: int, desc: bytes | str | int, name: bytes = b"Xen\0", size: int = 8) -> bytes:
    """One ELF note; numbers get ``size`` bytes, strings their final zero."""
    if isinstance(desc, int):
        desc = desc.to_bytes(size, "little")
    elif isinstance(desc, str):
        desc = desc.encode() + b"\0"
    return struct.pack("<III", len(name), len(desc), kind) + _pad4(name) + _pad4(desc)


def pv_notes(*more: bytes, base: int = 0, entry: int = 0x100000) -> bytes:
    """The notes of a kernel that can be a PV guest."""
    return b"".join(
        (
            note(GUEST_OS, "test"),
            note(LOADER, "generic"),
            note(XEN_VERSION, "xen-3.0"),
            note(VIRT_BASE, base),
            note(ENTRY, entry),
            *more,
        )
    )


def bzimage(
    payload: bytes,
    *,
    banner: bytes | None = b"9.9.9-test (tester@example.org) #1\0",
    version: int = 0x020F,
    length: int | None = None,
    setup_sects: int = 3,
) -> bytes:
    """Linux's boot header before a payload that is compressed already and ends with its unpacked size."""
    setup = bytearray((setup_sects + 1) * 512)
    setup[0x1F1] = setup_sects
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    if banner is not None:
        struct.pack_into("<H", setup, 0x20E, 0x300)
        setup[0x500 : 0x500 + len(banner)] = banner
    offset = 64
    struct.pack_into("<II", setup, 0x248, offset, len(payload) if length is None else length)
    return bytes(setup) + bytes(offset) + payload


def _pad4(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
