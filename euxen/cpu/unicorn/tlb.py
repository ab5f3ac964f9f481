"""The translator's TLBs: how entries are made, and which of them are forgotten when.

There is one TLB for the guest's kernel (CPL 0 to 2) and one for its programs (CPL 3), so a change of
mode flushes nothing. The law of this file: an entry may stay as long as the page tables still say what
it says. The kernel's half of a PV guest's address space is the same in every one of its page tables, so its
entries outlive a change of address space; so do those of an HVM guest's global pages, in the kernel's TLB.
The others, called transient, are listed in a log as they are made and dropped one by one. For every machine
frame it is known under which address it was last made writable, and for every page table of a PV kernel's
half which region it serves: what changes there is dropped at once, without a search.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, u64
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import copy, fill, load8, load64, native, store64
from euxen.cpu.unicorn import jumps, layout

PAGE_MASK = ~0xFFF
PROT_READ, PROT_WRITE, PROT_EXEC, PROT_KEPT = 1, 2, 4, 8
"""What a walk may say of a page; the last: its translation outlives a change of the address space."""

ENTRIES = {layout.MMU_USER: 1024, layout.MMU_KERNEL: 4096}
"""How large the TLBs are. They are not resized: the kernel's is hardly ever empty."""

LOG_ENTRIES = 255
SEVERAL = -1
"""Instead of an address: there was more than one."""
XEN_SLOTS_END = 272
ENTRIES_OF_A_TABLE = 512
ACCESSED_DIRTY = 0x60


class TransientLog(Structure):
    """The pages of a TLB's transient entries. Ours."""

    count: int = u64()
    pages: int = u64()  # the first of LOG_ENTRIES


class FrameUse(Structure):
    """Where a machine frame has a writable entry. An epoch that has passed says: nowhere. Ours."""

    epoch: int = u64()
    page: int = u64()  # with an entry that is kept, or SEVERAL
    transient_epoch: int = u64()
    transient: int = u64()  # a page and the MMU mode, or SEVERAL


class TableUse(Structure):
    """Which region of the kernel's half a page table serves. Ours."""

    epoch: int = u64()
    region: int = u64()  # its first address, or SEVERAL


LOG_BYTES = TransientLog.size + 8 * (LOG_ENTRIES - 1)


@native
def entry_of(env: int, mmu: int, address: int) -> int:
    """The TLB entry that an address falls into."""
    fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
    return load64(fast + 8) + (((address >> 12) << 6) & load64(fast))


@native
def _desc(env: int, mmu: int) -> int:
    return env + layout.ENV_TLB_DESC + mmu * layout.TLB_DESC_SIZE


@native
def _drop(entry: int) -> int:
    store64(entry + layout.TLB_READ, -1)
    store64(entry + layout.TLB_WRITE, -1)
    store64(entry + layout.TLB_CODE, -1)
    return 0


@native
def _speaks_for(entry: int, page: int) -> int:
    """Whether an entry is that of a page."""
    return 1 if load64(entry + layout.TLB_READ) == page or load64(entry + layout.TLB_CODE) == page else 0


@native
def _drop_victims(env: int, mmu: int, page: int) -> int:
    """Drop the victim that speaks for a page. At most one entry may."""
    victim = _desc(env, mmu) + layout.TLB_DESC_VTABLE
    for _ in range(layout.VICTIMS):
        if _speaks_for(victim, page):
            _drop(victim)
        victim += layout.TLB_ENTRY_SIZE
    return 0


@native
def _drop_page(env: int, mmu: int, page: int) -> int:
    entry = entry_of(env, mmu, page)
    if _speaks_for(entry, page):
        _drop(entry)
    return _drop_victims(env, mmu, page)


@native
def is_victim(env: int, mmu: int, page: int, kind: int) -> int:
    """Whether an access of this kind to a page would hit the victim TLB."""
    victim = _desc(env, mmu) + layout.TLB_DESC_VTABLE + kind
    for _ in range(layout.VICTIMS):
        if load64(victim) == page:
            return 1
        victim += layout.TLB_ENTRY_SIZE
    return 0


