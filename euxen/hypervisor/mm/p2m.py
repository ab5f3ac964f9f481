"""The p2m: which machine frame a guest frame of an HVM domain is. Source: xen/arch/x86/mm/p2m.c and p2m.h.

A word for each guest frame: 0 for a hole, else the machine frame << 12, what the engine may do with it (P2M_*), and a
type. The words are one sparse array, of which ``CpuBlock.p2m`` is told in pieces. To touch a group of them costs a
page of the domain's pool, as a page table of a real p2m would.

An entry holds no reference. Memory of the domain's own is there because the domain holds it: whoever takes it away
takes it out here first. What is lent by others is held by the mapping of the grant, and only its unmapping takes it
out. The machine-to-physical table knows where memory of the domain's own is, so that it is in one place at a time.

Entries are changed by the domain's own vCPU, or while it is paused. They may be read by any thread at any time.
"""

from __future__ import annotations

import ctypes
import mmap

from euxen.abi.errno import XEN_EINVAL, XEN_ENOMEM, XEN_EPERM
from euxen.cpu.block import P2M_ENTRIES, P2M_EXECUTE, P2M_READ, P2M_SHIFT, P2M_WRITE
from euxen.cpu.native.language import load8, load64, native, shr, store8, store64, ult
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor.mm.page import (
    PAGE_SHIFT,
    flush_domain_tlb,
    get_page,
    get_page_from_mfn,
    mfn_valid,
    page_of,
    put_page,
    put_page_alloc_ref,
)
from euxen.hypervisor.mm.pagetable import get_page_type
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo

GFN_BITS = 28
"""A guest's physical addresses have 40 bits (``cpu.policy``)."""
GFNS = 1 << GFN_BITS
GROUP_SHIFT = 9
"""A group is as many entries as a page holds."""
INVALID_M2P_ENTRY = -1
DEFAULT_POOL = 256
"""Pages that a domain's pool has until somebody changes that (hap_enable)."""

p2m_ram_rw, p2m_ram_ro, p2m_mmio_dm, p2m_grant_map_rw, p2m_grant_map_ro = 0, 3, 4, 7, 8
"""p2m_type_t. A hole is p2m_mmio_dm: a device model would be asked what is there."""
TYPE_SHIFT = 52
MFN_MASK = (1 << 52) - 1 - 0xFFF


@native
def get_entry(domain: int, gfn: int) -> int:
    """The entry of a guest frame, 0 for a hole."""
    if not ult(gfn, GFNS):
        return 0
    return load64(load64(domain + DomainRecord.p2m) + gfn * 8)


@native
def mfn_of(entry: int) -> int:
    """The machine frame in an entry that is no hole."""
    return (entry & MFN_MASK) >> PAGE_SHIFT


@native
def type_of(entry: int) -> int:
    """The p2m_type_t of an entry."""
    return shr(entry, TYPE_SHIFT) if entry else p2m_mmio_dm


@native
def is_grant(entry: int) -> int:
    """Whether an entry maps what others lend (p2m_is_grant)."""
    kind = type_of(entry)
    return 1 if kind == p2m_grant_map_rw or kind == p2m_grant_map_ro else 0


@native
def _set_entry(domain: int, gfn: int, entry: int) -> int:
    """Write an entry: 0, -EINVAL where there can be none, or -ENOMEM. What the engine remembers of the old is wrong."""
    if not ult(gfn, GFNS):
        return -XEN_EINVAL
    group = load64(domain + DomainRecord.p2m_groups) + (gfn >> GROUP_SHIFT)
    if not load8(group):
        if not entry:
            return 0
        used = load64(domain + DomainRecord.p2m_used)
        if used >= load64(domain + DomainRecord.p2m_pool):
            return -XEN_ENOMEM
        store64(domain + DomainRecord.p2m_used, used + 1)
        store8(group, 1)
    at = load64(domain + DomainRecord.p2m) + gfn * 8
    old = load64(at)
    store64(at, entry)
    if old:
        flush_domain_tlb(domain)
    if entry and gfn > load64(domain + DomainRecord.p2m_max_gfn):
        store64(domain + DomainRecord.p2m_max_gfn, gfn)
    return 0


@native
def _m2p(domain: int, mfn: int) -> int:
    """Where the machine-to-physical table has the entry of a machine frame."""
    return load64(load64(domain + DomainRecord.machine) + MachineRecord.m2p) + mfn * 8


@native
def gfn_of(domain: int, mfn: int) -> int:
    """The guest frame that a machine frame of the domain's is, or INVALID_M2P_ENTRY (mfn_to_gfn)."""
    return load64(_m2p(domain, mfn))


@native
def remove_page(domain: int, gfn: int, mfn: int) -> int:
    """Make a hole where a machine frame is; -EINVAL if it is not there (p2m_remove_page)."""
    entry = get_entry(domain, gfn)
    if not entry:
        return 0
    if mfn_of(entry) != mfn:
        return -XEN_EINVAL
    if not is_grant(entry):
        store64(_m2p(domain, mfn), INVALID_M2P_ENTRY)
    return _set_entry(domain, gfn, 0)


@native
def _rights(kind: int) -> int:
    """What the engine may do with a frame (p2m_type_to_flags)."""
    if kind == p2m_grant_map_ro:
        return P2M_READ
    if kind == p2m_grant_map_rw:
        return P2M_READ | P2M_WRITE
    return P2M_READ | P2M_EXECUTE if kind == p2m_ram_ro else P2M_READ | P2M_WRITE | P2M_EXECUTE


