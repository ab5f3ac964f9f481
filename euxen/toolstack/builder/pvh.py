"""Builds a PVH domain: memory, kernel, RAM disk, ACPI tables, special pages, start of day, first vCPU.

What libxl does for ``type = "pvh"`` (libxl__build_hvm in tools/libs/light/libxl_dom.c, domain_construct_memmap in
libxl_x86.c) and libxenguest for an HVM container (tools/libs/guest/xg_dom_core.c and xg_dom_x86.c, Xen 4.17).

The guest has its memory from 0 on, with a hole from 0xfc000000 to 4 GiB for ACPI's tables, its local APIC and the
special pages; what the hole displaces follows at 4 GiB. The kernel lies where its ELF image says, the RAM disk and the
start of day behind it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from euxen.abi import hvm_params as params
from euxen.abi.arch_x86_hvm_save import (
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_END,
    HVM_SAVE_CODE_HEADER,
    HVM_SAVE_CODE_MTRR,
    HvmHwCpu,
    HvmHwMtrr,
    HvmSaveDescriptor,
)
from euxen.abi.features import XENFEAT
from euxen.abi.hvm_start_info import (
    XEN_HVM_MEMMAP_TYPE_ACPI,
    XEN_HVM_MEMMAP_TYPE_RAM,
    XEN_HVM_MEMMAP_TYPE_RESERVED,
    HvmMemmapTableEntry,
    HvmModlistEntry,
    HvmStartInfo,
)
from euxen.hypervisor.control import Control
from euxen.toolstack.acpi.dsdt import ACPI_INFO_PHYSICAL_ADDRESS
from euxen.toolstack.acpi.tables import AcpiModule, acpi_modules
from euxen.toolstack.builder.common import BuiltDomain, Rings, populate, ramdisk_module, seed_grants
from euxen.toolstack.builder.space import PAGE_SHIFT, PAGE_SIZE, Segment, Space
from euxen.toolstack.kernel.image import KernelImage
from euxen.toolstack.kernel.layout import GuestKind

FOUR_GIB = 1 << 32
MMIO_START = ACPI_INFO_PHYSICAL_ADDRESS
"""The lowest of ACPI's tables, the local APIC and the special pages."""

SPECIAL_PAGES = 8
SPECIAL_START = 0xFF000 - SPECIAL_PAGES
"""X86_HVM_END_SPECIAL_REGION and X86_HVM_NR_SPECIAL_PAGES in tools/include/xenguest.h; frames."""
PAGING, ACCESS, SHARING, BUFIOREQ, XENSTORE, IOREQ, IDENT_PT, CONSOLE = range(SPECIAL_START, SPECIAL_START + 8)

MODULES = 2
"""How many modules the start of day has room for, each with ..."""
MODULE_CMDLINE_SIZE = 1024

PAGE_PSE_USED = 0xE7  # present, writable, user, accessed, dirty, 4 MiB
CR0_PE, CR0_ET = 0x01, 0x10
DR6_INIT, DR7_INIT = 0xFFFF_0FF0, 0x400
FLAT = 0xFFFF_FFFF
CODE_32, DATA_32, BUSY_TSS_32 = 0xC9B, 0xC93, 0x8B
TSS_LIMIT = 0x67
MTRR_ENABLED_WRITE_BACK = 1 << 11 | 6


@dataclass(frozen=True)
class Ram:
    """Where a PVH guest has memory, in bytes."""

    low: int
    """From 0."""
    high: int
    """From 4 GiB."""

    @classmethod
    def of(cls, size: int) -> Ram:
        return cls(min(size, MMIO_START), max(size - MMIO_START, 0))


def memory_map(ram: Ram, acpi: tuple[AcpiModule, ...]) -> list[tuple[int, int, int]]:
    """(address, bytes, type) of all that a guest shall know of (domain_construct_memmap)."""
    entries = [
        (0, ram.low, XEN_HVM_MEMMAP_TYPE_RAM),
        (SPECIAL_START << PAGE_SHIFT, SPECIAL_PAGES << PAGE_SHIFT, XEN_HVM_MEMMAP_TYPE_RESERVED),
    ]
    for module in acpi:
        inside = module.address % PAGE_SIZE
        entries.append((module.address - inside, len(module.data) + inside, XEN_HVM_MEMMAP_TYPE_ACPI))
    if ram.high:
        entries.append((FOUR_GIB, ram.high, XEN_HVM_MEMMAP_TYPE_RAM))
    return entries