@native
def fill_entry(block: int, env: int, mmu: int, address: int) -> int:
    """Put the result of the last walk into the TLB; returns the entry."""
    page = address & PAGE_MASK
    desc = _desc(env, mmu)
    entry = entry_of(env, mmu, address)
    protection = load64(block + CpuBlock.walk_protection)
    kept = 1 if protection & PROT_KEPT and mmu != layout.MMU_USER else 0
    io = load64(desc + layout.TLB_DESC_IOTLB) + ((entry - load64(env + layout.ENV_TLB_FAST + mmu * 16 + 8)) >> 2)
    if not _speaks_for(entry, page):
        if load64(entry + layout.TLB_READ) != -1 or load64(entry + layout.TLB_CODE) != -1:
            # The entry that has to go may be wanted again soon: it becomes a victim.
            number = load64(desc + layout.TLB_DESC_VINDEX)
            store64(desc + layout.TLB_DESC_VINDEX, number + 1)
            number &= layout.VICTIMS - 1
            copy(desc + layout.TLB_DESC_VTABLE + number * layout.TLB_ENTRY_SIZE, entry, layout.TLB_ENTRY_SIZE)
            copy(desc + layout.TLB_DESC_VIOTLB + number * 16, io, 16)
        if not kept:
            _log(block, mmu, page)
    elif load64(entry + layout.TLB_KEPT) and not kept:
        _log(block, mmu, page)
    _drop_victims(env, mmu, page)
    frame = load64(block + CpuBlock.walk_frame)
    writable = -1
    if protection & PROT_WRITE:
        writable = page
        if load8(load64(block + CpuBlock.code_map) + (frame >> 12)):
            writable |= layout.TLB_NOTDIRTY
        _remember_writable(block, env, mmu, page, frame, kept)
    store64(entry + layout.TLB_READ, page)
    store64(entry + layout.TLB_WRITE, writable)
    store64(entry + layout.TLB_CODE, page if protection & PROT_EXEC else -1)
    store64(entry + layout.TLB_PADDR, frame)
    store64(entry + layout.TLB_ADDEND, load64(block + CpuBlock.ram) + frame - page)
    store64(entry + layout.TLB_KEPT, kept)
    store64(io, frame - page)
    store64(io + 8, 0)
    return entry


@native
def _log_of(block: int, mmu: int) -> int:
    return load64(block + CpuBlock.tlb_logs) + (LOG_BYTES if mmu == layout.MMU_KERNEL else 0)


@native
def _log(block: int, mmu: int, page: int) -> int:
    """Note that a page has a transient entry."""
    log = _log_of(block, mmu)
    count = load64(log)
    if count < LOG_ENTRIES:
        store64(log + TransientLog.pages + count * 8, page)
    store64(log, count + 1)
    return 0


@native
def _maps_writable(env: int, mmu: int, page: int, frame: int) -> int:
    """Whether a page still has an entry by which this frame may be written."""
    entry = entry_of(env, mmu, page)
    if _speaks_for(entry, page) and load64(entry + layout.TLB_PADDR) == frame:
        return load64(entry + layout.TLB_WRITE) != -1
    victim = _desc(env, mmu) + layout.TLB_DESC_VTABLE
    for _ in range(layout.VICTIMS):
        if _speaks_for(victim, page) and load64(victim + layout.TLB_PADDR) == frame:
            return load64(victim + layout.TLB_WRITE) != -1
        victim += layout.TLB_ENTRY_SIZE
    return 0


@native
def _remember_writable(block: int, env: int, mmu: int, page: int, frame: int, kept: int) -> int:
    """Note that a frame gets a writable entry for a page."""
    use = load64(block + CpuBlock.frame_uses) + (frame >> 12) * FrameUse.size
    epoch = load64(block + CpuBlock.tlb_epoch)
    where = page
    if not kept:
        use += FrameUse.transient_epoch
        epoch = load64(block + CpuBlock.transient_epoch)
        where |= mmu
    if load64(use) != epoch:
        store64(use, epoch)
        store64(use + 8, where)
    else:
        old = load64(use + 8)
        if old != where and old != SEVERAL:
            old_mmu = layout.MMU_KERNEL
            if not kept:
                old_mmu = old & 3
            other = _maps_writable(env, old_mmu, old & PAGE_MASK, frame)
            store64(use + 8, SEVERAL if other else where)
    return 0


@native
def remember_table(block: int, table: int, region: int) -> int:
    """Note that a translation of the kernel's half came through a page table."""
    use = load64(block + CpuBlock.table_uses) + (table >> 12) * TableUse.size
    epoch = load64(block + CpuBlock.tlb_epoch)
    if load64(use) != epoch:
        store64(use, epoch)
        store64(use + 8, region)
    elif load64(use + 8) != region:
        store64(use + 8, SEVERAL)
    return 0


