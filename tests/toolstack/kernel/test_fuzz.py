"""Whatever a file holds, it is read or refused in one sentence."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.image import parse_kernel
from euxen.toolstack.kernel.inspect import describe
from euxen.toolstack.kernel.layout import GuestKind

from .compressors import payload
from .elf_writer import (
    BSD_SYMTAB,
    FEATURES,
    L1_MFN_VALID,
    PHYS32_ENTRY,
    SHT_NOTE,
    SHT_STRTAB,
    SHT_SYMTAB,
    Elf,
    Load,
    Section,
    bzimage,
    note,
    pv_notes,
)

NOTES = pv_notes(
    note(PHYS32_ENTRY, 0x100000),
    note(FEATURES, "!writable_page_tables|dom0"),
    note(L1_MFN_VALID, bytes(16)),
    note(BSD_SYMTAB, "yes"),
)
SYMBOLS = [Section(".symtab", SHT_SYMTAB, bytes(48), link=2), Section(".strtab", SHT_STRTAB, b"\0name\0")]
SEEDS = [
    Elf(loads=[Load(), Load(0x200000, memsz=0x3000)], notes=NOTES, sections=SYMBOLS, bits=bits).build()
    for bits in (64, 32)
]
SEEDS += [
    Elf(sections=[*SYMBOLS, Section(".notes", SHT_NOTE, NOTES)]).build(),
    Elf(sections=[Section("__xen_guest", data=b"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0x0,BSD_SYMTAB\0")]).build(),
    bzimage(payload("lz4", SEEDS[0])),
    bzimage(payload("xz", SEEDS[0])),
]
INTERESTING = [0, 1, 3, 4, 7, 0x7F, 0x80, 0xFE, 0xFF]


def use(data: bytes) -> None:
    """Do everything that a builder or ``euxen inspect`` would."""
    try:
        image = parse_kernel(data, "fuzz")
    except KernelError as error:
        assert "\n" not in str(error)
        return
    for line in describe(image):
        assert line.isprintable()
    for kind in GuestKind:
        reasons = image.reasons_against(kind)
        assert (kind in image.kinds) == (not reasons)
        if not reasons:
            layout = image.layout(kind)
            assert layout.virt_kstart <= layout.virt_entry <= layout.virt_kend < 1 << 64
    for segment in image.segments:
        assert 0 <= len(segment.data) <= segment.memsz
        assert segment.end <= 1 << 64


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_mutated_images(data: st.DataObject) -> None:
    image = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(image) - 1))
        image[at : at + 1] = data.draw(
            st.one_of(st.sampled_from(INTERESTING).map(lambda byte: bytes([byte])), st.binary(max_size=9))
        )
    use(bytes(image[: data.draw(st.one_of(st.none(), st.integers(0, len(image))))]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", b"\x7fELF\2\1\1", b"\x7fELF\1\1\1"]), st.binary(max_size=600))
def test_random_bytes(start: bytes, data: bytes) -> None:
    use(start + data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_notes(notes: bytes, in_section: bool) -> None:
    if in_section:
        use(Elf(sections=[Section(".notes", SHT_NOTE, notes)]).build())
    else:
        use(Elf(notes=notes).build())
