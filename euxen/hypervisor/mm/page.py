"""Machine frames: owners, references and types.

The rule that keeps guests apart (xen/arch/x86/mm.c): a frame has one type at a time. It may change
its type only while nothing refers to it as what it was, and it becomes a page table only after each
of its entries was found to be harmless. Everything else here is bookkeeping for that rule.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import (
    add64,
    and64,
    call2,
    call3,
    cas64,
    load64,
    native,
    or64,
    shr,
    signed,
    store64,
    ult,
)
from euxen.hypervisor.domain_list import put_domain
from euxen.hypervisor.mm.heap import adjust_claim, free_frame
from euxen.hypervisor.mm.outside_writes import forget_code
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
PGT_partial = 1 << 56
PGT_count_mask = (1 << 55) - 1

# PageInfo.count_info
PGC_allocated = signed(1 << 63)
PGC_xen_heap = 1 << 62
PGC_count_mask = (1 << 57) - 1

PTF_partial_set = 1
"""PageInfo.partial_flags: the entry at which a table's validation stopped keeps a reference to the page it maps.
As a flag of ``drop_type``: do no more than to undo what was done for a page that is partly validated."""
PTF_retain_ref_on_restart = 16
"""The caller of get_page_and_type_preemptible wants to keep the general reference after -ERESTART."""
ERESTART = 85
"""Negated, what an operation returns that has to be made again to go on. No guest sees it."""
VALIDATE, RESUME = 1, 2
"""What is left to do for ``take_type``'s caller: validate the page from the start, or from where that stopped."""


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
    # The domain may have had the frame before, with something else in it.
    forget_code(domain, frame)
    store64(page + PageInfo.owner, domain)
    store64(page + PageInfo.count_info, PGC_allocated | 1)
    return 0


@native
def adjust_tot_pages(domain: int, pages: int) -> int:
    """A domain has one page more (1) or less (-1); how many it had (domain_adjust_tot_pages).

    A domain with pages is referred to. After the last one is gone, nobody may use its record on that account.
    """
    if load64(domain + DomainRecord.outstanding_pages):
        adjust_claim(domain, pages)
    before = add64(domain + DomainRecord.tot_pages, pages)
    if before == 0:
        add64(domain + DomainRecord.refcnt, 1)
    elif before + pages == 0:
        put_domain(domain)
    return before


@native
def assign_page(domain: int, frame: int) -> int:
    """Make a frame the domain's (assign_pages)."""
    adjust_tot_pages(domain, 1)
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
def share_xen_page_with_guest(domain: int, frame: int) -> int:
    """Let a domain have a frame of Xen's, writable. It comes back when the domain is no more.

    Of a domain that is dying nobody can have it: none of its pages will be let go of any more.
    """
    page = page_of(load64(domain + DomainRecord.machine), frame)
    forget_code(domain, frame)
    store64(page + PageInfo.type_info, PGT_writable_page | PGT_validated | 1)
    store64(page + PageInfo.owner, domain)
    if load64(domain + DomainRecord.is_dying):
        return 0
    if add64(domain + DomainRecord.xenheap_pages, 1) == 0:
        add64(domain + DomainRecord.refcnt, 1)
    store64(page + PageInfo.count_info, PGC_xen_heap | PGC_allocated | 1)
    return 0


@native
def put_page(page: int) -> int:
    """Drop a reference; the last one frees the frame. Whoever had it mapped forgets that first, as the TLB does."""
    while True:
        count = load64(page + PageInfo.count_info)
        if cas64(page + PageInfo.count_info, count, count - 1) == count:
            break
    if (count - 1) & PGC_count_mask == 0:
        domain = load64(page + PageInfo.owner)
        if count & PGC_xen_heap:
            if add64(domain + DomainRecord.xenheap_pages, -1) == 1:
                put_domain(domain)
        elif domain:
            machine = load64(domain + DomainRecord.machine)
            free_frame(machine, frame_of(machine, page))
            adjust_tot_pages(domain, -1)
    return 0