@native
def add_page(domain: int, gfn: int, mfn: int, kind: int) -> int:
    """Put a machine frame at a guest frame: 0 or a negative errno (p2m_add_page).

    Memory of the domain's own that is elsewhere moves. After -EPERM the domain has to be crashed: it takes out what is
    lent to it by other means than unmapping.
    """
    old = get_entry(domain, gfn)
    if is_grant(old):
        return -XEN_EPERM
    if not ult(gfn, GFNS):
        return -XEN_EINVAL
    owner = load64(page_of(load64(domain + DomainRecord.machine), mfn) + PageInfo.owner)
    if old:
        store64(_m2p(domain, mfn_of(old)), INVALID_M2P_ENTRY)
    if owner == domain:
        elsewhere = gfn_of(domain, mfn)
        if elsewhere != INVALID_M2P_ENTRY and elsewhere != gfn:
            other = get_entry(domain, elsewhere)
            if other and mfn_of(other) == mfn and not is_grant(other):
                remove_page(domain, elsewhere, mfn)
    error = _set_entry(domain, gfn, (mfn << PAGE_SHIFT) | _rights(kind) | (kind << TYPE_SHIFT))
    if not error and kind != p2m_grant_map_rw and kind != p2m_grant_map_ro:
        store64(_m2p(domain, mfn), gfn)
    return error


@native
def get_page_from_gfn(domain: int, gfn: int) -> int:
    """The PageInfo of a guest frame with a reference taken, or 0; of a machine frame for a PV domain."""
    if not load64(domain + DomainRecord.p2m):
        return get_page_from_mfn(domain, gfn)
    machine = load64(domain + DomainRecord.machine)
    while True:
        entry = get_entry(domain, gfn)
        if not entry or not mfn_valid(machine, mfn_of(entry)):
            return 0
        page = page_of(machine, mfn_of(entry))
        if not get_page(page, domain):
            return 0
        # Another thread may look while the guest gives the frame away.
        if get_entry(domain, gfn) == entry:
            return page
        put_page(page)


@native
def get_page_and_type_from_gfn(domain: int, gfn: int, kind: int) -> int:
    """The same with a reference as a type as well; 0 if that cannot be had."""
    page = get_page_from_gfn(domain, gfn)
    if page and get_page_type(page, kind):
        put_page(page)
        return 0
    return page


@native
def guest_remove_page(domain: int, gfn: int) -> int:
    """Take a frame from a domain, which is free once nobody refers to it; 0 if it has none there.

    What is lent, though it be by the domain itself, only its unmapping takes out.
    Source: guest_remove_page in xen/common/memory.c.
    """
    entry = get_entry(domain, gfn)
    if not entry or is_grant(entry):
        return 0
    mfn = mfn_of(entry)
    page = page_of(load64(domain + DomainRecord.machine), mfn)
    if not get_page(page, domain):
        return 0
    removed = remove_page(domain, gfn, mfn) == 0
    if removed:
        put_page_alloc_ref(page)
    put_page(page)
    return 1 if removed else 0


@native
def unmap_xen_frame(domain: int, mfn: int) -> int:
    """A frame of Xen's that the guest had mapped becomes something else."""
    if load64(domain + DomainRecord.p2m):
        gfn = gfn_of(domain, mfn)
        if gfn != INVALID_M2P_ENTRY:
            remove_page(domain, gfn, mfn)
    return 0


class P2m:
    """The p2m of one domain: the memory that it takes."""

    def __init__(self, domain: Record) -> None:
        """``domain`` is a DomainRecord without one."""
        self._entries = Memory(GFNS * 8)
        self._groups = Memory(GFNS >> GROUP_SHIFT)
        self._directory = Memory(P2M_ENTRIES * 8)
        libc = ctypes.CDLL(None)
        # A page for each group that is touched, and no more.
        libc.madvise(ctypes.c_void_p(self._entries.address), ctypes.c_size_t(GFNS * 8), mmap.MADV_NOHUGEPAGE)
        for number in range(GFNS >> P2M_SHIFT):
            self._directory.words()[number] = self._entries.address + number * P2M_ENTRIES * 8
        domain["p2m"], domain["p2m_groups"] = self._entries.address, self._groups.address
        domain["p2m_pool"] = DEFAULT_POOL
        self.domain = domain

    @property
    def directory(self) -> int:
        """What ``CpuBlock.p2m`` is told."""
        return self._directory.address

    def entry(self, gfn: int) -> int:
        """An entry as it is, 0 for a hole."""
        return int(self._entries.words()[gfn]) if gfn < GFNS else 0

    def mfn(self, gfn: int) -> int | None:
        """The machine frame of a guest frame, None for a hole."""
        entry = self.entry(gfn)
        return (entry & MFN_MASK) >> PAGE_SHIFT if entry else None

    def used(self) -> list[tuple[int, int]]:
        """All entries that are no holes: (guest frame, entry)."""
        words = self._entries.words()
        groups = bytes(self._groups.view)
        found = []
        group = groups.find(1)
        while group >= 0:
            first = group << GROUP_SHIFT
            for gfn, entry in enumerate(words[first : first + (1 << GROUP_SHIFT)].tolist(), first):
                if entry:
                    found.append((gfn, entry))
            group = groups.find(1, group + 1)
        return found
