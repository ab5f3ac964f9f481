"""Which kinds of guest a kernel can be, and where each kind has it in memory.

The checks are those of xen/common/libelf/libelf-dominfo.c (elf_xen_note_check, elf_xen_addr_calc_check) and of
tools/libs/guest/xg_dom_elfloader.c, for a domain without privileges. Xen stops at the first; people get all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from euxen.abi.arch_x86_xen import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from euxen.abi.features import XENFEAT
from euxen.toolstack.kernel.elf import EM_386, Segment
from euxen.toolstack.kernel.notes import XenNotes

_U64 = (1 << 64) - 1
_PAGE_SIZE = 4096
_LOW_CANONICAL_END = 1 << 47
_PVH_END = 1 << 32


class GuestKind(StrEnum):
    """A way to start a kernel directly; xl.cfg(5), ``type``."""

    PV = "pv"
    PVH = "pvh"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the kernel goes in one kind of guest, by libelf's names; all in bytes.

    A segment with the ELF address ``paddr`` lies at the guest-physical address ``paddr - elf_paddr_offset`` and at
    the virtual address ``paddr + virt_offset``.
    """

    virt_base: int
    elf_paddr_offset: int
    virt_offset: int
    virt_kstart: int
    virt_kend: int
    """The end of the kernel, with its symbol table where it has asked for that."""
    virt_entry: int


def layout_of(kind: GuestKind, notes: XenNotes, segments: tuple[Segment, ...], e_entry: int) -> Layout:
    """elf_xen_addr_calc_check without its checks: the addresses, with libelf's defaults for what is not said."""
    pvh = kind is GuestKind.PVH
    # A PVH guest starts without paging, so it has physical addresses only.
    virt_base = 0 if pvh else notes.virt_base or 0
    if pvh:
        elf_paddr_offset = 0
    elif notes.elf_paddr_offset is not None:
        elf_paddr_offset = notes.elf_paddr_offset
    else:
        # Kernels with the __xen_guest string have virtual addresses in p_paddr.
        elf_paddr_offset = virt_base if notes.legacy else 0
    entry = notes.phys_entry if pvh else notes.virt_entry
    virt_offset = virt_base - elf_paddr_offset & _U64
    return Layout(
        virt_base=virt_base,
        elf_paddr_offset=elf_paddr_offset,
        virt_offset=virt_offset,
        virt_kstart=min(segment.paddr for segment in segments) + virt_offset & _U64,
        virt_kend=max(segment.end for segment in segments) + virt_offset & _U64,
        virt_entry=e_entry if entry is None else entry,
    )


def reasons_against(
    kind: GuestKind, machine: int, notes: XenNotes | None, segments: tuple[Segment, ...], e_entry: int
) -> tuple[str, ...]:
    """Why the kernel cannot be such a guest, each in a few words; nothing where it can."""
    if notes is None or (kind is GuestKind.PVH and notes.legacy):
        option = "CONFIG_XEN_PV" if kind is GuestKind.PV else "CONFIG_PVH"
        places = "no Xen ELF notes" if notes is not None else "no Xen ELF notes and no __xen_guest section"
        return (f"{places}: built without {option}",)
    if kind is GuestKind.PV and not notes.loader and not notes.guest_os and not notes.xen_ver:
        return ("no XEN_ELFNOTE_LOADER, XEN_ELFNOTE_GUEST_OS and XEN_ELFNOTE_XEN_VERSION: built without CONFIG_XEN_PV",)
    if kind is GuestKind.PVH and notes.phys_entry is None:
        return ("no XEN_ELFNOTE_PHYS32_ENTRY: built without CONFIG_PVH",)
    reasons = _pv_notes(machine, notes) if kind is GuestKind.PV else []
    reasons += [f"unknown feature required in XEN_ELFNOTE_FEATURES: {name!r}" for name in notes.unknown_required]
    if notes.elf_paddr_offset is not None and notes.virt_base is None:
        reasons.append("XEN_ELFNOTE_PADDR_OFFSET set, XEN_ELFNOTE_VIRT_BASE unset")
    if notes.f_required >> XENFEAT.dom0 & 1:
        reasons.append("XENFEAT_dom0 required: the kernel does not support unprivileged (DomU) operation")
    layout = layout_of(kind, notes, segments, e_entry)
    reasons += _addresses(layout, notes)
    reasons += _pv_addresses(layout) if kind is GuestKind.PV else _pvh_addresses(layout)
    return tuple(reasons)


def _pv_notes(machine: int, notes: XenNotes) -> list[str]:
    reasons = []
    if machine == EM_386:
        reasons.append(
            "32-bit PV kernel: guest type xen-3.0-x86_32p not supported "
            "(like Xen built without CONFIG_PV32, euxen has only xen-3.0-x86_64)"
        )
    if not notes.loader.startswith("generic") and not notes.guest_os.startswith("linux"):
        reasons.append(
            f"XEN_ELFNOTE_LOADER is {notes.loader!r} and not 'generic', and "
            f"XEN_ELFNOTE_GUEST_OS is {notes.guest_os!r} and not 'linux'"
        )
    if not notes.xen_ver.startswith("xen-3.0"):
        reasons.append(f"XEN_ELFNOTE_XEN_VERSION is {notes.xen_ver!r} and not 'xen-3.0'")
    if notes.f_required >> XENFEAT.auto_translated_physmap & 1:
        reasons.append("XENFEAT_auto_translated_physmap required: PV autotranslate guests are no longer supported")
    return reasons


def _addresses(layout: Layout, notes: XenNotes) -> list[str]:
    """libelf's "ELF start or entries are out of bounds", told apart, and xc_dom_alloc_pad's check."""
    kernel = f"the kernel, {layout.virt_kstart:#x} to {layout.virt_kend:#x}"
    aligned = layout.virt_kstart % _PAGE_SIZE == 0
    unaligned = [] if aligned else [f"start of the kernel {layout.virt_kstart:#x} not page-aligned"]
    if layout.virt_kstart > layout.virt_kend:
        return [f"{kernel}, wraps around the end of the address space", *unaligned]
    reasons = []
    if not layout.virt_kstart <= layout.virt_entry <= layout.virt_kend:
        reasons.append(f"entry {layout.virt_entry:#x} outside {kernel}")
    if layout.virt_base > layout.virt_kstart:
        reasons.append(f"XEN_ELFNOTE_VIRT_BASE {layout.virt_base:#x} behind the start of {kernel}")
    if notes.p2m_base is not None and layout.virt_kstart <= notes.p2m_base < layout.virt_kend:
        reasons.append(f"XEN_ELFNOTE_INIT_P2M {notes.p2m_base:#x} inside the kernel")
    return reasons + unaligned


def _pv_addresses(layout: Layout) -> list[str]:
    start, end = layout.virt_base, layout.virt_kend
    if start > end or end <= _LOW_CANONICAL_END or start >= HYPERVISOR_VIRT_END:
        return []
    return [
        f"virtual addresses {start:#x} to {end:#x} not canonical or in Xen's own range, "
        f"{HYPERVISOR_VIRT_START:#x} to {HYPERVISOR_VIRT_END:#x}"
    ]


def _pvh_addresses(layout: Layout) -> list[str]:
    if layout.virt_kend > _PVH_END:
        return [f"end of the kernel {layout.virt_kend:#x} above 4 GiB, where its 32-bit entry cannot reach"]
    return []
