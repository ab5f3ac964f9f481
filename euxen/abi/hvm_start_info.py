"""What EBX points to when a PVH kernel starts. xen/include/public/arch-x86/hvm/start_info.h

All addresses are guest physical and below 4 GiB; 0 means absent.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, u32, u64

XEN_HVM_START_MAGIC_VALUE = 0x336EC578  # "xEn3", with the top bit of the "E" set

# hvm_memmap_table_entry.type, which are ACPI's, and E820's
XEN_HVM_MEMMAP_TYPE_RAM = 1
XEN_HVM_MEMMAP_TYPE_RESERVED = 2
XEN_HVM_MEMMAP_TYPE_ACPI = 3
XEN_HVM_MEMMAP_TYPE_NVS = 4
XEN_HVM_MEMMAP_TYPE_UNUSABLE = 5
XEN_HVM_MEMMAP_TYPE_DISABLED = 6
XEN_HVM_MEMMAP_TYPE_PMEM = 7


class HvmStartInfo(Structure):
    """struct hvm_start_info. xen/include/public/arch-x86/hvm/start_info.h"""

    magic: int = u32(default=XEN_HVM_START_MAGIC_VALUE)
    version: int = u32()  # 1; the memmap_* are there from version 1 on
    flags: int = u32()  # SIF_*
    nr_modules: int = u32()
    modlist_paddr: int = u64()  # of HvmModlistEntry[nr_modules]
    cmdline_paddr: int = u64()  # of a NUL-terminated string
    rsdp_paddr: int = u64()  # of ACPI's RSDP
    memmap_paddr: int = u64()  # of HvmMemmapTableEntry[memmap_entries]
    memmap_entries: int = u32()
    reserved: int = u32()  # must be 0


class HvmModlistEntry(Structure):
    """struct hvm_modlist_entry. xen/include/public/arch-x86/hvm/start_info.h"""

    paddr: int = u64()
    size_: int = u64()  # in bytes
    cmdline_paddr: int = u64()
    reserved: int = u64()


class HvmMemmapTableEntry(Structure):
    """struct hvm_memmap_table_entry. xen/include/public/arch-x86/hvm/start_info.h"""

    addr: int = u64()
    size_: int = u64()  # in bytes
    type: int = u32()  # XEN_HVM_MEMMAP_TYPE_*
    reserved: int = u32()
