"""Where a kernel goes in each kind of guest, and each reason why it cannot be one."""

from __future__ import annotations

import pytest

from euxen.toolstack.kernel.image import parse_kernel
from euxen.toolstack.kernel.layout import GuestKind, Layout

from .elf_writer import (
    ENTRY,
    FEATURES,
    GUEST_OS,
    INIT_P2M,
    LOADER,
    PADDR_OFFSET,
    PHYS32_ENTRY,
    VIRT_BASE,
    XEN_VERSION,
    Elf,
    Load,
    Section,
    note,
    pv_notes,
)

BASE = 0xFFFFFFFF80000000


def layout(elf: Elf, kind: GuestKind) -> Layout:
    return parse_kernel(elf.build(), "kernel").layout(kind)


def reasons(elf: Elf, kind: GuestKind) -> tuple[str, ...]:
    return parse_kernel(elf.build(), "kernel").reasons_against(kind)


def test_pv_like_linux() -> None:
    loads = [Load(0x1000000, memsz=0x5000), Load(0x1006000, memsz=0x1234)]
    elf = Elf(loads=loads, notes=pv_notes(note(PADDR_OFFSET, 0), base=BASE, entry=BASE + 0x1000040))
    assert layout(elf, GuestKind.PV) == Layout(
        virt_base=BASE,
        elf_paddr_offset=0,
        virt_offset=BASE,
        virt_kstart=BASE + 0x1000000,
        virt_kend=BASE + 0x1007234,
        virt_entry=BASE + 0x1000040,
    )


def test_pv_with_virtual_addresses_in_p_paddr() -> None:
    elf = Elf(
        loads=[Load(BASE + 0x200000)],
        notes=pv_notes(note(PADDR_OFFSET, BASE), base=BASE, entry=BASE + 0x200000),
    )
    placed = layout(elf, GuestKind.PV)
    assert (placed.virt_offset, placed.virt_kstart) == (0, BASE + 0x200000)


def test_pv_of_the_older_string_has_virtual_addresses_in_p_paddr_by_default() -> None:
    info = f"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE={BASE:#x}".encode() + b"\0"
    elf = Elf(loads=[Load(BASE + 0x200000)], entry=BASE + 0x200000, sections=[Section("__xen_guest", data=info)])
    placed = layout(elf, GuestKind.PV)
    assert (placed.elf_paddr_offset, placed.virt_kstart, placed.virt_entry) == (BASE, BASE + 0x200000, BASE + 0x200000)


def test_pv_defaults() -> None:
    elf = Elf(notes=note(LOADER, "generic") + note(XEN_VERSION, "xen-3.0"), entry=0x100010)
    assert layout(elf, GuestKind.PV) == Layout(
        virt_base=0,
        elf_paddr_offset=0,
        virt_offset=0,
        virt_kstart=0x100000,
        virt_kend=0x100040,
        virt_entry=0x100010,
    )


def test_pvh_knows_physical_addresses_only() -> None:
    notes = pv_notes(note(PHYS32_ENTRY, 0x100020), note(PADDR_OFFSET, 0x5000), base=BASE)
    assert layout(Elf(notes=notes), GuestKind.PVH) == Layout(
        virt_base=0,
        elf_paddr_offset=0,
        virt_offset=0,
        virt_kstart=0x100000,
        virt_kend=0x100040,
        virt_entry=0x100020,
    )


def test_pvh_of_a_32_bit_kernel() -> None:
    elf = Elf(notes=note(PHYS32_ENTRY, 0x100000, size=4), bits=32)
    assert reasons(elf, GuestKind.PVH) == ()


def test_an_entry_at_either_end_of_the_kernel_is_inside() -> None:
    for entry in (0x100000, 0x100040):
        assert reasons(Elf(notes=pv_notes(entry=entry)), GuestKind.PV) == ()


PV_WORDS = note(LOADER, "generic") + note(XEN_VERSION, "xen-3.0")


