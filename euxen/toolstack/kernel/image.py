"""Read a guest kernel image: bzImage or ELF, plain or compressed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from euxen.toolstack.errors import UserError
from euxen.toolstack.files import read_file
from euxen.toolstack.kernel import bzimage, elf
from euxen.toolstack.kernel.decompress import LIMIT, compression_of, decompress
from euxen.toolstack.kernel.elf import ElfImage, Segment
from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.layout import GuestKind, Layout, layout_of, reasons_against
from euxen.toolstack.kernel.notes import XenNotes, read_notes
from euxen.toolstack.kernel.symtab import bsd_symtab


@dataclass(frozen=True)
class KernelImage:
    """A kernel image, unpacked and checked: every number in it lies within the file and makes sense."""

    path: str
    format: str
    """"bzImage" or "ELF"."""
    compression: str | None
    """Of the payload of a bzImage, or of the file: "gzip", "bzip2", "xz", "lzma", "lzo", "lz4" or "zstd"."""
    banner: str | None
    """Linux's version, as a bzImage's header has it."""
    bits: int
    """32 or 64: the ELF class."""
    machine: int
    """e_machine: EM_386 or EM_X86_64."""
    entry: int
    """e_entry; where a guest really starts is its layout's ``virt_entry``."""
    segments: tuple[Segment, ...]
    """All to be loaded, in the file's order; the symbol table that a BSD kernel asks for comes last."""
    notes: XenNotes | None
    """What the kernel says to Xen, or None where it says nothing."""
    elf_bytes: memoryview = field(repr=False)
    """The whole ELF image, unpacked: a vmlinux."""

    def reasons_against(self, kind: GuestKind) -> tuple[str, ...]:
        """Why the kernel cannot be such a guest, each in a few words; nothing where it can."""
        return reasons_against(kind, self.machine, self.notes, self.segments, self.entry)

    @property
    def kinds(self) -> tuple[GuestKind, ...]:
        """The kinds of guest that the kernel can be."""
        return tuple(kind for kind in GuestKind if not self.reasons_against(kind))

    def layout(self, kind: GuestKind) -> Layout:
        """Where the kernel goes in such a guest. Raises KernelError with the reasons where it cannot be one."""
        reasons = self.reasons_against(kind)
        if reasons or self.notes is None:
            able = self.kinds
            advice = f'use type = "{able[0]}", or --type {able[0]}' if able else "use a kernel built for Xen"
            raise KernelError(f"{self.path} cannot be a {kind.upper()} guest: {'; '.join(reasons)}; {advice}")
        return layout_of(kind, self.notes, self.segments, self.entry)


def read_kernel(path: str | os.PathLike[str]) -> KernelImage:
    """Read the kernel image in a file. Raises KernelError, in one sentence, where it is none or is damaged."""
    try:
        data = read_file(path, "a kernel image", LIMIT, "which no kernel has; give the path of a kernel image")
    except UserError as error:
        raise KernelError(str(error)) from None
    return parse_kernel(data, os.fspath(path))


def parse_kernel(data: bytes, path: str) -> KernelImage:
    """Read the kernel image in ``data``; ``path`` is for messages. Raises KernelError."""
    try:
        return _parse(memoryview(data), path)
    except KernelError as error:
        raise KernelError(f"{path} cannot be used as a kernel: {error}") from None


def _parse(data: memoryview, path: str) -> KernelImage:
    compression = compression_of(data)
    if compression is not None:
        data = memoryview(decompress(data, compression))
    form = "ELF"
    banner = None
    if bzimage.is_bzimage(data):
        form = "bzImage"
        banner = bzimage.banner(data)
        compression, payload = bzimage.unpack(data)
        data = memoryview(payload)
    if bytes(data[: len(elf.MAGIC)]) != elf.MAGIC:
        if not data:
            raise KernelError("it is empty; give vmlinuz or vmlinux")
        start = bytes(data[:8]).hex(" ")
        raise KernelError(f"it is neither ELF nor bzImage (it starts with {start}); give vmlinuz or vmlinux")
    image = ElfImage(data)
    notes = read_notes(image)
    segments = image.segments
    if notes is not None and notes.bsd_symtab and (symbols := bsd_symtab(image)) is not None:
        segments += (symbols,)
    return KernelImage(
        path=path,
        format=form,
        compression=compression,
        banner=banner,
        bits=image.bits,
        machine=image.header.e_machine,
        entry=image.header.e_entry,
        segments=segments,
        notes=notes,
        elf_bytes=data,
    )