@native
def _restrict(first: int, count: int, frame: int, bits: int) -> int:
    """Set bits of the write tag in those of ``count`` entries that map a frame; all bits make it read-only."""
    entry = first
    for _ in range(count):
        if load64(entry + layout.TLB_PADDR) == frame:
            store64(entry + layout.TLB_WRITE, load64(entry + layout.TLB_WRITE) | bits)
        entry += layout.TLB_ENTRY_SIZE
    return 0


@native
def _restrict_at(env: int, mmu: int, where: int, frame: int, bits: int) -> int:
    """The same, for one known page or for all of a TLB."""
    if where == SEVERAL:
        fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
        _restrict(load64(fast + 8), (load64(fast) >> 6) + 1, frame, bits)
    else:
        _restrict(entry_of(env, mmu, where), 1, frame, bits)
    return _restrict(_desc(env, mmu) + layout.TLB_DESC_VTABLE, layout.VICTIMS, frame, bits)


@native
def restrict_frame(block: int, frame: int, bits: int) -> int:
    """Set bits of the write tag wherever a frame, given by its machine address, is mapped writable."""
    use = load64(block + CpuBlock.frame_uses) + (frame >> 12) * FrameUse.size
    env = load64(block + CpuBlock.env)
    if load64(use) == load64(block + CpuBlock.tlb_epoch):
        _restrict_at(env, layout.MMU_KERNEL, load64(use + FrameUse.page), frame, bits)
    if load64(use + FrameUse.transient_epoch) == load64(block + CpuBlock.transient_epoch):
        where = load64(use + FrameUse.transient)
        if where == SEVERAL or where & 3 == layout.MMU_USER:
            _restrict_at(env, layout.MMU_USER, where, frame, bits)
        if where == SEVERAL or where & 3 == layout.MMU_KERNEL:
            _restrict_at(env, layout.MMU_KERNEL, where, frame, bits)
    return 0


@native
def forget_frame(block: int, frame: int) -> int:
    """``CpuBlock.forget_frame``: a machine frame, by number, must not be written any more."""
    restrict_frame(block, frame << 12, -1)
    use = load64(block + CpuBlock.frame_uses) + frame * FrameUse.size
    store64(use, 0)
    store64(use + FrameUse.transient_epoch, 0)
    return 0


@native
def _forget_transient_of(block: int, env: int, mmu: int) -> int:
    """Drop one TLB's transient entries."""
    log = _log_of(block, mmu)
    count = load64(log)
    store64(log, 0)
    if count > LOG_ENTRIES:
        entry = load64(env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE + 8)
        for _ in range((load64(env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE) >> 6) + 1):
            if not load64(entry + layout.TLB_KEPT):
                _drop(entry)
            entry += layout.TLB_ENTRY_SIZE
    else:
        for i in range(count):
            page = load64(log + TransientLog.pages + i * 8)
            entry = entry_of(env, mmu, page)
            if _speaks_for(entry, page):
                _drop(entry)
    victim = _desc(env, mmu) + layout.TLB_DESC_VTABLE
    for _ in range(layout.VICTIMS):
        if not load64(victim + layout.TLB_KEPT):
            _drop(victim)
        victim += layout.TLB_ENTRY_SIZE
    return 0


@native
def forget_transient(block: int) -> int:
    """Forget all translations but those of the kernel's half."""
    env = load64(block + CpuBlock.env)
    _forget_transient_of(block, env, layout.MMU_USER)
    _forget_transient_of(block, env, layout.MMU_KERNEL)
    store64(block + CpuBlock.transient_epoch, load64(block + CpuBlock.transient_epoch) + 1)
    return jumps.forget_transient(block)


@native
def forget_all(block: int) -> int:
    """Forget every translation, and which blocks of code begin where."""
    env = load64(block + CpuBlock.env)
    for mmu in range(layout.MMU_USER, layout.MMU_KERNEL + 1):
        fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
        fill(load64(fast + 8), 0xFF, load64(fast) + layout.TLB_ENTRY_SIZE)
        fill(_desc(env, mmu) + layout.TLB_DESC_VTABLE, 0xFF, layout.VICTIMS * layout.TLB_ENTRY_SIZE)
        store64(_log_of(block, mmu), 0)
    store64(block + CpuBlock.tlb_epoch, load64(block + CpuBlock.tlb_epoch) + 1)
    store64(block + CpuBlock.transient_epoch, load64(block + CpuBlock.transient_epoch) + 1)
    store64(block + CpuBlock.kernel_changed, 0)
    return jumps.forget_all(block)


