"""What a kernel says about itself to Xen, in its ELF notes or in the older string of its section __xen_guest.

The meaning of every word is that of xen/include/public/elfnote.h and of xen/common/libelf/libelf-dominfo.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from euxen.abi.elfnote import XEN_ELFNOTE
from euxen.abi.features import XENFEAT
from euxen.toolstack.kernel.elf import STRING_MAX, ElfImage, Note

# The features that libelf of Xen 4.17 knows by name; any other name is passed over, or refused behind a "!".
_FEATURE_NAMES = {
    feature.name: feature
    for feature in (
        XENFEAT.writable_page_tables,
        XENFEAT.writable_descriptor_tables,
        XENFEAT.auto_translated_physmap,
        XENFEAT.supervisor_mode_kernel,
        XENFEAT.pae_pgdir_above_4gb,
        XENFEAT.hvm_callback_vector,
        XENFEAT.dom0,
    )
}
_FEATURE_LENGTH = 63
_FEATURE_BITS = {feature.value: feature.name for feature in XENFEAT}

# NAME=VALUE pairs with libelf's buffers: a name has at most 31 bytes, a value 127.
_GUEST_INFO = re.compile(r"([^,=]{0,31})(?:=([^,]{0,127}))?,?")
_STRTOULL = re.compile(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))")
_U64 = (1 << 64) - 1
_PAGE_SHIFT = 12


class Pae(StrEnum):
    """Which page tables a 32-bit kernel has: XEN_PAE_NO and so on."""

    NO = "no"
    YES = "yes"
    EXTCR3 = "extended-cr3"
    BIMODAL = "bimodal"


@dataclass(frozen=True, slots=True)
class NoteValue:
    """One note as it stands in the file: its Xen name and what it holds."""

    name: str
    value: str | int | tuple[tuple[int, int], ...] | bytes
    """A string; a number; the mask and value pairs of L1_MFN_VALID; the bytes of a type that Xen does not know."""


@dataclass(frozen=True, slots=True)
class XenNotes:
    """struct elf_dom_parms: everything said, by libelf's names; None is libelf's UNSET_ADDR. Addresses are in bytes.

    These are the words of the kernel; ``layout`` has what follows from them for a kind of guest.
    """

    values: tuple[NoteValue, ...] = ()
    """Every note, or pair of the string, in the order of the file."""
    legacy: bool = False
    """It came from the __xen_guest string, which has other defaults."""
    guest_os: str = ""
    guest_ver: str = ""
    xen_ver: str = ""
    loader: str = ""
    pae: Pae = Pae.NO
    bsd_symtab: bool = False
    """The kernel wants its symbol table behind itself in memory."""
    virt_base: int | None = None
    virt_entry: int | None = None
    virt_hypercall: int | None = None
    virt_hv_start_low: int | None = None
    p2m_base: int | None = None
    """INIT_P2M: the virtual address where the kernel wants the initial physical-to-machine map."""
    elf_paddr_offset: int | None = None
    phys_entry: int | None = None
    """PHYS32_ENTRY: the physical address at which a PVH guest starts, in 32-bit mode without paging."""
    f_supported: int = 0
    """A bit per XENFEAT."""
    f_required: int = 0
    unknown_required: tuple[str, ...] = ()
    """Features behind a "!" that Xen does not know; libelf refuses such a kernel."""
    unmapped_initrd: bool = False
    """MOD_START_PFN: the initrd need not be mapped, and mod_start may be its page frame number."""
    suspend_cancel: bool = False
    l1_mfn_valid: tuple[tuple[int, int], ...] = ()
    """(mask, value) of page-table entries that are not present and yet hold a machine frame number."""


def read_notes(elf: ElfImage) -> XenNotes | None:
    """The notes of an image or, for want of them, its __xen_guest string; None where it has neither.

    Raises KernelError where they are damaged.
    """
    if notes := elf.xen_notes():
        return _from_notes(elf, notes)
    section = elf.section_named("__xen_guest")
    if section is None:
        return None
    return _from_guest_info(elf.string(section.sh_offset, "__xen_guest string"))


def feature_names(bits: int) -> tuple[str, ...]:
    """The names of the features in a bit mask."""
    return tuple(_FEATURE_BITS.get(bit, f"feature {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1)


def parse_features(text: str) -> tuple[int, int, str | None]:
    """elf_xen_parse_features: the supported and the required bits, and the first unknown name behind a "!".

    Like libelf, stops at that name.
    """
    supported = required = 0
    for word in re.findall(rf"([^|]{{1,{_FEATURE_LENGTH}}})\|?", text):
        name = word.removeprefix("!")
        feature = _FEATURE_NAMES.get(name)
        if feature is None:
            if name != word:
                return supported, required, name
            continue
        supported |= 1 << feature
        if name != word:
            required |= 1 << feature
    return supported, required, None


_KINDS = {kind.value: kind for kind in XEN_ELFNOTE}
_WORDS = {
    XEN_ELFNOTE.XEN_VERSION: "xen_ver",
    XEN_ELFNOTE.GUEST_OS: "guest_os",
    XEN_ELFNOTE.GUEST_VERSION: "guest_ver",
    XEN_ELFNOTE.LOADER: "loader",
}
_ADDRESSES = {
    XEN_ELFNOTE.ENTRY: "virt_entry",
    XEN_ELFNOTE.HYPERCALL_PAGE: "virt_hypercall",
    XEN_ELFNOTE.VIRT_BASE: "virt_base",
    XEN_ELFNOTE.INIT_P2M: "p2m_base",
    XEN_ELFNOTE.PADDR_OFFSET: "elf_paddr_offset",
    XEN_ELFNOTE.HV_START_LOW: "virt_hv_start_low",
}
_FLAGS = {
    XEN_ELFNOTE.SUSPEND_CANCEL: "suspend_cancel",
    XEN_ELFNOTE.MOD_START_PFN: "unmapped_initrd",
}
_STRINGS = {*_WORDS, XEN_ELFNOTE.PAE_MODE, XEN_ELFNOTE.FEATURES, XEN_ELFNOTE.BSD_SYMTAB}
_NUMBERS = {*_ADDRESSES, *_FLAGS, XEN_ELFNOTE.PHYS32_ENTRY}


def _from_notes(elf: ElfImage, notes: tuple[Note, ...]) -> XenNotes:
    values = tuple(_value(elf, note) for note in notes)
    parms: dict[str, Any] = {}
    supported = required = 0
    unknown = []
    for note, said in zip(notes, values, strict=True):
        match note.type, said.value:
            case XEN_ELFNOTE.PAE_MODE, str(mode):
                parms["pae"] = Pae.BIMODAL if "bimodal" in mode else Pae.EXTCR3 if mode == "yes" else Pae.NO
            case XEN_ELFNOTE.BSD_SYMTAB, str(wanted):
                parms["bsd_symtab"] = parms.get("bsd_symtab", False) or wanted == "yes"
            case XEN_ELFNOTE.FEATURES, str(names):
                more, demanded, strange = parse_features(names)
                supported |= more
                required |= demanded
                if strange is not None:
                    unknown.append(strange)
            case XEN_ELFNOTE.SUPPORTED_FEATURES, int(bits):
                supported |= bits
            case XEN_ELFNOTE.PHYS32_ENTRY, int(address):
                parms["phys_entry"] = _unless_unset(address & 0xFFFFFFFF, 0xFFFFFFFF)
            case XEN_ELFNOTE.L1_MFN_VALID, tuple(pairs):
                parms["l1_mfn_valid"] = pairs
            case kind, str(text):
                parms[_WORDS[XEN_ELFNOTE(kind)]] = text
            case kind, int(number) if kind in _FLAGS:
                parms[_FLAGS[XEN_ELFNOTE(kind)]] = bool(number)
            case kind, int(number):
                parms[_ADDRESSES[XEN_ELFNOTE(kind)]] = _unless_unset(number, _U64)
    return XenNotes(values=values, f_supported=supported, f_required=required, unknown_required=tuple(unknown), **parms)


def _value(elf: ElfImage, note: Note) -> NoteValue:
    """Read a description as its type demands."""
    kind = _KINDS.get(note.type)
    if kind is None:
        return NoteValue(f"{note.type:#x}", bytes(elf.data[note.desc : note.desc + min(note.descsz, STRING_MAX)]))
    what = f"ELF note {kind.name}"
    if kind in _STRINGS:
        # Linux writes FEATURES without a final zero: the padding ends it, so descsz is no bound.
        return NoteValue(kind.name, elf.string(note.desc, what))
    if kind in _NUMBERS:
        size = note.descsz if note.descsz in (1, 2, 4, 8) else 0
        return NoteValue(kind.name, elf.integer(note.desc, size, what))
    if kind is XEN_ELFNOTE.SUPPORTED_FEATURES:
        # An array of 32-bit submaps, of which there is one.
        size = 4 if note.descsz and note.descsz % 4 == 0 else 0
        return NoteValue(kind.name, elf.integer(note.desc, size, what))
    raw = bytes(elf.data[note.desc : note.desc + min(note.descsz, STRING_MAX)])
    if kind is XEN_ELFNOTE.L1_MFN_VALID and len(raw) % 16 == 0:
        words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
        return NoteValue(kind.name, tuple(zip(words[::2], words[1::2], strict=True)))
    return NoteValue(kind.name, raw)


def _unless_unset(value: int, unset: int) -> int | None:
    return None if value == unset else value


def _from_guest_info(text: str) -> XenNotes:
    """elf_xen_parse_guest_info: the string of Xen 3.0's kernels, "GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0x..."."""
    values = []
    parms: dict[str, Any] = {}
    for match in _GUEST_INFO.finditer(text):
        if not match.group():
            continue
        name, value = match[1], match[2] or ""
        values.append(NoteValue(name, value))
        match name:
            case "LOADER" | "GUEST_OS" | "GUEST_VER" | "XEN_VER":
                parms[name.lower()] = value
            case "PAE" if value.startswith("yes"):
                parms["pae"] = Pae.EXTCR3 if value == "yes[extended-cr3]" else Pae.YES
            case "BSD_SYMTAB":
                parms["bsd_symtab"] = True
            case "VIRT_BASE" | "VIRT_ENTRY" | "ELF_PADDR_OFFSET":
                parms[name.lower()] = _unless_unset(_strtoull(value), _U64)
            case "HYPERCALL_PAGE":
                parms["virt_hypercall"] = _unless_unset(_strtoull(value) << _PAGE_SHIFT & _U64, _U64)
            case "FEATURES":
                supported, required, strange = parse_features(value)
                parms["f_supported"] = parms.get("f_supported", 0) | supported
                parms["f_required"] = parms.get("f_required", 0) | required
                if strange is not None:
                    break  # libelf stops reading here, and goes on with what it has
    if parms.get("virt_base") is not None and parms.get("virt_hypercall") is not None:
        # The string has a page number within the kernel, the notes have a virtual address.
        parms["virt_hypercall"] = parms["virt_hypercall"] + parms["virt_base"] & _U64
    return XenNotes(values=tuple(values), legacy=True, **parms)


def _strtoull(text: str) -> int:
    """C's strtoull with base 0: as much of a number as the text starts with."""
    match = _STRTOULL.match(text)
    if match is None:
        return 0
    sign, hexadecimal, octal, decimal = match.groups()
    if hexadecimal:
        value = int(hexadecimal, 16)
    elif decimal:
        value = int(decimal)
    else:
        value = int(octal or "0", 8)
    if value > _U64:
        return _U64
    return -value & _U64 if sign == "-" else value
