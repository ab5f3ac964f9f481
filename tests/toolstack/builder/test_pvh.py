"""PVH guests that cannot be built, and what those that can be find in their memory."""

from __future__ import annotations

from typing import cast

import pytest

from euxen.abi.arch_x86_hvm_save import HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_MTRR, HvmHwCpu, HvmHwMtrr
from euxen.abi.hvm_start_info import HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo
from euxen.hypervisor.control import Control
from euxen.toolstack.builder.common import BuiltDomain, Rings
from euxen.toolstack.builder.pvh import PvhBuilder, hvm_records
from euxen.toolstack.builder.space import BuildError
from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.image import parse_kernel

from ..kernel.elf_writer import PHYS32_ENTRY, Elf, Load, note
from .recorder import Recorder

MIB = 1 << 20
CODE = b"\xf4" * 5000


def kernel(address: int = MIB, memsz: int | None = None, bits: int = 64) -> bytes:
    loads = [Load(address, CODE, memsz=memsz)]
    return Elf(loads=loads, entry=address, notes=note(PHYS32_ENTRY, address), bits=bits).build()


def build(recorder: Recorder, image: bytes, mib: int, ramdisk: bytes = b"", command_line: str = "") -> BuiltDomain:
    builder = PvhBuilder(cast(Control, recorder), 1, parse_kernel(image, "kernel"), mib * 256)
    return builder.build(ramdisk, command_line, Rings(console_port=2, xenstore_port=1))


def refusal(image: bytes, mib: int, ramdisk: bytes = b"", pages: int = 1 << 22) -> str:
    with pytest.raises((BuildError, KernelError)) as refused:
        build(Recorder(pages=pages), image, mib, ramdisk)
    return str(refused.value)


@pytest.mark.parametrize("bits", [32, 64])
def test_start_of_day(bits: int) -> None:
    """A guest's way from its registers to everything that is there for it."""
    recorder = Recorder()
    build(recorder, kernel(bits=bits), 16, b"a RAM disk", "console=hvc0")
    cpu = HvmHwCpu.unpack_from(hvm_records(recorder.contexts[-1])[HVM_SAVE_CODE_CPU, 0])
    assert recorder.read(cpu.rip, len(CODE)) == CODE
    assert (cpu.cr0, cpu.cr4, cpu.msr_efer, cpu.rflags) == (0x11, 0, 0, 0)
    info = HvmStartInfo.unpack_from(recorder.read(cpu.rbx, HvmStartInfo.size))
    assert (info.magic, info.version, info.flags, info.reserved) == (0x336EC578, 1, 0, 0)
    assert recorder.read(info.cmdline_paddr, 13) == b"console=hvc0\0"
    assert info.nr_modules == 1
    module = HvmModlistEntry.unpack_from(recorder.read(info.modlist_paddr, HvmModlistEntry.size))
    assert recorder.read(module.paddr, module.size_) == b"a RAM disk"
    assert module.cmdline_paddr == 0
    assert recorder.read(info.rsdp_paddr, 8) == b"RSD PTR "
    size = HvmMemmapTableEntry.size
    entries = [
        HvmMemmapTableEntry.unpack_from(recorder.read(info.memmap_paddr + number * size, size))
        for number in range(info.memmap_entries)
    ]
    assert [(entry.addr, entry.size_, entry.type) for entry in entries] == recorder.memory_map


def test_the_memory_map_tells_of_all_memory_and_of_no_other() -> None:
    recorder = Recorder()
    build(recorder, kernel(), 16)
    told = {
        gfn for address, size, _type in recorder.memory_map for gfn in range(address >> 12, address + size + 4095 >> 12)
    }
    assert told == recorder.populated


def test_every_vcpu_caches_its_memory() -> None:
    recorder = Recorder(vcpus=3)
    image = parse_kernel(kernel(), "kernel")
    builder = PvhBuilder(cast(Control, recorder), 1, image, 4096, (True, True, False))
    builder.build(b"", "", Rings(1, 2))
    for vcpu, context in enumerate(recorder.contexts[:-1]):
        mtrr = HvmHwMtrr.unpack_from(hvm_records(context)[HVM_SAVE_CODE_MTRR, vcpu])
        assert mtrr.msr_mtrr_def_type == 0x806
    assert len(recorder.contexts) == 4


def test_no_command_line_and_no_ram_disk() -> None:
    recorder = Recorder()
    build(recorder, kernel(), 16)
    cpu = HvmHwCpu.unpack_from(hvm_records(recorder.contexts[-1])[HVM_SAVE_CODE_CPU, 0])
    info = HvmStartInfo.unpack_from(recorder.read(cpu.rbx, HvmStartInfo.size))
    assert (info.cmdline_paddr, info.nr_modules, info.modlist_paddr) == (0, 0, 0)


def test_too_little_memory() -> None:
    assert refusal(kernel(memsz=20 * MIB), 16) == (
        "16 MiB is too little memory: the kernel would end at 21 MiB; give the domain more"
    )
    assert refusal(kernel(32 * MIB), 16).startswith("16 MiB is too little memory: the space below the kernel would end")
    assert refusal(kernel(), 16, bytes(15 * MIB)) == (
        "16 MiB is too little memory: the ramdisk would end at 17 MiB; give the domain more"
    )
    assert refusal(kernel(memsz=15 * MIB), 16) == (
        "16 MiB is too little memory: the start info would end at 17 MiB; give the domain more"
    )


def test_a_ram_disk_that_says_that_it_unpacks_to_more_than_there_is() -> None:
    bomb = b"\x1f\x8b" + bytes(100) + (1 << 29).to_bytes(4, "little")
    assert "the ramdisk would end at 514 MiB" in refusal(kernel(), 64, bomb)


def test_a_kernel_in_the_hole() -> None:
    assert refusal(kernel(0xFC00_0000), 4096) == (
        "the kernel would end at 4033 MiB; no PVH guest has memory from 4032 MiB to 4 GiB"
    )


def test_a_machine_that_has_not_enough() -> None:
    assert refusal(kernel(), 16, pages=4000) == ("the machine has not enough free memory for a domain of 16 MiB")
    assert refusal(kernel(), 16, pages=4100) == refusal(kernel(), 16, pages=4000)
    assert refusal(kernel(), 4096, pages=1 << 19).endswith("for a domain of 4096 MiB")


def test_a_pv_kernel() -> None:
    assert refusal(Elf().build(), 16).startswith("kernel cannot be a PVH guest: no Xen ELF notes")
