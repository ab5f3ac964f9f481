"""The block of words through which an engine, its native handlers and the hypervisor meet.

There is one per engine. The engine fills in where things are; the hypervisor fills in its handlers
and the vCPU that runs. A native handler is given the block's address and finds the rest from it.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, u64


class CpuBlock(Structure):
    """What native code knows of the CPU that it runs for. Ours: no header of Xen's declares it."""

    env: int = u64()
    """Host address of the registers; ``cpu.state`` has the offsets."""
    cpu: int = u64()
    uc: int = u64()
    vcpu: int = u64()
    """Host address of the hypervisor's record of the vCPU that is loaded. Means nothing to cpu/."""

    ram: int = u64()
    """Host address of machine frame 0."""
    frames: int = u64()
    """How many machine frames there are."""
    code_map: int = u64()
    """Host address of one byte per machine frame: non-zero where translated code came from."""

    root: int = u64()
    """Machine address of the top-level page table for CPL 0 to 2."""
    user_root: int = u64()
    """The same for CPL 3."""

    exit_reason: int = u64()
    """Why the engine comes back, or 0 while it need not; see ``cpu.engine.ExitReason``."""
    exit_info: int = u64()
    exit_detail: int = u64()
    kick: int = u64()
    """``(block)``: from any thread, have ``on_interrupt`` called soon"""
    kicked: int = u64()
    """Set from a kick until ``on_interrupt``: a handler that takes long should let the engine go on."""
    stop: int = u64()
    """``(block)``: leave the translated code once the handler that runs has returned"""

    walk_frame: int = u64()
    """Results of the last page walk: the machine address of the page,"""
    walk_protection: int = u64()
    """what may be done with it (the PROT_* bits of ``unicorn.tlb``),"""
    walk_entry: int = u64()
    """and where its entry is, as a host address."""

    on_page_fault: int = u64()
    """``(block, address, error_code)``"""
    on_store: int = u64()
    """``(block, address, value, bytes)``: a store that the page tables forbid; non-zero if it was done.

    It may change memory and page tables, but no register: the code that stores goes on.
    """
    on_trap: int = u64()
    """``(block, vector, error_code, software)``"""
    on_syscall: int = u64()
    """``(block)``; rip is that of the next instruction"""
    on_interrupt: int = u64()
    """``(block)``: between two blocks of code, after a kick"""
    on_descriptor: int = u64()
    """``(block, selector, writable)``: the descriptor, or -1 where there is none"""

    tlb_epoch: int = u64()
    """Counts how often the whole TLB was emptied."""
    transient_epoch: int = u64()
    """Counts how often all but the kernel's half was forgotten."""
    tlb_logs: int = u64()
    """Host address of what ``unicorn.tlb`` knows about its entries:"""
    frame_uses: int = u64()
    """by machine frame, where it may be written,"""
    table_uses: int = u64()
    """and by machine frame, what it maps if it is a page table of the kernel's half."""
    jump_log: int = u64()
    """Host address of the log of ``unicorn.jumps``."""
    kernel_changed: int = u64()
    """Set when translations of the kernel's half may have changed since they were last forgotten."""
    flush_pending: int = u64()
    """Set when translations have to be forgotten before the guest goes on."""
    flush_tlb: int = u64()
    """``(block)``: forget every translation that the page tables may not bear out any more"""
    flush_page: int = u64()
    """``(block, address)``: forget the translations of a linear address"""
    forget_frame: int = u64()
    """``(block, frame)``: forget writable translations to a machine frame"""
    entry_changed: int = u64()
    """``(block, entry, old, level)``: a present page-table entry, given by its host address, was changed"""
    switch_root: int = u64()
    """``(block, root)``: another address space for the kernel"""
    switch_user_root: int = u64()
    """``(block, root)``: another address space for the guest's programs"""
    invalidate_code: int = u64()
    """``(block, address, bytes)``: machine memory was written: forget what was translated from it"""
    code_written: int = u64()
    """``(block, frame)``: from any thread, the same for a machine frame: it is forgotten a little later"""
    forget_written_code: int = u64()
    """``(block)``: forget it now"""
    code_pending: int = u64()
    """Set when there is something to forget before the guest goes on."""
    written_code: int = u64()
    """Host address of what ``unicorn.translate`` knows of it."""
    on_code: int = u64()
    """``(block, frame)``, or 0: code was translated from a frame; non-zero if others may write to it unseen"""
    write_clock: int = u64()
    """Host address of a word that changes whenever others have written unseen, or 0."""
    translation_began: int = u64()
    """What it was when the translation began that ``on_code`` is asked about."""
    translate: int = u64()
    """``(block, address, access)``: the host address of what the guest's kernel sees at a linear address, or 0.
    With 4 in ``access``: what its programs see."""
    on_tsc: int = u64()
    """``(block)``: the time stamp counter"""
    cpuid: int = u64()
    """Host address of the CPUID policy; see ``cpu.cpuid``."""
    cpuid_entries: int = u64()

    deadline: int = u64()
    """System time at which this CPU wants to be kicked."""
    ticker_sleeps_until: int = u64()
    """System time at which the ticker will look here again."""
    ticker: int = u64()
    """Means nothing to cpu/."""
    wake_ticker: int = u64()
    """``(block)``: have the ticker look now"""

    cc_compute_all: int = u64()
    """Host address of the function that works out lazily kept flags."""
    exit_label: int = u64()
    """While a block of code is being translated: the label at its end to which it leaves early."""
