"""Tell people what a kernel image is and what it can be: the text of ``euxen inspect``."""

from __future__ import annotations

from collections.abc import Iterator

from euxen.abi.elfnote import XEN_ELFNOTE
from euxen.toolstack.errors import printable
from euxen.toolstack.kernel.elf import EM_X86_64
from euxen.toolstack.kernel.image import KernelImage
from euxen.toolstack.kernel.layout import GuestKind
from euxen.toolstack.kernel.notes import NoteValue, XenNotes, feature_names

_LABEL = 10
_NOTE_NAME = max(len(name) for name in XEN_ELFNOTE.__members__)


def describe(image: KernelImage) -> Iterator[str]:
    """Lines of text: the file, its notes, the kinds of guest that it can be, and why it cannot be the others.

    Whatever the kernel says, no line does more to a terminal than print.
    """
    return map(printable, _lines(image))


def _lines(image: KernelImage) -> Iterator[str]:
    yield _line("File", image.path)
    yield _line("Format", _format(image))
    if image.banner is not None:
        yield _line("Linux", image.banner)
    yield _line("Entry", f"{image.entry:#x}")
    for number, segment in enumerate(image.segments):
        place = f"{segment.memsz:#x} bytes at {segment.paddr:#x} (virtual {segment.vaddr:#x})"
        yield _line("" if number else "Loads", f"{place}, {len(segment.data):#x} from the file")
    yield ""
    if image.notes is None:
        yield "No Xen ELF notes and no __xen_guest section"
    else:
        yield "Xen's string in section __xen_guest" if image.notes.legacy else "Xen ELF notes"
        for note in image.notes.values:
            yield f"  {note.name:{_NOTE_NAME}}  {_value(note)}"
        yield from _features(image.notes)
    for kind in GuestKind:
        yield ""
        yield from _guest(image, kind)


def _format(image: KernelImage) -> str:
    machine = "x86-64" if image.machine == EM_X86_64 else "i386"
    kernel = f"ELF{image.bits}, {machine}"
    if image.format == "bzImage":
        return f"bzImage, its {kernel} kernel compressed with {image.compression}"
    return f"{kernel}, compressed with {image.compression}" if image.compression else kernel


def _features(notes: XenNotes) -> Iterator[str]:
    if notes.f_supported:
        yield f"  {'supported':{_NOTE_NAME}}  {', '.join(feature_names(notes.f_supported))}"
    if notes.f_required:
        yield f"  {'required':{_NOTE_NAME}}  {', '.join(feature_names(notes.f_required))}"


def _guest(image: KernelImage, kind: GuestKind) -> Iterator[str]:
    reasons = image.reasons_against(kind)
    if reasons:
        yield f"{kind.upper()} guest: no"
        yield from (f"  {reason}" for reason in reasons)
        return
    layout = image.layout(kind)
    yield f"{kind.upper()} guest: yes"
    yield f"  kernel from {layout.virt_kstart:#x} to {layout.virt_kend:#x}, starts at {layout.virt_entry:#x}"


def _value(note: NoteValue) -> str:
    match note.value:
        case int(number):
            return f"{number:#x}"
        case str(text):
            return f'"{text}"'
        case bytes(raw):
            return raw.hex(" ")
        case pairs:
            return ", ".join(f"mask {mask:#x} value {value:#x}" for mask, value in pairs)


def _line(label: str, text: str) -> str:
    return f"{label + ':' if label else '':{_LABEL}}{text}"