@pytest.mark.parametrize(
    "elf, expected",
    [
        (Elf(), ["no Xen ELF notes and no __xen_guest section: built without CONFIG_XEN_PV"]),
        (
            Elf(notes=note(PHYS32_ENTRY, 0x100000)),
            ["no XEN_ELFNOTE_LOADER, XEN_ELFNOTE_GUEST_OS and XEN_ELFNOTE_XEN_VERSION: built without CONFIG_XEN_PV"],
        ),
        (
            Elf(bits=32, notes=pv_notes()),
            [
                "32-bit PV kernel: guest type xen-3.0-x86_32p not supported "
                "(like Xen built without CONFIG_PV32, euxen has only xen-3.0-x86_64)"
            ],
        ),
        (
            Elf(notes=note(GUEST_OS, "plan9") + note(XEN_VERSION, "xen-3.0")),
            ["XEN_ELFNOTE_LOADER is '' and not 'generic', and XEN_ELFNOTE_GUEST_OS is 'plan9' and not 'linux'"],
        ),
        (
            Elf(notes=note(GUEST_OS, "linux") + note(XEN_VERSION, "xen-2.0")),
            ["XEN_ELFNOTE_XEN_VERSION is 'xen-2.0' and not 'xen-3.0'"],
        ),
        (
            Elf(notes=PV_WORDS + note(PADDR_OFFSET, 0)),
            ["XEN_ELFNOTE_PADDR_OFFSET set, XEN_ELFNOTE_VIRT_BASE unset"],
        ),
        (
            Elf(notes=pv_notes(note(FEATURES, "!dom0"))),
            ["XENFEAT_dom0 required: the kernel does not support unprivileged (DomU) operation"],
        ),
        (
            Elf(notes=pv_notes(note(FEATURES, "!auto_translated_physmap"))),
            ["XENFEAT_auto_translated_physmap required: PV autotranslate guests are no longer supported"],
        ),
        (
            Elf(notes=pv_notes(note(FEATURES, "!warp_drive"))),
            ["unknown feature required in XEN_ELFNOTE_FEATURES: 'warp_drive'"],
        ),
        (Elf(notes=pv_notes(entry=0xFFFFF)), ["entry 0xfffff outside the kernel, 0x100000 to 0x100040"]),
        (Elf(notes=pv_notes(entry=0x100041)), ["entry 0x100041 outside the kernel, 0x100000 to 0x100040"]),
        (
            Elf(notes=PV_WORDS + note(VIRT_BASE, BASE) + note(PADDR_OFFSET, 0x200000), entry=BASE - 0x100000),
            [
                "XEN_ELFNOTE_VIRT_BASE 0xffffffff80000000 behind the start of the kernel, "
                "0xffffffff7ff00000 to 0xffffffff7ff00040"
            ],
        ),
        (
            Elf(notes=pv_notes(base=(1 << 64) - 0x100020, entry=0)),
            [
                "the kernel, 0xffffffffffffffe0 to 0x20, wraps around the end of the address space",
                "start of the kernel 0xffffffffffffffe0 not page-aligned",
            ],
        ),
        (Elf(notes=pv_notes(note(INIT_P2M, 0x10003F))), ["XEN_ELFNOTE_INIT_P2M 0x10003f inside the kernel"]),
        (
            Elf(loads=[Load(0x100020)], notes=pv_notes(entry=0x100020)),
            ["start of the kernel 0x100020 not page-aligned"],
        ),
        (
            Elf(notes=pv_notes(base=0x8000_0000_0000, entry=0x8000_0010_0000)),
            [
                "virtual addresses 0x800000000000 to 0x800000100040 not canonical or in Xen's own range, "
                "0xffff800000000000 to 0xffff880000000000"
            ],
        ),
        (
            Elf(notes=pv_notes(base=0xFFFF8000_00000000, entry=0xFFFF8000_00100000)),
            [
                "virtual addresses 0xffff800000000000 to 0xffff800000100040 not canonical or in Xen's own range, "
                "0xffff800000000000 to 0xffff880000000000"
            ],
        ),
    ],
)
def test_reasons_against_pv(elf: Elf, expected: list[str]) -> None:
    assert list(reasons(elf, GuestKind.PV)) == expected


@pytest.mark.parametrize(
    "elf, expected",
    [
        (Elf(), ["no Xen ELF notes and no __xen_guest section: built without CONFIG_PVH"]),
        (Elf(notes=pv_notes()), ["no XEN_ELFNOTE_PHYS32_ENTRY: built without CONFIG_PVH"]),
        (
            Elf(sections=[Section("__xen_guest", data=b"LOADER=generic,XEN_VER=xen-3.0\0")]),
            ["no Xen ELF notes: built without CONFIG_PVH"],
        ),
        (
            Elf(notes=note(PHYS32_ENTRY, 0x200000)),
            ["entry 0x200000 outside the kernel, 0x100000 to 0x100040"],
        ),
        (
            Elf(loads=[Load(0x100020)], notes=note(PHYS32_ENTRY, 0x100020)),
            ["start of the kernel 0x100020 not page-aligned"],
        ),
        (
            Elf(notes=note(PHYS32_ENTRY, 0x100000) + note(FEATURES, "!dom0|!warp_drive")),
            [
                "unknown feature required in XEN_ELFNOTE_FEATURES: 'warp_drive'",
                "XENFEAT_dom0 required: the kernel does not support unprivileged (DomU) operation",
            ],
        ),
        (
            Elf(loads=[Load(0xFFFFF000, memsz=0x1001)], notes=note(PHYS32_ENTRY, 0xFFFFF000)),
            ["end of the kernel 0x100000001 above 4 GiB, where its 32-bit entry cannot reach"],
        ),
    ],
)
def test_reasons_against_pvh(elf: Elf, expected: list[str]) -> None:
    assert list(reasons(elf, GuestKind.PVH)) == expected


def test_all_reasons_are_told_at_once() -> None:
    elf = Elf(notes=note(GUEST_OS, "plan9") + note(ENTRY, 5) + note(INIT_P2M, 0x100000))
    assert [reason.split()[0] for reason in reasons(elf, GuestKind.PV)] == [
        "XEN_ELFNOTE_LOADER",
        "XEN_ELFNOTE_XEN_VERSION",
        "entry",
        "XEN_ELFNOTE_INIT_P2M",
    ]
