"""Do the counts add up? Compares the frame table with all that holds references (the audits of Xen's debug builds).

For whoever looks for bugs of the hypervisor's: tests and ``euxen fuzz``. No guest may run meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from euxen.abi.grant_table import GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import _PAGE_PRESENT, _PAGE_RW, ENTRIES, PADDR_MASK
from euxen.hypervisor.mm.pagetable import PGT_TABLES
from euxen.hypervisor.mm.xen_slots import is_guest_slot
from euxen.hypervisor.records import PageInfo

WORD = (1 << 64) - 1
FIELDS = PageInfo.size // 8
NONE, WRITABLE, SEGMENTS = 0, (pg.PGT_writable_page & WORD) >> 61, (pg.PGT_seg_desc_page & WORD) >> 61
TYPES = {NONE: "none", 1: "l1", 2: "l2", 3: "l3", 4: "l4", SEGMENTS: "seg_desc", 6: "shared", WRITABLE: "writable"}


def audit(hypervisor: Hypervisor) -> list[str]:
    """What is wrong with a machine's books, in a sentence each; nothing where all is well."""
    return list(_Audit(hypervisor).findings())


class _Audit:
    """What every frame should say of itself, from all that refers to it."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        domains = hypervisor.domains
        machine = self._machine = hypervisor.machine
        self._domains = {domain.record.address: domain for domain in domains}
        self._granters = {domain.domid: domain for domain in domains}
        self._system = {record.address for record in hypervisor.system_domains.values()}
        self._words = machine.frame_table.words()
        self._top = machine.record["heap_top"]
        self._references: Counter[int] = Counter()
        self._types: Counter[tuple[int, int]] = Counter()
        """By frame and type."""
        self._linear: Counter[int] = Counter()
        """How many entries of a page table map one of its own level, less how often it is mapped so."""

    def _count(self, frame: int) -> int:
        return int(self._words[frame * FIELDS])

    def _type(self, frame: int) -> int:
        return int(self._words[frame * FIELDS + 1])

    def _partial(self, frame: int) -> dict[str, int]:
        """What is said of a page table besides its counts."""
        info = PageInfo.unpack_from(self._words[frame * FIELDS : (frame + 1) * FIELDS].cast("B"))
        return {name: getattr(info, name) for name in ("linear_pt_count", "nr_validated_ptes", "partial_flags")}

    def _owner(self, frame: int) -> Domain | None:
        return self._domains.get(int(self._words[frame * FIELDS + 2]))

    def findings(self) -> Iterator[str]:
        """Every difference."""
        owned: Counter[int] = Counter()
        for frame in range(self._top):
            count, owner = self._count(frame), self._owner(frame)
            of_xen = self._words[frame * FIELDS + 2] in self._system
            if count & pg.PGC_count_mask and owner is None and not of_xen:
                yield f"mfn {frame:#x} has {count & pg.PGC_count_mask} references and no owner that exists"
            if count & pg.PGC_allocated:
                self._references[frame] += 1
            if count & pg.PGC_xen_heap:
                self._types[frame, NONE if of_xen else WRITABLE] += 1
            elif count & pg.PGC_count_mask and owner is not None:
                owned[owner.domid] += 1
            self._follow_table(frame)
        for domain in self._domains.values():
            self._follow_domain(domain)
            if owned[domain.domid] != domain.record["tot_pages"]:
                yield f"{domain} has {owned[domain.domid]} pages, and tot_pages is {domain.record['tot_pages']}"
        for frame in range(self._top):
            yield from self._check(frame)
        for domain in self._domains.values():
            yield from self._check_p2m(domain)
        yield from self._check_heap()

    def _refer(self, frame: int, kind: int | None) -> None:
        self._references[frame] += 1
        if kind is not None:
            self._types[frame, kind] += 1

    def _follow_table(self, frame: int) -> None:
        """What a page table's entries refer to, and its pin, and its being partly validated."""
        info = self._type(frame)
        level = info >> 61
        if info & pg.PGT_pinned:
            self._refer(frame, level)
        if level not in PGT_TABLES or not info & pg.PGT_count_mask:
            return
        validated = ENTRIES if info & pg.PGT_validated else 0
        entries = self._machine.frame(frame).cast("Q")
        if info & pg.PGT_partial:
            self._refer(frame, level)
            validated = self._partial(frame)["nr_validated_ptes"]
            if self._partial(frame)["partial_flags"] & pg.PTF_partial_set:
                self._refer((entries[validated] & PADDR_MASK) >> pg.PAGE_SHIFT, None)
        for slot in range(validated):
            entry = entries[slot]
            if not entry & _PAGE_PRESENT or not is_guest_slot.function(level, slot):
                continue
            target = (entry & PADDR_MASK) >> pg.PAGE_SHIFT
            if level == 1:
                self._refer(target, WRITABLE if entry & _PAGE_RW else None)
            elif target != frame:
                linear = self._type(target) >> 61 == level
                self._refer(target, level if linear else level - 1)
                if linear:
                    self._linear[frame] += 1
                    self._linear[target] -= 1

    def _follow_domain(self, domain: Domain) -> None:
        """What a domain's vCPUs and Domain 0 hold, and the page table that it has to undo."""
        if domain.record["old_guest_table"]:
            frame_table = self._machine.record["frame_table"]
            self._refer((domain.record["old_guest_table"] - frame_table) // PageInfo.size, None)
        for frame in domain.held_frames():
            self._refer(frame, WRITABLE)
        for domid, ref, flags in domain.grant_table.mappings():
            frame = self._granters[domid].grant_table.active_frame(ref)
            kind = None if flags & GNTMAP_readonly else WRITABLE
            # Others have an entry in a page table for it, which was counted with all others.
            if flags & GNTMAP_host_map and domain.record["is_external"]:
                lends_untyped = domid != domain.domid and self._granters[domid].record["is_external"]
                self._refer(frame, None if lends_untyped else kind)
            if flags & GNTMAP_device_map:
                self._refer(frame, kind)
        for vcpu in domain.vcpus:
            for field in ("guest_table", "guest_table_user"):
                if vcpu.record[field]:
                    self._refer(vcpu.record[field], 4)
            for frame in vcpu.gdt_frames():
                self._refer(frame, SEGMENTS)

    def _check_p2m(self, domain: Domain) -> Iterator[str]:
        """A domain's p2m: its own memory is in one place, which the M2P knows, and what others lend is mapped."""
        if domain.hvm is None or domain.is_dying:
            return
        address, places = domain.record.address, {}
        lent = Counter(self._lent_frames(domain))
        for gfn, entry in domain.hvm.p2m.used():
            mfn = p2m.mfn_of(entry)
            if p2m.is_grant(entry):
                lent[mfn] -= 1
            elif mfn in places or p2m.gfn_of(address, mfn) != gfn or self._owner(mfn) is not domain:
                yield f"{domain} has mfn {mfn:#x} at gfn {gfn:#x}, which the frame table or the M2P does not know"
            else:
                places[mfn] = gfn
        for mfn, count in lent.items():
            if count:
                yield f"{domain} has mapped mfn {mfn:#x} of others {count} times that its p2m does not know"
        for mfn in range(self._top):
            if self._owner(mfn) is domain and self._count(mfn) & pg.PGC_count_mask and mfn not in places:
                gfn = p2m.gfn_of(address, mfn)
                if gfn != p2m.INVALID_M2P_ENTRY:
                    yield f"mfn {mfn:#x} is not at gfn {gfn:#x} of {domain}, as the M2P says"

    def _lent_frames(self, domain: Domain) -> Iterator[int]:
        """The frames for which a domain has an entry in its p2m, for each mapping."""
        for domid, ref, flags in domain.grant_table.mappings():
            if flags & GNTMAP_host_map:
                yield self._granters[domid].grant_table.active_frame(ref)

    def _check(self, frame: int) -> Iterator[str]:
        count, info = self._count(frame) & pg.PGC_count_mask, self._type(frame)
        if count != self._references[frame]:
            yield f"mfn {frame:#x} has count_info {count:#x}, and {self._references[frame]} references are to be found"
        kinds = {kind: self._types[frame, kind] for kind in TYPES if self._types[frame, kind]}
        if len(kinds) > 1:
            yield f"mfn {frame:#x} is used as {' and '.join(TYPES[kind] for kind in kinds)} at once"
        expected, held = sum(kinds.values()), info & pg.PGT_count_mask
        if expected != held or (held and info >> 61 not in kinds):
            yield f"mfn {frame:#x} has {held} references as {TYPES[info >> 61]}, and to be found are {kinds}"
        if held and info & pg.PGT_partial and (held != 1 or info & pg.PGT_validated):
            yield f"mfn {frame:#x} is partly validated and in use as {TYPES[info >> 61]}"
        if held and info >> 61 in PGT_TABLES and self._partial(frame)["linear_pt_count"] != self._linear[frame]:
            count = self._partial(frame)["linear_pt_count"]
            yield f"mfn {frame:#x} has linear_pt_count {count}, and should have {self._linear[frame]}"
        if held and not info & (pg.PGT_validated | pg.PGT_partial):
            yield f"mfn {frame:#x} is in use as {TYPES[info >> 61]} and was not validated"

    def _check_heap(self) -> Iterator[str]:
        free = 0
        for number, word in enumerate(self._machine.heap_words()):
            free += word.bit_count()
            for bit in range(64) if number * 64 < self._top and word else ():
                frame = number * 64 + bit
                if word >> bit & 1 and frame < self._top and self._count(frame) & pg.PGC_count_mask:
                    yield f"mfn {frame:#x} is free and has count_info {self._count(frame):#x}"
        if free != self._machine.record["free_pages"]:
            yield f"{free} frames are free, and free_pages is {self._machine.record['free_pages']}"
