"""Xen ELF notes: how a kernel says what it is and where it wants to be entered. xen/include/public/elfnote.h"""

from __future__ import annotations

from enum import IntEnum


class XEN_ELFNOTE(IntEnum):
    """Note types of the name "Xen", without their prefix XEN_ELFNOTE_."""

    INFO = 0
    ENTRY = 1
    HYPERCALL_PAGE = 2
    VIRT_BASE = 3
    PADDR_OFFSET = 4
    XEN_VERSION = 5
    GUEST_OS = 6
    GUEST_VERSION = 7
    LOADER = 8
    PAE_MODE = 9
    FEATURES = 10
    BSD_SYMTAB = 11
    HV_START_LOW = 12
    L1_MFN_VALID = 13
    SUSPEND_CANCEL = 14
    INIT_P2M = 15
    MOD_START_PFN = 16
    SUPPORTED_FEATURES = 17
    PHYS32_ENTRY = 18
