"""What ``euxen inspect`` tells about a kernel."""

from __future__ import annotations

from euxen.toolstack.kernel.image import parse_kernel
from euxen.toolstack.kernel.inspect import describe

from .compressors import payload
from .elf_writer import (
    FEATURES,
    L1_MFN_VALID,
    PHYS32_ENTRY,
    SUPPORTED_FEATURES,
    Elf,
    Load,
    Section,
    bzimage,
    note,
    pv_notes,
)


def told(data: bytes) -> str:
    return "\n".join(describe(parse_kernel(data, "/boot/vmlinuz")))


def test_a_bzimage_for_both_kinds() -> None:
    elf = Elf(
        loads=[Load(0x1000000, memsz=0x5000, vaddr=0xFFFFFFFF81000000), Load(0x1005000)],
        notes=pv_notes(
            note(FEATURES, "!writable_page_tables|pae_pgdir_above_4gb"),
            note(SUPPORTED_FEATURES, 0x8801, size=4),
            note(L1_MFN_VALID, b"\1\0\0\0\0\0\0\0" * 2),
            note(PHYS32_ENTRY, 0x1000850),
            note(0x63, b"\xab\xcd"),
            base=0xFFFFFFFF80000000,
            entry=0xFFFFFFFF81000000,
        ),
        entry=0x1000000,
    )
    assert (
        told(bzimage(payload("lz4", elf.build())))
        == """\
File:     /boot/vmlinuz
Format:   bzImage, its ELF64, x86-64 kernel compressed with lz4
Linux:    9.9.9-test (tester@example.org) #1
Entry:    0x1000000
Loads:    0x5000 bytes at 0x1000000 (virtual 0xffffffff81000000), 0x40 from the file
          0x40 bytes at 0x1005000 (virtual 0x1005000), 0x40 from the file

Xen ELF notes
  GUEST_OS            "test"
  LOADER              "generic"
  XEN_VERSION         "xen-3.0"
  VIRT_BASE           0xffffffff80000000
  ENTRY               0xffffffff81000000
  FEATURES            "!writable_page_tables|pae_pgdir_above_4gb"
  SUPPORTED_FEATURES  0x8801
  L1_MFN_VALID        mask 0x1 value 0x1
  PHYS32_ENTRY        0x1000850
  0x63                ab cd
  supported           writable_page_tables, pae_pgdir_above_4gb, dom0, linux_rsdp_unrestricted
  required            writable_page_tables

PV guest: yes
  kernel from 0xffffffff81000000 to 0xffffffff81005040, starts at 0xffffffff81000000

PVH guest: yes
  kernel from 0x1000000 to 0x1005040, starts at 0x1000850"""
    )


def test_a_program_that_is_no_guest() -> None:
    text = told(Elf(bits=32).build())
    assert "Format:   ELF32, i386\n" in text
    assert "\nNo Xen ELF notes and no __xen_guest section\n" in text
    assert "PV guest: no\n  no Xen ELF notes and no __xen_guest section: built without CONFIG_XEN_PV\n" in text
    assert text.endswith("PVH guest: no\n  no Xen ELF notes and no __xen_guest section: built without CONFIG_PVH")


def test_the_older_string() -> None:
    text = told(Elf(sections=[Section("__xen_guest", data=b"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0x0\0")]).build())
    assert 'Xen\'s string in section __xen_guest\n  LOADER              "generic"\n' in text
    assert "PVH guest: no\n  no Xen ELF notes: built without CONFIG_PVH" in text


def test_a_kernel_cannot_write_on_the_terminal() -> None:
    text = told(Elf(notes=pv_notes(note(FEATURES, "\x1b[2J|!\x07"))).build())
    assert '"\\x1b[2J|!\\x07"' in text
    assert text.replace("\n", "").isprintable()
