"""Notes that a kernel image carries for Xen, under the name "Xen". xen/include/public/elfnote.h

Numbers are 4 or 8 bytes, as the note's length says; strings are ASCII and NUL-terminated.
"""

from __future__ import annotations

from enum import IntEnum

XEN_ELFNOTE_INFO = 0  # string: NAME=VALUE
XEN_ELFNOTE_ENTRY = 1  # number: virtual address of the entry point
XEN_ELFNOTE_HYPERCALL_PAGE = 2  # number: virtual address of the page that Xen fills with hypercall stubs
XEN_ELFNOTE_VIRT_BASE = 3  # number: virtual address at which pfn 0 is mapped; 0 when absent
XEN_ELFNOTE_PADDR_OFFSET = 4  # number: what to subtract from p_paddr to get a pseudo-physical address; 0 when absent
XEN_ELFNOTE_XEN_VERSION = 5  # string: "xen-3.0"
XEN_ELFNOTE_GUEST_OS = 6  # string: name of the guest operating system
XEN_ELFNOTE_GUEST_VERSION = 7  # string: its version
XEN_ELFNOTE_LOADER = 8  # string: "generic"
XEN_ELFNOTE_PAE_MODE = 9  # string, 32-bit kernels: "yes", "no" or "bimodal"
XEN_ELFNOTE_FEATURES = 10  # string: names of XENFEAT_*, separated by "|", required ones marked with "!"
XEN_ELFNOTE_BSD_SYMTAB = 11  # string: "yes" where the symbol table must be loaded
XEN_ELFNOTE_HV_START_LOW = 12  # number: lowest address at which the hypervisor's hole may begin
XEN_ELFNOTE_L1_MFN_VALID = 13  # pairs of mask and value: which non-present L1 entries hold an mfn
XEN_ELFNOTE_SUSPEND_CANCEL = 14  # number: 1 where a cancelled suspend returns 1 from SCHEDOP_shutdown
XEN_ELFNOTE_INIT_P2M = 15  # number: virtual address at which the initial p2m is to be mapped
XEN_ELFNOTE_MOD_START_PFN = 16  # number: 1 where the ramdisk may stay unmapped, start_info holding its pfn
XEN_ELFNOTE_SUPPORTED_FEATURES = 17  # number: bit map of XENFEAT_*
XEN_ELFNOTE_PHYS32_ENTRY = 18  # number: physical address of the 32-bit entry point (PVH)

XEN_ELFNOTE_MAX = XEN_ELFNOTE_PHYS32_ENTRY

# Notes of crash dumps and of core files of domains.
XEN_ELFNOTE_CRASH_INFO = 0x1000001
XEN_ELFNOTE_CRASH_REGS = 0x1000002
XEN_ELFNOTE_DUMPCORE_NONE = 0x2000000
XEN_ELFNOTE_DUMPCORE_HEADER = 0x2000001
XEN_ELFNOTE_DUMPCORE_XEN_VERSION = 0x2000002
XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION = 0x2000003


class XEN_ELFNOTE(IntEnum):
    """The notes that a kernel may carry, by name."""

    INFO = XEN_ELFNOTE_INFO
    ENTRY = XEN_ELFNOTE_ENTRY
    HYPERCALL_PAGE = XEN_ELFNOTE_HYPERCALL_PAGE
    VIRT_BASE = XEN_ELFNOTE_VIRT_BASE
    PADDR_OFFSET = XEN_ELFNOTE_PADDR_OFFSET
    XEN_VERSION = XEN_ELFNOTE_XEN_VERSION
    GUEST_OS = XEN_ELFNOTE_GUEST_OS
    GUEST_VERSION = XEN_ELFNOTE_GUEST_VERSION
    LOADER = XEN_ELFNOTE_LOADER
    PAE_MODE = XEN_ELFNOTE_PAE_MODE
    FEATURES = XEN_ELFNOTE_FEATURES
    BSD_SYMTAB = XEN_ELFNOTE_BSD_SYMTAB
    HV_START_LOW = XEN_ELFNOTE_HV_START_LOW
    L1_MFN_VALID = XEN_ELFNOTE_L1_MFN_VALID
    SUSPEND_CANCEL = XEN_ELFNOTE_SUSPEND_CANCEL
    INIT_P2M = XEN_ELFNOTE_INIT_P2M
    MOD_START_PFN = XEN_ELFNOTE_MOD_START_PFN
    SUPPORTED_FEATURES = XEN_ELFNOTE_SUPPORTED_FEATURES
    PHYS32_ENTRY = XEN_ELFNOTE_PHYS32_ENTRY
