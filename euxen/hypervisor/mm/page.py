"""Machine frames: owners, references and types.

The rule that keeps guests apart (xen/arch/x86/mm.c): a frame has one type at a time. It may change
its type only while nothing refers to it as what it was, and it becomes a page table only after each
of its entries was found to be harmless. Everything else here is bookkeeping for that rule.
"""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import add64, and64, call1, call3, cas64, load64, native, shr, signed, store64, ult
from euxen.hypervisor.mm.heap import free_frame
from euxen.hypervisor.records import PAGE_INFO_SHIFT, DomainRecord, MachineRecord, PageInfo
from euxen.hypervisor.records import PAGE_SHIFT as PAGE_SHIFT
from euxen.hypervisor.records import PAGE_SIZE as PAGE_SIZE

# PageInfo.type_info
PGT_none = 0
PGT_l1_page_table = 1 << 61
PGT_l2_page_table = 2 << 61
PGT_l3_page_table = 3 << 61
PGT_l4_page_table = signed(4 << 61)
PGT_seg_desc_page = signed(5 << 61)
PGT_shared_page = signed(6 << 61)
PGT_writable_page = signed(7 << 61)
PGT_type_mask = signed(7 << 61)
PGT_pinned = 1 << 59
PGT_validated = 1 << 58
PGT_count_mask = (1 << 55) - 1

# PageInfo.count_info
PGC_allocated = signed(1 << 63)
PGC_xen_heap = 1 << 62
PGC_count_mask = (1 << 57) - 1


@native
def page_of(machine: int, frame: int) -> int:
    """The PageInfo of a frame (mfn_to_page)."""
    return load64(machine + MachineRecord.frame_table) + (frame << PAGE_INFO_SHIFT)


@native
def frame_of(machine: int, page: int) -> int:
    """The frame of a PageInfo (page_to_mfn)."""
    return (page - load64(machine + MachineRecord.frame_table)) >> PAGE_INFO_SHIFT


@native
def mfn_valid(machine: int, frame: int) -> int:
    """Whether there is such a frame."""
    return 1 if ult(frame, load64(machine + MachineRecord.frames)) else 0


@native
def host_of(machine: int, frame: int) -> int:
    """Where a frame's contents are in the host's memory (map_domain_page)."""
    return load64(machine + MachineRecord.ram) + (frame << PAGE_SHIFT)


@native
def write_word(domain: int, host: int, value: int) -> int:
    """Write a word of a guest's ordinary memory, which may be code that its engine has translated."""
    block = load64(domain + DomainRecord.block)
    if block:
        call3(load64(block + CpuBlock.invalidate_code), block, host - load64(block + CpuBlock.ram), 8)
    store64(host, value)
    return 0


@native
def own_page(domain: int, frame: int) -> int:
    """Make a frame the domain's, without counting it: one reference, which PGC_allocated stands for."""
    page = page_of(load64(domain + DomainRecord.machine), frame)
    store64(page + PageInfo.owner, domain)
    store64(page + PageInfo.count_info, PGC_allocated | 1)
    return 0


@native
def assign_page(domain: int, frame: int) -> int:
    """Make a frame the domain's (assign_pages)."""
    add64(domain + DomainRecord.refcount, 1)
    add64(domain + DomainRecord.tot_pages, 1)
    return own_page(domain, frame)


@native
def get_page_owner(page: int) -> int:
    """Take a reference to a page that somebody owns; the owner, or 0 (page_get_owner_and_reference)."""
    while True:
        count = load64(page + PageInfo.count_info)
        # 0: not allocated. The last two values are never given out, so the count can't wrap.
        if (count + 2) & PGC_count_mask <= 2:
            return 0
        if cas64(page + PageInfo.count_info, count, count + 1) == count:
            return load64(page + PageInfo.owner)


@native
def get_page(page: int, domain: int) -> int:
    """Take a reference to a page of this domain; 0 if it is not the domain's."""
    owner = get_page_owner(page)
    if owner == domain:
        return 1
    if owner:
        put_page(page)
    return 0


@native
def get_page_from_mfn(domain: int, frame: int) -> int:
    """The PageInfo of a frame of this domain with a reference taken, or 0."""
    machine = load64(domain + DomainRecord.machine)
    if not mfn_valid(machine, frame):
        return 0
    page = page_of(machine, frame)
    return page if get_page(page, domain) else 0


@native
def put_page(page: int) -> int:
    """Drop a reference; the last one frees the frame."""
    while True:
        count = load64(page + PageInfo.count_info)
        if cas64(page + PageInfo.count_info, count, count - 1) == count:
            break
    if (count - 1) & PGC_count_mask == 0:
        domain = load64(page + PageInfo.owner)
        if domain:
            if not count & PGC_xen_heap:
                machine = load64(domain + DomainRecord.machine)
                flush_domain_tlb(domain)
                free_frame(machine, frame_of(machine, page))
                add64(domain + DomainRecord.tot_pages, -1)
            put_domain(domain)
    return 0


@native
def put_domain(domain: int) -> int:
    """Drop a reference to a domain. After the last one nobody may use its record (put_domain)."""
    machine = load64(domain + DomainRecord.machine)
    if add64(domain + DomainRecord.refcount, -1) == 1:
        gone = load64(machine + MachineRecord.domain_gone)
        if gone:
            call1(gone, machine)
    return 0


@native
def put_page_alloc_ref(page: int) -> int:
    """Drop the reference by which a page is allocated at all; whether it was (put_page_alloc_ref)."""
    held = and64(page + PageInfo.count_info, ~PGC_allocated) & PGC_allocated
    if held:
        put_page(page)
    return 1 if held else 0


@native
def flush_domain_tlb(domain: int) -> int:
    """No translation that the domain's CPU remembers may outlive what it was made from."""
    block = load64(domain + DomainRecord.block)
    if block:
        store64(block + CpuBlock.flush_pending, 1)
    return 0


@native
def level_of(type_info: int) -> int:
    """1 to 4 for a page table, something else for other types."""
    return shr(type_info, 61)