class PvhBuilder:
    """Builds one domain. ``build`` does it all."""

    def __init__(
        self, control: Control, domid: int, image: KernelImage, pages: int, online: Sequence[bool] = (True,)
    ) -> None:
        """For a domain with so many ``pages``, whose vCPUs are ``online`` at the start or not."""
        self._control = control
        self._domid = domid
        self._image = image
        self._layout = image.layout(GuestKind.PVH)
        self._pages = pages
        self._ram = Ram.of(pages << PAGE_SHIFT)
        self._vcpus = len(online)
        assert image.notes is not None
        self._notes = image.notes
        self._space = Space(self._ram.low >> PAGE_SHIFT, 0, followed_by_hole=self._ram.high > 0)
        self._acpi = acpi_modules(online, self._wants_low_rsdp())
        self._map = memory_map(self._ram, self._acpi)

    def build(self, ramdisk: bytes, command_line: str, rings: Rings) -> BuiltDomain:
        """Build it. Raises BuildError; the domain has then to be destroyed."""
        self._populate()
        self._load_kernel()
        module = ramdisk_module(ramdisk)
        initrd = None
        if module and not self._notes.unmapped_initrd:
            initrd = self._space.allocate("ramdisk", module.size)
        self._load_acpi()
        self._place_special_pages()
        command = os.fsencode(command_line)
        start_info = self._space.allocate("start info", self._start_info_size(command))
        if module and not initrd:
            initrd = self._space.allocate("ramdisk", module.size)
        listed: list[HvmModlistEntry] = []
        if module and initrd:
            self._write(initrd.vstart, module.data)
            listed.append(HvmModlistEntry(paddr=initrd.vstart, size_=module.size))
        self._write(start_info.vstart, self._start_info(start_info, command, listed))
        self._set_params(rings)
        self._set_vcpu(start_info)
        seed_grants(self._control, self._domid, CONSOLE, XENSTORE)
        return BuiltDomain(CONSOLE, XENSTORE, tuple(self._space.segments))

    # Memory.

    def _wants_low_rsdp(self) -> bool:
        """Whether it is a Linux that does not look at where the start of day says the RSDP is."""
        restricted = not self._notes.f_supported >> XENFEAT.linux_rsdp_unrestricted & 1
        return self._notes.guest_os == "linux" and restricted

    def _populate(self) -> None:
        self._populate_from(0, self._ram.low >> PAGE_SHIFT)
        if self._ram.high:
            self._populate_from(FOUR_GIB >> PAGE_SHIFT, self._ram.high >> PAGE_SHIFT)
        self._control.set_memory_map(self._domid, self._map)

    def _populate_from(self, gfn: int, pages: int) -> None:
        populate(self._control, self._domid, gfn, pages, self._pages)

    def _write(self, address: int, data: bytes | memoryview) -> None:
        """Write to the guest's memory."""
        gfn, offset = divmod(address, PAGE_SIZE)
        self._control.copy_to_foreign(self._domid, gfn, data, offset)

    def _load_kernel(self) -> None:
        """Copy what the file has; what it has not is zero already."""
        start = self._layout.virt_kstart
        self._space.pad_to(start, "space below the kernel")
        self._space.allocate("kernel", self._layout.virt_kend - start)
        for part in self._image.segments:
            self._write(part.paddr, part.data)

    def _load_acpi(self) -> None:
        """Above the guest's memory, but for an RSDP below 1 MiB, whose page is emptied (xc_dom_load_acpi)."""
        for module in self._acpi:
            first, last = module.address >> PAGE_SHIFT, module.address + len(module.data) - 1 >> PAGE_SHIFT
            if module.address >= self._ram.low:
                self._populate_from(first, last - first + 1)
            else:
                self._write(first << PAGE_SHIFT, bytes(last - first + 1 << PAGE_SHIFT))
            self._write(module.address, module.data)

    def _place_special_pages(self) -> None:
        """What Xen and its tools share with the guest (alloc_magic_pages_hvm)."""
        self._populate_from(SPECIAL_START, SPECIAL_PAGES)
        self._write(SPECIAL_START << PAGE_SHIFT, bytes(SPECIAL_PAGES << PAGE_SHIFT))
        # For a CPU that has to page while its guest does not yet: all of 4 GiB, as it is.
        identity = b"".join((number << 22 | PAGE_PSE_USED).to_bytes(4, "little") for number in range(PAGE_SIZE // 4))
        self._write(IDENT_PT << PAGE_SHIFT, identity)

    # Start of day.

    @staticmethod
    def _command_line_size(command: bytes) -> int:
        return -(-(len(command) + 1) // 8) * 8 if command else 0

    def _start_info_size(self, command: bytes) -> int:
        modules = MODULES * (HvmModlistEntry.size + MODULE_CMDLINE_SIZE)
        return (
            HvmStartInfo.size + self._command_line_size(command) + modules + len(self._map) * HvmMemmapTableEntry.size
        )

    def _start_info(self, place: Segment, command: bytes, modules: list[HvmModlistEntry]) -> bytes:
        """hvm_start_info, the command line, room for modules and their command lines, and the memory map, in a row."""
        modlist = place.vstart + HvmStartInfo.size + self._command_line_size(command)
        memmap = modlist + MODULES * (HvmModlistEntry.size + MODULE_CMDLINE_SIZE)
        data = bytearray(self._start_info_size(command))
        info = HvmStartInfo(
            version=1,
            cmdline_paddr=place.vstart + HvmStartInfo.size if command else 0,
            rsdp_paddr=self._acpi[0].address,
            memmap_paddr=memmap,
            memmap_entries=len(self._map),
        )
        if modules:
            info.nr_modules, info.modlist_paddr = len(modules), modlist
        for number, module in enumerate(modules):
            module.pack_into(data, modlist - place.vstart + number * HvmModlistEntry.size)
        info.pack_into(data)
        data[HvmStartInfo.size : HvmStartInfo.size + len(command)] = command
        for number, (address, size, kind) in enumerate(self._map):
            entry = HvmMemmapTableEntry(addr=address, size_=size, type=kind)
            entry.pack_into(data, memmap - place.vstart + number * HvmMemmapTableEntry.size)
        return bytes(data)

    def _set_params(self, rings: Rings) -> None:
        for index, value in (
            (params.HVM_PARAM_STORE_PFN, XENSTORE),
            (params.HVM_PARAM_BUFIOREQ_PFN, BUFIOREQ),
            (params.HVM_PARAM_IOREQ_PFN, IOREQ),
            (params.HVM_PARAM_CONSOLE_PFN, CONSOLE),
            (params.HVM_PARAM_PAGING_RING_PFN, PAGING),
            (params.HVM_PARAM_MONITOR_RING_PFN, ACCESS),
            (params.HVM_PARAM_SHARING_RING_PFN, SHARING),
            (params.HVM_PARAM_IDENT_PT, IDENT_PT << PAGE_SHIFT),
            (params.HVM_PARAM_CONSOLE_EVTCHN, rings.console_port),
            (params.HVM_PARAM_STORE_EVTCHN, rings.xenstore_port),
        ):
            self._control.set_hvm_param(self._domid, index, value)

    def _set_vcpu(self, start_info: Segment) -> None:
        """All vCPUs' MTRRs, and then the first vCPU, which starts in 32-bit protected mode (vcpu_hvm)."""
        records = hvm_records(self._control.get_hvm_context(self._domid))
        header = _record(HVM_SAVE_CODE_HEADER, 0, records[HVM_SAVE_CODE_HEADER, 0])
        end = _record(HVM_SAVE_CODE_END, 0, b"")
        mtrr = HvmHwMtrr.unpack_from(records[HVM_SAVE_CODE_MTRR, 0])
        mtrr.msr_mtrr_def_type = MTRR_ENABLED_WRITE_BACK
        for vcpu in range(self._vcpus):
            self._control.set_hvm_context(self._domid, header + _record(HVM_SAVE_CODE_MTRR, vcpu, bytes(mtrr)) + end)
        cpu = HvmHwCpu(
            rip=self._layout.virt_entry,
            rbx=start_info.vstart,
            cr0=CR0_PE | CR0_ET,
            dr6=DR6_INIT,
            dr7=DR7_INIT,
            cs_limit=FLAT,
            ds_limit=FLAT,
            es_limit=FLAT,
            ss_limit=FLAT,
            tr_limit=TSS_LIMIT,
            cs_arbytes=CODE_32,
            ds_arbytes=DATA_32,
            es_arbytes=DATA_32,
            ss_arbytes=DATA_32,
            tr_arbytes=BUSY_TSS_32,
        )
        # Last, because all vCPUs are down after each.
        self._control.set_hvm_context(self._domid, header + _record(HVM_SAVE_CODE_CPU, 0, bytes(cpu)) + end)


def hvm_records(context: bytes) -> dict[tuple[int, int], bytes]:
    """The records of a saved state, by typecode and instance."""
    records: dict[tuple[int, int], bytes] = {}
    offset = 0
    while True:
        descriptor = HvmSaveDescriptor.unpack_from(context, offset)
        offset += HvmSaveDescriptor.size
        if descriptor.typecode == HVM_SAVE_CODE_END:
            return records
        records[descriptor.typecode, descriptor.instance] = context[offset : offset + descriptor.length]
        offset += descriptor.length


def _record(typecode: int, instance: int, content: bytes) -> bytes:
    return bytes(HvmSaveDescriptor(typecode=typecode, instance=instance, length=len(content))) + content