@native
def put_page_alloc_ref(page: int) -> int:
    """Drop the reference by which a domain holds its page, if it still does; 1 if it did."""
    if and64(page + PageInfo.count_info, ~PGC_allocated) & PGC_allocated:
        put_page(page)
        return 1
    return 0


@native
def set_allocated(page: int) -> int:
    """Have a reference that the caller holds stand for the domain's hold on its page."""
    if or64(page + PageInfo.count_info, PGC_allocated) & PGC_allocated:
        put_page(page)
    return 0


@native
def get_page_light(page: int) -> int:
    """Take one more reference to a page that the caller has one to (get_page_light)."""
    while True:
        count = load64(page + PageInfo.count_info)
        if cas64(page + PageInfo.count_info, count, count + 1) == count:
            return 0


@native
def take_type(page: int, kind: int) -> int:
    """Take a reference to a page as a type, changing its type if it is free to change: the start of get_page_type.

    The caller holds a general reference. Returns 0, a negative errno, or VALIDATE or RESUME: until its caller has
    done that, nobody else can use the page.
    """
    while True:
        info = load64(page + PageInfo.type_info)
        new = info + 1
        if new & PGT_count_mask == 0:
            return -XEN_EINVAL
        if info & PGT_count_mask == 0:
            if info & PGT_type_mask != kind:
                new = (new & ~(PGT_type_mask | PGT_validated)) | kind
        elif info & PGT_type_mask != kind:
            return -XEN_EINVAL
        elif not info & PGT_validated:
            if not info & PGT_partial:
                return -XEN_EINVAL
            # Its one reference as this type becomes the caller's.
            new = info & ~PGT_partial
        if kind == PGT_writable_page or kind == PGT_shared_page:
            new |= PGT_validated
        if cas64(page + PageInfo.type_info, info, new) == info:
            break
    if kind == PGT_writable_page:
        return 0
    if info & PGT_type_mask != kind:
        _forget_writable(page)
    if new & PGT_validated:
        return 0
    if info & PGT_partial:
        return RESUME
    # Sets nr_validated_ptes and partial_flags too.
    store64(page + PageInfo.linear_pt_count, 0)
    return VALIDATE


@native
def drop_type(page: int, flags: int) -> int:
    """Drop a reference to a page as its type (the start of _put_page_type).

    Returns 0; or, for the last reference to a page table, the type_info that it had: what its entries refer to has to
    be given up then, and until that is done nobody else can use the page.
    """
    while True:
        info = load64(page + PageInfo.type_info)
        if flags & PTF_partial_set and not info & PGT_partial:
            return 0
        new, last = info - 1, 0
        if new & PGT_count_mask == 0 and is_table(info) and info & (PGT_validated | PGT_partial):
            new, last = info & ~(PGT_validated | PGT_partial), info
        if cas64(page + PageInfo.type_info, info, new) == info:
            return last


@native
def _forget_writable(page: int) -> int:
    """No CPU may be left with a writable translation of a frame that becomes a page table."""
    domain = load64(page + PageInfo.owner)
    block = load64(domain + DomainRecord.block)
    if block:
        machine = load64(domain + DomainRecord.machine)
        call2(load64(block + CpuBlock.forget_frame), block, frame_of(machine, page))
    return 0


@native
def flush_domain_tlb(domain: int) -> int:
    """No translation that the domain's CPU remembers may outlive what it was made from."""
    block = load64(domain + DomainRecord.block)
    if block:
        store64(block + CpuBlock.flush_pending, 1)
    return 0


@native
def is_table(type_info: int) -> int:
    """Whether a type is that of a page table."""
    return 1 if ult(shr(type_info, 61) - 1, 4) else 0


@native
def level_of(type_info: int) -> int:
    """1 to 4 for a page table, something else for other types."""
    return shr(type_info, 61)
