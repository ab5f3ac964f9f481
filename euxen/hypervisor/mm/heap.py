"""The domain heap: which machine frames are free (xen/common/page_alloc.c).

One bit per frame, in frame order, set where the frame is free. An extent is aligned to its size, so it
lies in one word or is made of whole words. Whoever frees a frame does not clear it: it is cleared for the
next one who gets it.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EINVAL, XEN_ENOMEM
from euxen.cpu.native.language import ctz, fill, load64, native, shr, store64, ult
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.records import PAGE_INFO_SHIFT, PAGE_SHIFT, PAGE_SIZE, DomainRecord, MachineRecord, PageInfo

PGC_need_scrub = 1 << 61
WORD_ORDER = 6
NONE = -1
ALL_FREE = -1


@native
def _find_in_word(word: int, order: int) -> int:
    """Where the first aligned run of ``2 ** order`` set bits begins in a word; 64 if there is none."""
    if order == 0:
        return ctz(word)
    size = 1 << order
    run = (1 << size) - 1
    position = 0
    while position < 64 and shr(word, position) & run != run:
        position += size
    return position


@native
def _find_small(heap: int, first: int, end: int, order: int) -> int:
    """The first free extent of less than a word in the words from ``first`` to ``end``, or NONE."""
    for number in range(first, end):
        word = load64(heap + number * 8)
        if word:
            position = _find_in_word(word, order)
            if position < 64:
                return (number << WORD_ORDER) + position
    return NONE


@native
def _find_large(heap: int, words: int, order: int) -> int:
    """The first free extent of one word or several, or NONE."""
    size = 1 << (order - WORD_ORDER)
    first = 0
    while first + size <= words:
        number = first
        while number < first + size and load64(heap + number * 8) == ALL_FREE:
            number += 1
        if number == first + size:
            return first << WORD_ORDER
        first += size
    return NONE


@native
def _find(machine: int, order: int) -> int:
    """A free extent, or NONE. Single frames are looked for where the last one was found."""
    heap = load64(machine + MachineRecord.heap)
    words = load64(machine + MachineRecord.heap_words)
    if order >= WORD_ORDER:
        return _find_large(heap, words, order)
    hint = load64(machine + MachineRecord.heap_hint)
    found = _find_small(heap, hint, words, order)
    if found == NONE:
        found = _find_small(heap, 0, hint, order)
    if found != NONE and order == 0:
        store64(machine + MachineRecord.heap_hint, found >> WORD_ORDER)
    return found


@native
def _mark(machine: int, first: int, count: int, free: int) -> int:
    """Note of ``count`` frames that they are free, or not. The heap is locked."""
    heap = load64(machine + MachineRecord.heap)
    frame = first
    while frame < first + count:
        word = heap + (frame >> WORD_ORDER) * 8
        if frame & 63 == 0 and first + count - frame >= 64:
            store64(word, ALL_FREE if free else 0)
            frame += 64
        else:
            bit = 1 << (frame & 63)
            store64(word, load64(word) | bit if free else load64(word) & ~bit)
            frame += 1
    change = count if free else -count
    store64(machine + MachineRecord.free_pages, load64(machine + MachineRecord.free_pages) + change)
    return 0


@native
def add_frames(machine: int, first: int, count: int) -> int:
    """Give frames that nobody used yet to the heap (init_heap_pages)."""
    return _mark(machine, first, count, 1)


@native
def _claims_allow(machine: int, domain: int, count: int) -> int:
    """Whether ``count`` frames are left for whoever has no claim, or the domain has claimed so many. Locked."""
    promised = load64(machine + MachineRecord.outstanding_claims)
    if promised + count <= load64(machine + MachineRecord.free_pages):
        return 1
    return 1 if domain and load64(domain + DomainRecord.outstanding_pages) >= count else 0


@native
def _reduce_claim(machine: int, domain: int, count: int) -> int:
    """So much of a claim is used up. Locked."""
    used = min(load64(domain + DomainRecord.outstanding_pages), count)
    store64(domain + DomainRecord.outstanding_pages, load64(domain + DomainRecord.outstanding_pages) - used)
    claims = machine + MachineRecord.outstanding_claims
    store64(claims, load64(claims) - used)
    return 0


@native
def adjust_claim(domain: int, pages: int) -> int:
    """A domain has ``pages`` more, or less: a claim is for what it shall have in all, until it has it."""
    machine = load64(domain + DomainRecord.machine)
    lock(machine + MachineRecord.heap_lock)
    if load64(domain + DomainRecord.outstanding_pages):
        _reduce_claim(machine, domain, pages)
    return unlock(machine + MachineRecord.heap_lock)


@native
def set_outstanding_pages(domain: int, pages: int) -> int:
    """Claim that a domain shall have ``pages`` in all, or take its claim back with 0; 0 or a negative errno.

    domain_set_outstanding_pages.
    """
    machine = load64(domain + DomainRecord.machine)
    total = load64(domain + DomainRecord.tot_pages)
    lock(machine + MachineRecord.heap_lock)
    error = 0
    if pages == 0:
        _reduce_claim(machine, domain, load64(domain + DomainRecord.outstanding_pages))
    elif (
        load64(domain + DomainRecord.outstanding_pages)
        or not ult(total, pages)
        or ult(load64(domain + DomainRecord.max_pages), pages)
    ):
        error = -XEN_EINVAL
    else:
        claims = machine + MachineRecord.outstanding_claims
        if pages - total > load64(machine + MachineRecord.free_pages) - load64(claims):
            error = -XEN_ENOMEM
        else:
            store64(domain + DomainRecord.outstanding_pages, pages - total)
            store64(claims, load64(claims) + pages - total)
    unlock(machine + MachineRecord.heap_lock)
    return error


@native
def alloc_frames(machine: int, order: int) -> int:
    """Take ``2 ** order`` free frames in a row, with zeroes in them; the first, or NONE."""
    return alloc_for(machine, 0, order)


@native
def alloc_for(machine: int, domain: int, order: int) -> int:
    """The same for a domain that may have claimed them; 0 is for none."""
    count = 1 << order
    lock(machine + MachineRecord.heap_lock)
    first = _find(machine, order) if _claims_allow(machine, domain, count) else NONE
    if first != NONE:
        _mark(machine, first, count, 0)
        store64(machine + MachineRecord.heap_top, max(load64(machine + MachineRecord.heap_top), first + count))
    unlock(machine + MachineRecord.heap_lock)
    if first != NONE:
        for frame in range(first, first + count):
            page = load64(machine + MachineRecord.frame_table) + (frame << PAGE_INFO_SHIFT)
            if load64(page + PageInfo.count_info) & PGC_need_scrub:
                fill(load64(machine + MachineRecord.ram) + (frame << PAGE_SHIFT), 0, PAGE_SIZE)
            store64(page + PageInfo.count_info, 0)
            store64(page + PageInfo.type_info, 0)
            store64(page + PageInfo.owner, 0)
            store64(page + PageInfo.linear_pt_count, 0)
    return first


@native
def free_frame(machine: int, frame: int) -> int:
    """Give a frame back to the heap. Nothing may refer to it any more."""
    page = load64(machine + MachineRecord.frame_table) + (frame << PAGE_INFO_SHIFT)
    store64(page + PageInfo.owner, 0)
    store64(page + PageInfo.type_info, 0)
    store64(page + PageInfo.count_info, PGC_need_scrub)
    store64(load64(machine + MachineRecord.m2p) + frame * 8, -1)
    lock(machine + MachineRecord.heap_lock)
    _mark(machine, frame, 1, 1)
    unlock(machine + MachineRecord.heap_lock)
    return 0


@native
def _is_dirty(machine: int, frame: int) -> int:
    """Whether a frame is free and has somebody's data in it."""
    if not shr(load64(load64(machine + MachineRecord.heap) + (frame >> WORD_ORDER) * 8), frame & 63) & 1:
        return 0
    page = load64(machine + MachineRecord.frame_table) + (frame << PAGE_INFO_SHIFT)
    return 1 if load64(page + PageInfo.count_info) & PGC_need_scrub else 0


@native
def next_dirty(machine: int, frame: int) -> int:
    """The first free frame from ``frame`` on that would have to be cleared, or NONE."""
    top = load64(machine + MachineRecord.heap_top)
    while frame < top and not _is_dirty(machine, frame):
        frame += 1
    return frame if frame < top else NONE


@native
def take_dirty(machine: int, first: int, most: int) -> int:
    """Take the free frames from ``first`` on that would have to be cleared, so that nobody gets them; how many."""
    lock(machine + MachineRecord.heap_lock)
    last = min(first + most, load64(machine + MachineRecord.heap_top))
    end = first
    while end < last and _is_dirty(machine, end):
        end += 1
    _mark(machine, first, end - first, 0)
    unlock(machine + MachineRecord.heap_lock)
    return end - first


@native
def give_cleared(machine: int, first: int, count: int) -> int:
    """Give frames back that have zeroes in them."""
    for frame in range(first, first + count):
        store64(load64(machine + MachineRecord.frame_table) + (frame << PAGE_INFO_SHIFT) + PageInfo.count_info, 0)
    lock(machine + MachineRecord.heap_lock)
    _mark(machine, first, count, 1)
    unlock(machine + MachineRecord.heap_lock)
    return 0
