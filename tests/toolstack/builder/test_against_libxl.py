"""PVH guests as euxen builds them, byte for byte against what Xen's own libxenguest and libxl build."""

from __future__ import annotations

import gzip
import mmap
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from euxen.abi.features import XENFEAT_linux_rsdp_unrestricted
from euxen.abi.grant_table import GrantEntryV1
from euxen.hypervisor.control import Control
from euxen.toolstack.builder.common import Rings
from euxen.toolstack.builder.pvh import PvhBuilder
from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.kernel.image import read_kernel

from ..kernel.elf_writer import (
    FEATURES,
    GUEST_OS,
    MOD_START_PFN,
    PHYS32_ENTRY,
    SUPPORTED_FEATURES,
    Elf,
    Load,
    note,
)
from .recorder import PAGE_SIZE, Recorder, hvm_context

RINGS = Rings(console_port=2, xenstore_port=1)


@dataclass
class Report:
    """What libxl has done."""

    populated: set[int]
    params: dict[int, int]
    contexts: list[bytes]
    memory_map: list[tuple[int, int, int]]
    grants: list[tuple[int, int, int]]
    memory: Path


Libxl = Callable[[Path, bytes, str, int, int], Report]


@pytest.fixture(scope="module")
def libxl(tmp_path_factory: pytest.TempPathFactory) -> Libxl:
    """Has libxl build a guest."""
    directory = tmp_path_factory.mktemp("libxl")
    program, source = directory / "libxl_pvh", Path(__file__).with_name("libxl_pvh.c")
    libraries = [f"-lxen{name}" for name in ("call", "foreignmemory", "devicemodel", "evtchn", "toollog", "toolcore")]
    linked = ["-l:libxenlight.a", "-Wl,--whole-archive", "-l:libxenguest.a", "-Wl,--no-whole-archive"]
    # Most of libxl is not called, and what that needs is not linked.
    options = ["-no-pie", "-Wl,--allow-multiple-definition", "-Wl,--unresolved-symbols=ignore-all"]
    compiler = shutil.which("cc")
    command = [compiler, "-o", program, source, *linked, "-l:libxenctrl.a", *libraries, "-lz", *options]
    if compiler is None or subprocess.run(command, capture_output=True).returncode:  # type: ignore[arg-type]
        pytest.skip("libxl cannot be asked here: on Debian 12, install gcc and libxen-dev")

    def build(kernel: Path, ramdisk: bytes, command_line: str, mib: int, vcpus: int) -> Report:
        files = {name: directory / name for name in ("kernel", "ramdisk", "context", "memory", "report")}
        files["kernel"].write_bytes(read_kernel(kernel).elf_bytes)
        files["ramdisk"].write_bytes(ramdisk)
        files["context"].write_bytes(hvm_context(vcpus))
        arguments = [files["kernel"], files["ramdisk"] if ramdisk else "-", command_line or "-", mib, vcpus]
        arguments += [RINGS.xenstore_port, RINGS.console_port, files["context"], files["memory"], files["report"]]
        done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        report = files["report"].read_text()
        assert done.returncode == 0, done.stderr.decode() + report

        def lines(word: str) -> list[str]:
            return re.findall(rf"^{word} (.*)", report, re.MULTILINE)

        numbers = {
            word: [
                tuple(int(number, 0) for number in line.split()) for line in re.findall(rf"^{word} (.*)", report, re.M)
            ]
            for word in ("populate", "param", "e820", "grant")
        }
        return Report(
            populated={gfn for (gfn,) in numbers["populate"]},
            params={index: value for index, value in numbers["param"]},  # noqa: C416 the types
            contexts=[bytes.fromhex(line) for line in lines("context")],
            memory_map=[(address, size, kind) for address, size, kind in numbers["e820"]],
            grants=[(flags, domid, frame) for _number, flags, domid, frame in numbers["grant"]],
            memory=files["memory"],
        )

    return build


def compare(libxl: Libxl, kernel: Path, ramdisk: bytes, command_line: str, mib: int, vcpus: int = 1) -> Recorder:
    theirs = libxl(kernel, ramdisk, command_line, mib, vcpus)
    ours = Recorder(vcpus=vcpus)
    online = [vcpu % 3 != 2 for vcpu in range(vcpus)]  # as the program has it
    PvhBuilder(cast(Control, ours), 1, read_kernel(kernel), mib << 8, online).build(ramdisk, command_line, RINGS)
    assert ours.memory_map == theirs.memory_map
    assert ours.params == theirs.params
    assert [record.hex() for record in ours.contexts] == [record.hex() for record in theirs.contexts]
    entries = [GrantEntryV1.unpack_from(ours.grant_table, GrantEntryV1.size * number) for number in range(8)]
    assert [(entry.flags, entry.domid, entry.frame) for entry in entries] == theirs.grants
    assert ours.populated == theirs.populated
    compare_memory(ours, theirs)
    return ours