@native
def flush(block: int) -> int:
    """``CpuBlock.flush_tlb``: forget every translation that the page tables may not bear out any more."""
    store64(block + CpuBlock.flush_pending, 0)
    if load64(block + CpuBlock.kernel_changed):
        return forget_all(block)
    return forget_transient(block)


@native
def flush_page(block: int, address: int) -> int:
    """``CpuBlock.flush_page``: forget the translations of one page."""
    env = load64(block + CpuBlock.env)
    _drop_page(env, layout.MMU_USER, address & PAGE_MASK)
    _drop_page(env, layout.MMU_KERNEL, address & PAGE_MASK)
    return jumps.forget_page(block, address)


@native
def _drop_matching(first: int, count: int, region: int, shift: int) -> int:
    entry = first
    for _ in range(count):
        if load64(entry + layout.TLB_READ) >> shift == region or load64(entry + layout.TLB_CODE) >> shift == region:
            _drop(entry)
        entry += layout.TLB_ENTRY_SIZE
    return 0


@native
def drop_region(block: int, address: int, shift: int) -> int:
    """Drop the entries of all pages in the ``1 << shift`` bytes, no more than 2 MiB, around an address."""
    env = load64(block + CpuBlock.env)
    region = address >> shift
    for mmu in range(layout.MMU_USER, layout.MMU_KERNEL + 1):
        # Both TLBs have as many places in a row as there are pages.
        _drop_matching(entry_of(env, mmu, region << shift), 1 << (shift - 12), region, shift)
        _drop_matching(_desc(env, mmu) + layout.TLB_DESC_VTABLE, layout.VICTIMS, region, shift)
    return 0


@native
def is_kept(env: int, mmu: int, page: int) -> int:
    """Whether a page has an entry that outlives a change of the address space."""
    entry = entry_of(env, mmu, page)
    return 1 if _speaks_for(entry, page) and load64(entry + layout.TLB_KEPT) else 0


@native
def _same_kernel(ram: int, root: int, other: int) -> int:
    """Whether two top-level tables agree on the kernel's half."""
    difference = 0
    for slot in range(XEN_SLOTS_END, ENTRIES_OF_A_TABLE):
        difference |= load64(ram + root + slot * 8) ^ load64(ram + other + slot * 8)
    return 0 if difference & ~ACCESSED_DIRTY else 1


@native
def switch_root(block: int, root: int) -> int:
    """``CpuBlock.switch_root``: give the kernel another address space."""
    if not _same_kernel(load64(block + CpuBlock.ram), load64(block + CpuBlock.root), root):
        store64(block + CpuBlock.kernel_changed, 1)
    store64(block + CpuBlock.root, root)
    return flush(block)


@native
def switch_user_root(block: int, root: int) -> int:
    """``CpuBlock.switch_user_root``: give the guest's programs another address space."""
    store64(block + CpuBlock.user_root, root)
    return forget_transient(block)


@native
def entry_changed(block: int, entry: int, old: int, level: int) -> int:
    """``CpuBlock.entry_changed``: a page-table entry, given by its host address, no longer says what it said.

    What the kernel's TLB has from it is dropped at once, or noted as not to be trusted after the next flush.
    """
    offset = entry - load64(block + CpuBlock.ram)
    slot = (offset & 0xFFF) >> 3
    use = load64(block + CpuBlock.table_uses) + (offset >> 12) * TableUse.size
    if level == 4 and slot >= XEN_SLOTS_END:
        store64(block + CpuBlock.kernel_changed, 1)
    elif load64(use) == load64(block + CpuBlock.tlb_epoch):
        region = load64(use + TableUse.region)
        # A table of level 4 is here where it also stands in the place of a lower one, and so maps page tables.
        if level > 1 or region == SEVERAL:
            store64(block + CpuBlock.kernel_changed, 1)
        else:
            page = region + (slot << 12)
            _drop_page(load64(block + CpuBlock.env), layout.MMU_KERNEL, page)
            if old >= 0:  # not NX: it may have been executed
                jumps.forget_page(block, page)
    return 0
