"""What kernels say to Xen: each note, each default, the older string, and what is damaged."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from euxen.abi.features import XENFEAT
from euxen.toolstack.kernel.elf import ElfImage
from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.notes import NoteValue, Pae, XenNotes, feature_names, parse_features, read_notes

from .elf_writer import (
    BSD_SYMTAB,
    ENTRY,
    FEATURES,
    GUEST_OS,
    GUEST_VERSION,
    HV_START_LOW,
    HYPERCALL_PAGE,
    INFO,
    INIT_P2M,
    L1_MFN_VALID,
    LOADER,
    MOD_START_PFN,
    PADDR_OFFSET,
    PAE_MODE,
    PHYS32_ENTRY,
    SHT_NOTE,
    SUPPORTED_FEATURES,
    SUSPEND_CANCEL,
    VIRT_BASE,
    XEN_VERSION,
    Elf,
    Section,
    note,
)


def read(*notes: bytes) -> XenNotes:
    said = read_notes(ElfImage(memoryview(Elf(notes=b"".join(notes)).build())))
    assert said is not None
    return said


def said(*notes: bytes) -> XenNotes:
    """Without the list of what was in the file."""
    return replace(read(*notes), values=())


def guest_info(text: str) -> XenNotes:
    elf = Elf(sections=[Section("__xen_guest", data=text.encode() + b"\0")])
    said = read_notes(ElfImage(memoryview(elf.build())))
    assert said is not None
    assert said.legacy
    return said


@pytest.mark.parametrize(
    "one, expected",
    [
        (note(GUEST_OS, "linux"), XenNotes(guest_os="linux")),
        (note(GUEST_VERSION, "2.6"), XenNotes(guest_ver="2.6")),
        (note(XEN_VERSION, "xen-3.0"), XenNotes(xen_ver="xen-3.0")),
        (note(LOADER, "generic"), XenNotes(loader="generic")),
        (note(PAE_MODE, "yes"), XenNotes(pae=Pae.EXTCR3)),
        (note(PAE_MODE, "yes,bimodal"), XenNotes(pae=Pae.BIMODAL)),
        (note(PAE_MODE, "no"), XenNotes()),
        (note(BSD_SYMTAB, "yes"), XenNotes(bsd_symtab=True)),
        (note(BSD_SYMTAB, "no"), XenNotes()),
        (note(VIRT_BASE, 0xFFFFFFFF80000000), XenNotes(virt_base=0xFFFFFFFF80000000)),
        (note(VIRT_BASE, 0), XenNotes(virt_base=0)),
        (note(VIRT_BASE, (1 << 64) - 1), XenNotes()),
        (note(VIRT_BASE, 0xC0000000, size=4), XenNotes(virt_base=0xC0000000)),
        (note(VIRT_BASE, 0x1234, size=2), XenNotes(virt_base=0x1234)),
        (note(VIRT_BASE, 0x12, size=1), XenNotes(virt_base=0x12)),
        (note(VIRT_BASE, 0x12, size=3), XenNotes(virt_base=0)),  # libelf reads 1, 2, 4 or 8 bytes, else nothing
        (note(ENTRY, 5), XenNotes(virt_entry=5)),
        (note(HYPERCALL_PAGE, 6), XenNotes(virt_hypercall=6)),
        (note(HV_START_LOW, 7), XenNotes(virt_hv_start_low=7)),
        (note(INIT_P2M, 8), XenNotes(p2m_base=8)),
        (note(PADDR_OFFSET, 9), XenNotes(elf_paddr_offset=9)),
        (note(PHYS32_ENTRY, 0x1000850), XenNotes(phys_entry=0x1000850)),
        (note(PHYS32_ENTRY, 0x1_0000_0010), XenNotes(phys_entry=0x10)),
        (note(PHYS32_ENTRY, 0xFFFFFFFF, size=4), XenNotes()),
        (note(MOD_START_PFN, 1, size=4), XenNotes(unmapped_initrd=True)),
        (note(MOD_START_PFN, 0, size=4), XenNotes()),
        (note(SUSPEND_CANCEL, 1, size=4), XenNotes(suspend_cancel=True)),
        (note(L1_MFN_VALID, struct.pack("<4Q", 1, 1, 3, 2)), XenNotes(l1_mfn_valid=((1, 1), (3, 2)))),
        (note(L1_MFN_VALID, bytes(12)), XenNotes()),
        (note(SUPPORTED_FEATURES, 0x8801, size=4), XenNotes(f_supported=0x8801)),
        (note(SUPPORTED_FEATURES, 0xF_0000_0001), XenNotes(f_supported=1)),  # the second submap is not there
        (note(SUPPORTED_FEATURES, 1, size=2), XenNotes()),
        (note(SUPPORTED_FEATURES, 1, size=12), XenNotes(f_supported=1)),
        (note(FEATURES, "dom0|pae_pgdir_above_4gb"), XenNotes(f_supported=1 << 11 | 1 << 4)),
        (note(FEATURES, "!writable_page_tables"), XenNotes(f_supported=1, f_required=1)),
        (note(FEATURES, "!warp_drive"), XenNotes(unknown_required=("warp_drive",))),
        (note(INFO, "NAME=VALUE"), XenNotes()),
        (note(99, b"\1\2"), XenNotes()),
    ],
)
def test_one_note(one: bytes, expected: XenNotes) -> None:
    assert said(one) == expected


def test_features_come_from_both_notes() -> None:
    both = said(note(FEATURES, "!dom0"), note(SUPPORTED_FEATURES, 1, size=4))
    assert (both.f_supported, both.f_required) == (1 << 11 | 1, 1 << 11)


def test_a_later_note_wins() -> None:
    assert said(note(ENTRY, 1), note(ENTRY, 2)).virt_entry == 2


def test_everything_said_is_kept_in_order() -> None:
    values = read(note(LOADER, "generic"), note(99, b"\1\2"), note(ENTRY, 16), note(INFO, b"a=b")).values
    assert values == (
        NoteValue("LOADER", "generic"),
        NoteValue("0x63", b"\1\2"),
        NoteValue("ENTRY", 16),
        NoteValue("INFO", b"a=b"),
    )


def test_features_without_a_final_zero_end_with_their_padding() -> None:
    # This is how Linux writes them.
    assert said(note(FEATURES, b"!writable_page_tables|pae_pgdir_above_4gb")).f_supported == 0x11


def test_notes_of_others_are_passed_over() -> None:
    build_id = note(3, bytes(20), name=b"GNU\0")
    assert read(build_id, note(LOADER, "generic"), note(LOADER, "other", name=b"Xenon\0")).loader == "generic"
    assert read_notes(ElfImage(memoryview(Elf(notes=build_id).build()))) is None


def test_notes_in_a_section_serve_where_no_segment_has_any() -> None:
    section = Section(".notes", SHT_NOTE, note(LOADER, "section"))
    for elf, loader in (
        (Elf(sections=[section]), "section"),
        (Elf(notes=note(3, b"x", name=b"GNU\0"), sections=[section]), "section"),
        (Elf(notes=note(LOADER, "segment"), sections=[section]), "segment"),
        (Elf(notes=note(LOADER, "segment"), note_offset=0, sections=[section]), "section"),
    ):
        found = read_notes(ElfImage(memoryview(elf.build())))
        assert found is not None
        assert found.loader == loader


def test_no_notes() -> None:
    assert read_notes(ElfImage(memoryview(Elf().build()))) is None
    assert read_notes(ElfImage(memoryview(Elf(sections=[Section(".text")]).build()))) is None


@pytest.mark.parametrize(
    "notes, words",
    [
        (note(LOADER, b"x" * 5000), "ELF note LOADER has no end within 4096 bytes"),
        (struct.pack("<III", 4, 8, ENTRY) + b"Xen\0" + b"1234", "ELF note ENTRY should end at byte"),
        (struct.pack("<III", 4, 4, LOADER) + b"Xen\0" + b"1234", "ELF note LOADER has no end"),
        (struct.pack("<II", 4, 4), "ELF note should end at byte"),
        (note(99, b"") * 65537, "more than 65536 ELF notes"),
    ],
)
def test_damaged_notes(notes: bytes, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        read(notes)


def test_a_note_as_long_as_the_address_space_is_the_last() -> None:
    assert said(struct.pack("<III", 4, 0xFFFFFFFF, LOADER) + b"Xen\0" + b"yes\0", note(LOADER, "no")).loader == "yes"


class TestGuestInfo:
    """The string in section __xen_guest, as MiniOS and Linux 2.6.16 had it."""

    def test_minios(self) -> None:
        notes = guest_info(
            "GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0x0,ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x2,LOADER=generic"
        )
        assert replace(notes, values=()) == XenNotes(
            legacy=True,
            guest_os="Mini-OS",
            xen_ver="xen-3.0",
            virt_base=0,
            elf_paddr_offset=0,
            virt_hypercall=0x2000,
            loader="generic",
        )
        assert notes.values[-1] == NoteValue("LOADER", "generic")

    def test_linux(self) -> None:
        notes = guest_info(
            "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,"
            "ELF_PADDR_OFFSET=0xffffffff80000000,VIRT_ENTRY=0xffffffff80200000,HYPERCALL_PAGE=0x202,"
            "FEATURES=writable_page_tables|!auto_translated_physmap,LOADER=generic,PAE=yes[extended-cr3],BSD_SYMTAB"
        )
        assert replace(notes, values=()) == XenNotes(
            legacy=True,
            guest_os="linux",
            guest_ver="2.6",
            xen_ver="xen-3.0",
            virt_base=0xFFFFFFFF80000000,
            elf_paddr_offset=0xFFFFFFFF80000000,
            virt_entry=0xFFFFFFFF80200000,
            virt_hypercall=0xFFFFFFFF80202000,
            f_supported=1 << XENFEAT.writable_page_tables | 1 << XENFEAT.auto_translated_physmap,
            f_required=1 << XENFEAT.auto_translated_physmap,
            loader="generic",
            pae=Pae.EXTCR3,
            bsd_symtab=True,
        )

    @pytest.mark.parametrize(
        "text, pae", [("yes", Pae.YES), ("yes[other]", Pae.YES), ("no", Pae.NO), ("yes[extended-cr3]", Pae.EXTCR3)]
    )
    def test_pae(self, text: str, pae: Pae) -> None:
        assert guest_info(f"PAE={text}").pae is pae

    @pytest.mark.parametrize(
        "text, value",
        [
            ("4096", 4096),
            ("0x1F", 0x1F),
            ("010", 8),
            ("0", 0),
            (" 12", 12),
            ("+12", 12),
            ("-1", None),  # UNSET_ADDR
            ("-2", (1 << 64) - 2),
            ("12 pages", 12),
            ("0xg", 0),
            ("", 0),
            ("nothing", 0),
            ("99999999999999999999999", None),
        ],
    )
    def test_numbers_are_those_of_strtoull(self, text: str, value: int | None) -> None:
        assert guest_info(f"VIRT_ENTRY={text}").virt_entry == value

    def test_hypercall_page_without_a_base_is_an_address(self) -> None:
        assert guest_info("HYPERCALL_PAGE=0x3").virt_hypercall == 0x3000

    def test_an_unknown_requirement_ends_the_reading(self) -> None:
        notes = guest_info("LOADER=generic,FEATURES=dom0|!warp_drive|supervisor_mode_kernel,GUEST_OS=linux")
        assert (notes.loader, notes.guest_os, notes.f_supported) == ("generic", "", 1 << XENFEAT.dom0)

    def test_a_string_without_end(self) -> None:
        elf = Elf(sections=[Section("__xen_guest", data=b"x" * 5000)])
        with pytest.raises(KernelError, match="__xen_guest string has no end"):
            read_notes(ElfImage(memoryview(elf.build())))

    def test_notes_come_first(self) -> None:
        elf = Elf(notes=note(LOADER, "notes"), sections=[Section("__xen_guest", data=b"LOADER=string\0")])
        notes = read_notes(ElfImage(memoryview(elf.build())))
        assert notes is not None
        assert (notes.loader, notes.legacy) == ("notes", False)


@pytest.mark.parametrize(
    "text, result",
    [
        ("", (0, 0, None)),
        ("dom0", (1 << 11, 0, None)),
        ("|dom0||!dom0|", (1 << 11, 1 << 11, None)),
        ("unheard_of|dom0", (1 << 11, 0, None)),
        ("dom0|!unheard_of|hvm_callback_vector", (1 << 11, 0, "unheard_of")),
        ("!", (0, 0, "")),
        ("x" * 63 + "dom0", (1 << 11, 0, None)),  # libelf's buffer holds 63 bytes, and it goes on behind them
        ("gnttab_map_avail_bits", (0, 0, None)),  # libelf has no name for this one
    ],
)
def test_features(text: str, result: tuple[int, int, str | None]) -> None:
    assert parse_features(text) == result


def test_names_of_features() -> None:
    assert feature_names(0x8801) == ("writable_page_tables", "dom0", "linux_rsdp_unrestricted")
    assert feature_names(1 << 31) == ("feature 31",)
    assert feature_names(0) == ()