def compare_memory(ours: Recorder, theirs: Report) -> None:
    with theirs.memory.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        different = [
            gfn
            for gfn in sorted(ours.populated)
            if ours.memory.get(gfn, bytes(PAGE_SIZE)) != memory[gfn * PAGE_SIZE : (gfn + 1) * PAGE_SIZE]
        ]
    assert [f"{gfn:#x}" for gfn in different] == []


def small_kernel(path: Path, *notes: bytes, address: int = 0x100000) -> Path:
    """A kernel of few bytes that can be a PVH guest."""
    loads = [Load(address, b"\xf4" * 5000, memsz=20000), Load(address + 0x8123, b"data" * 3000)]
    notes = (note(PHYS32_ENTRY, address), *notes)
    path.write_bytes(Elf(loads=loads, entry=address, notes=b"".join(notes)).build())
    return path


def test_debian(libxl: Libxl, debian_cloud: DebianGuest) -> None:
    compare(libxl, debian_cloud.kernel, debian_cloud.initramfs.read_bytes(), "console=hvc0 quiet", 128)


def test_grub(libxl: Libxl, grub_xen: dict[str, Path]) -> None:
    compare(libxl, grub_xen["i386-xen_pvh"], b"", "", 64)


@pytest.mark.parametrize("command_line", ["a", "1234567", "12345678", "x" * 9000])
def test_command_lines(libxl: Libxl, tmp_path: Path, command_line: str) -> None:
    compare(libxl, small_kernel(tmp_path / "k"), b"ramdisk", command_line, 8)


@pytest.mark.parametrize("vcpus", [2, 5, 16, 128])
def test_vcpus(libxl: Libxl, tmp_path: Path, vcpus: int) -> None:
    compare(libxl, small_kernel(tmp_path / "k"), b"", "", 16, vcpus)


@pytest.mark.parametrize("mib", [4032, 4033])
def test_memory_around_the_hole(libxl: Libxl, tmp_path: Path, mib: int) -> None:
    compare(libxl, small_kernel(tmp_path / "k"), b"", "", mib)


LINUX = note(GUEST_OS, "linux")
UNRESTRICTED = note(SUPPORTED_FEATURES, 1 << XENFEAT_linux_rsdp_unrestricted)


@pytest.mark.parametrize(
    ("notes", "low"),
    [
        ([LINUX], True),
        ([LINUX, UNRESTRICTED], False),
        ([LINUX, note(FEATURES, "linux_rsdp_unrestricted")], True),  # a name that libelf does not know
        ([note(GUEST_OS, "netbsd")], False),
        ([], False),
    ],
)
def test_where_the_rsdp_is(libxl: Libxl, tmp_path: Path, notes: list[bytes], low: bool) -> None:
    ours = compare(libxl, small_kernel(tmp_path / "k", *notes), b"", "", 8)
    assert (ours.read(0xFFFC0, 8) == b"RSD PTR ") == low


def test_a_kernel_where_the_rsdp_goes(libxl: Libxl, tmp_path: Path) -> None:
    compare(libxl, small_kernel(tmp_path / "k", LINUX, address=0xF9000), b"", "", 8)


@pytest.mark.parametrize("content", [b"x", b"x" * 4096, b"x" * 10000], ids=len)
@pytest.mark.parametrize("notes", [[], [note(MOD_START_PFN, 1)]], ids=["mapped", "unmapped"])
def test_ram_disks(libxl: Libxl, tmp_path: Path, notes: list[bytes], content: bytes) -> None:
    compare(libxl, small_kernel(tmp_path / "k", *notes), content, "", 8)


PACKED = gzip.compress(bytes(range(256)) * 16 * 3)


@pytest.mark.parametrize(
    "content",
    [
        PACKED,
        PACKED[:-20],
        PACKED[:40] + b"\xff" * 40 + PACKED[80:],
        PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:],
        PACKED[:-4] + (2 << 30).to_bytes(4, "little"),
        PACKED[:-4] + (100).to_bytes(4, "little"),
        PACKED + b"behind it" + bytes(4087),
        b"\x1f\x8b" + bytes(100),
        b"\x1f\x8b",
    ],
    ids=[
        "whole",
        "cut off",
        "damaged",
        "wrong sum",
        "far too large",
        "too small",
        "more behind it",
        "none",
        "two bytes",
    ],
)
def test_ram_disks_packed_by_gzip(libxl: Libxl, tmp_path: Path, content: bytes) -> None:
    compare(libxl, small_kernel(tmp_path / "k"), content, "", 8)
