"""Kernel images as a whole: real ones, made ones in every wrapping, and every refusal."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.image import KernelImage, parse_kernel, read_kernel
from euxen.toolstack.kernel.layout import GuestKind

from .compressors import COMPRESSORS, payload
from .elf_writer import PHYS32_ENTRY, Elf, Load, Section, bzimage, note, pv_notes

KERNEL = Elf(notes=pv_notes(), loads=[Load(data=b"kernel code" * 50, memsz=0x3000)]).build()
BANNER = "9.9.9-test (tester@example.org) #1"


def refusal(data: bytes) -> str:
    with pytest.raises(KernelError) as caught:
        parse_kernel(data, "/boot/vmlinuz")
    sentence = str(caught.value)
    assert sentence.startswith("/boot/vmlinuz cannot be used as a kernel: ")
    assert "\n" not in sentence
    return sentence


def loaded(image: KernelImage) -> list[tuple[int, int, bytes]]:
    return [(segment.paddr, segment.memsz, bytes(segment.data)) for segment in image.segments]


class TestRealKernels:
    def test_debian_cloud(self, debian_cloud: DebianGuest) -> None:
        image = read_kernel(debian_cloud.kernel)
        assert (image.format, image.bits) == ("bzImage", 64)
        assert image.banner is not None
        assert image.banner.startswith(debian_cloud.version + " ")
        assert image.kinds == (GuestKind.PV, GuestKind.PVH)
        notes = image.notes
        assert notes is not None
        assert (notes.guest_os, notes.loader, notes.xen_ver) == ("linux", "generic", "xen-3.0")
        assert notes.virt_base == 0xFFFFFFFF80000000
        assert notes.p2m_base == 0x8000000000
        assert notes.unmapped_initrd
        assert notes.suspend_cancel
        assert notes.l1_mfn_valid == ((1, 1),)
        pv, pvh = image.layout(GuestKind.PV), image.layout(GuestKind.PVH)
        assert pv.virt_kstart == 0xFFFFFFFF81000000
        assert pv.virt_entry == notes.virt_entry
        assert pvh.virt_kstart == 0x1000000
        assert pvh.virt_entry == notes.phys_entry
        # Linux is loaded densely, and its startup code is where its notes say.
        assert image.segments[0].paddr == 0x1000000
        assert all(segment.data for segment in image.segments)

    def test_debian_full(self, debian_full: DebianGuest) -> None:
        image = read_kernel(debian_full.kernel)
        assert (image.format, image.compression) == ("bzImage", "xz")
        assert image.kinds == (GuestKind.PV, GuestKind.PVH)

    def test_the_vmlinux_inside_is_the_same_kernel(self, debian_cloud: DebianGuest, tmp_path: Path) -> None:
        packed = read_kernel(debian_cloud.kernel)
        (tmp_path / "vmlinux").write_bytes(packed.elf_bytes)
        plain = read_kernel(tmp_path / "vmlinux")
        assert (plain.format, plain.compression, plain.banner) == ("ELF", None, None)
        assert plain.notes == packed.notes
        assert plain.segments == packed.segments
        assert plain.entry == packed.entry

    @pytest.mark.parametrize(
        "platform, bits, kinds, entry",
        [
            ("x86_64-xen", 64, (GuestKind.PV,), 0),
            ("i386-xen_pvh", 32, (GuestKind.PVH,), 0x100000),
            ("i386-xen", 32, (), None),
        ],
    )
    def test_grub(
        self, grub_xen: dict[str, Path], platform: str, bits: int, kinds: tuple[GuestKind, ...], entry: int | None
    ) -> None:
        image = read_kernel(grub_xen[platform])
        assert (image.format, image.bits, image.kinds) == ("ELF", bits, kinds)
        if kinds:
            assert image.layout(kinds[0]).virt_entry == entry
        else:
            assert "32-bit PV kernel" in image.reasons_against(GuestKind.PV)[0]

    def test_grub_whose_last_note_says_it_is_longer_than_it_is(self, grub_xen: dict[str, Path]) -> None:
        image = read_kernel(grub_xen["i386-xen"])
        assert image.notes is not None
        assert image.notes.values[-1].name == "PAE_MODE"
        assert image.notes.values[-1].value == "yes"


class TestWrappings:
    def test_elf(self) -> None:
        image = parse_kernel(KERNEL, "vmlinux")
        assert (image.format, image.compression, image.banner) == ("ELF", None, None)
        assert image.kinds == (GuestKind.PV,)
        assert loaded(image) == [(0x100000, 0x3000, b"kernel code" * 50)]
        assert bytes(image.elf_bytes) == KERNEL

    def test_segments_are_views_of_the_image(self) -> None:
        image = parse_kernel(KERNEL, "vmlinux")
        assert image.segments[0].data.obj is KERNEL

    @pytest.mark.parametrize("compression", COMPRESSORS)
    def test_bzimage(self, compression: str) -> None:
        image = parse_kernel(bzimage(payload(compression, KERNEL)), "vmlinuz")
        assert (image.format, image.compression, image.banner) == ("bzImage", compression, BANNER)
        assert bytes(image.elf_bytes) == KERNEL
        assert loaded(image) == loaded(parse_kernel(KERNEL, "vmlinux"))

    @pytest.mark.parametrize("compression", COMPRESSORS)
    def test_compressed_elf(self, compression: str) -> None:
        image = parse_kernel(COMPRESSORS[compression](KERNEL), "vmlinux.gz")
        assert (image.format, image.compression) == ("ELF", compression)
        assert bytes(image.elf_bytes) == KERNEL

    def test_compressed_bzimage(self) -> None:
        image = parse_kernel(COMPRESSORS["gzip"](bzimage(payload("xz", KERNEL))), "vmlinuz.gz")
        assert (image.format, image.compression) == ("bzImage", "xz")

    def test_bzimage_without_a_banner(self) -> None:
        assert parse_kernel(bzimage(payload("gzip", KERNEL), banner=None), "vmlinuz").banner is None

    def test_bzimage_whose_banner_would_move_the_cursor(self) -> None:
        image = parse_kernel(bzimage(payload("gzip", KERNEL), banner=b"6.1\x1b[2J\x07!\0"), "vmlinuz")
        assert image.banner == "6.1[2J!"


class TestKinds:
    def test_a_kernel_for_both(self) -> None:
        elf = Elf(notes=pv_notes(note(PHYS32_ENTRY, 0x100010)))
        assert parse_kernel(elf.build(), "k").kinds == (GuestKind.PV, GuestKind.PVH)

    def test_layout_of_a_kind_that_it_cannot_be(self) -> None:
        with pytest.raises(KernelError) as caught:
            parse_kernel(KERNEL, "/boot/vmlinux").layout(GuestKind.PVH)
        assert str(caught.value) == (
            "/boot/vmlinux cannot be a PVH guest: no XEN_ELFNOTE_PHYS32_ENTRY: built without CONFIG_PVH; "
            'use type = "pv", or --type pv'
        )

    def test_layout_of_no_kernel_for_xen(self) -> None:
        with pytest.raises(KernelError) as caught:
            parse_kernel(Elf().build(), "/bin/true").layout(GuestKind.PV)
        assert str(caught.value) == (
            "/bin/true cannot be a PV guest: no Xen ELF notes and no __xen_guest section: "
            "built without CONFIG_XEN_PV; use a kernel built for Xen"
        )


class TestRefusals:
    @pytest.mark.parametrize("data", [b"#!/bin/sh\n", b"MZ" + bytes(5000)])
    def test_no_kernel_at_all(self, data: bytes) -> None:
        assert "it is neither ELF nor bzImage" in refusal(data)

    @pytest.mark.parametrize("data", [b"", COMPRESSORS["gzip"](b"")])
    def test_nothing(self, data: bytes) -> None:
        assert "it is empty; give vmlinuz" in refusal(data)

    def test_compressed_but_no_kernel(self) -> None:
        assert "it is neither ELF nor bzImage" in refusal(COMPRESSORS["gzip"](b"hello"))

    def test_compressed_twice(self) -> None:
        assert "it starts with 1f 8b" in refusal(COMPRESSORS["gzip"](COMPRESSORS["gzip"](KERNEL)))

    def test_bzimage_of_an_old_boot_protocol(self) -> None:
        assert "boot protocol 2.07" in refusal(bzimage(payload("gzip", KERNEL), version=0x0207))

    def test_bzimage_cut_off(self) -> None:
        data = bzimage(payload("xz", KERNEL))
        assert f"the file has {len(data) - 1} bytes" in refusal(data[:-1])

    @pytest.mark.parametrize("content, shown", [(b"\0\0\0\0rest", "00 00 00 00"), (b"", "nothing")])
    def test_bzimage_of_unknown_compression(self, content: bytes, shown: str) -> None:
        assert f"payload starts with {shown}, which is no compression" in refusal(bzimage(content))

    def test_bzimage_with_too_little_payload(self) -> None:
        assert "payload is too short" in refusal(bzimage(payload("gzip", KERNEL), length=2))

    def test_bzimage_that_claims_another_size(self) -> None:
        packed = COMPRESSORS["xz"](KERNEL)
        for size in (len(KERNEL) + 1, 1 << 20):
            text = refusal(bzimage(packed + struct.pack("<I", size)))
            assert f"unpacks to {len(KERNEL)} bytes instead of {size}" in text
        assert "unpack to more than 10 bytes" in refusal(bzimage(packed + struct.pack("<I", 10)))

    def test_bzimage_that_claims_to_be_huge(self) -> None:
        packed = COMPRESSORS["xz"](KERNEL)
        assert "claims to unpack to 4294967295 bytes" in refusal(bzimage(packed + b"\xff\xff\xff\xff"))

    def test_bzimage_with_damaged_data(self) -> None:
        data = bytearray(bzimage(payload("gzip", KERNEL)))
        data[-30] ^= 0xFF
        assert "its gzip data are damaged" in refusal(bytes(data))

    @pytest.mark.parametrize("bits", [32, 64])
    def test_elf_cut_off_anywhere(self, bits: int) -> None:
        data = Elf(notes=pv_notes(), sections=[Section("s", data=b"x")], bits=bits).build()
        for length in range(4, len(data), 7):
            assert "cut off" in refusal(data[:length])

    @pytest.mark.parametrize(
        "elf, words",
        [
            (Elf(ei_class=3), "ELF class is 3"),
            (Elf(data_encoding=2), "big-endian"),
            (Elf(machine=183), "machine 183, where its class demands x86-64"),
            (Elf(machine=3), "machine 3, where its class demands x86-64"),
            (Elf(bits=32, machine=62), "machine 62, where its class demands i386"),
            (Elf(type=1), "ELF type is 1, which is no executable"),
            (Elf(type=4), "ELF type is 4, which is no executable"),
            (Elf(phentsize=55), "ELF program headers are 55 bytes each instead of 56"),
            (Elf(sections=[Section("s")], shentsize=10), "ELF section headers are 10 bytes each instead of 64"),
            (Elf(shoff=1 << 62), "was cut off"),
            (Elf(sections=[Section("s")], shoff=(1 << 64) - 1), "ELF section headers should end at byte"),
            (Elf(loads=[]), "no segment to load"),
            (Elf(loads=[Load(flags=0)]), "no segment to load"),
            (Elf(loads=[Load(memsz=63)]), "64 bytes in the file but only 63 in memory"),
            (Elf(loads=[Load(filesz=1 << 20, memsz=1 << 20)]), "ELF segment 0 should end at byte"),
            (Elf(loads=[Load(offset=1 << 63)]), "ELF segment 0 should end at byte"),
            (Elf(loads=[Load(paddr=(1 << 64) - 32)]), "wraps around the end of the address space"),
            (Elf(loads=[Load(vaddr=(1 << 64) - 32)]), "wraps around the end of the address space"),
            (Elf(loads=[Load(paddr=(1 << 32) - 32)], bits=32), "wraps around the end of the address space"),
            (Elf(loads=[Load(memsz=0x2000), Load(0x101FFF)]), "segments at 0x100000 and 0x101fff overlap"),
            (Elf(loads=[Load(0x101FFF), Load(memsz=0x2000)]), "segments at 0x100000 and 0x101fff overlap"),
            (Elf(notes=pv_notes(), note_offset=1 << 40), "notes should end at byte"),
        ],
    )
    def test_elf(self, elf: Elf, words: str) -> None:
        data = elf.build()
        assert words in refusal(data)

    def test_segments_side_by_side_are_fine(self) -> None:
        image = parse_kernel(Elf(loads=[Load(memsz=0x2000), Load(0x102000)]).build(), "k")
        assert [segment.paddr for segment in image.segments] == [0x100000, 0x102000]

    def test_segments_at_the_very_end_are_fine(self) -> None:
        image = parse_kernel(Elf(loads=[Load((1 << 64) - 64)]).build(), "k")
        assert image.segments[0].end == 1 << 64


class TestFiles:
    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "huge").touch()
        os.truncate(tmp_path / "huge", (1 << 30) + 1)
        cases: list[tuple[str, str]] = [
            ("missing", "cannot be read (No such file or directory)"),
            (".", "is no regular file"),
            ("a\0b", "cannot be read"),
            ("huge", "has 1073741825 bytes, which no kernel has"),
        ]
        for name, words in cases:
            with pytest.raises(KernelError, match=words.replace("(", r"\(").replace(")", r"\)")):
                read_kernel(f"{tmp_path}/{name}")

    def test_a_device_is_no_kernel(self) -> None:
        with pytest.raises(KernelError, match="/dev/zero is no regular file"):
            read_kernel("/dev/zero")

    def test_a_pipe_nobody_writes_to_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(KernelError, match="is no regular file"):
            read_kernel(tmp_path / "pipe")

    @pytest.mark.parametrize("kind", [str, Path])
    def test_paths_of_both_kinds(self, tmp_path: Path, kind: Callable[[Path], str | Path]) -> None:
        (tmp_path / "vmlinux").write_bytes(KERNEL)
        assert read_kernel(kind(tmp_path / "vmlinux")).path == str(tmp_path / "vmlinux")
