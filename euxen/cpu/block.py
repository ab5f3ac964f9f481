"""The block of words through which an engine, its native handlers and the hypervisor meet.

There is one per engine. The engine fills in where things are; the hypervisor fills in its handlers
and the vCPU that runs. A native handler is given the block's address and finds the rest from it.
"""

from __future__ import annotations

import enum

from euxen.abi.structure import Structure, u64

P2M_SHIFT = 18
P2M_ENTRIES = 1 << P2M_SHIFT
P2M_READ, P2M_WRITE, P2M_EXECUTE = 1, 2, 4
"""What a guest may do with a frame of its p2m. Bits 52 and above mean nothing to cpu/."""


class Answer(enum.IntEnum):
    """What a handler returns that stands for an instruction of an HVM guest, if not the vector of a fault.

    Registers are up to date, and rip is at the instruction: the engine moves it on. A fault has error code 0.
    """

    DONE = 0
    EXIT = -1
    """``exit_reason`` is set; rip stays where it is."""


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
    """``(block, address, error_code)``; the engine's own for HVM guests, as is ``on_trap``"""
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

    hvm: int = u64()
    """1 where the guest is HVM: it runs in the rings that it believes in, with page tables, IDT and GDT of its own."""
    p2m: int = u64()
    """HVM: host address of a directory of P2M_ENTRIES words, each 0 or the host address of a leaf of as many.

    A leaf has a word for each guest frame: machine frame << 12 | P2M_* bits. Who changes it calls ``flush_tlb``
    or sets ``flush_pending`` and kicks.
    """
    on_vmcall: int = u64()
    """``(block)``: VMCALL or VMMCALL, in any mode and at any CPL; see ``Answer``"""
    on_cr_write: int = u64()
    """``(block, register, value)``: CR0, 3, 4 or 8 is written, at CPL 0; see ``Answer``. ``load_cr`` has the effect."""
    on_cr8_read: int = u64()
    """``(block)``: CR8"""
    on_rdmsr: int = u64()
    """``(block, msr)``: at CPL 0; puts its answer into RAX and RDX; see ``Answer``"""
    on_wrmsr: int = u64()
    """``(block, msr, value)``: at CPL 0; see ``Answer``"""
    on_hlt: int = u64()
    """``(block)``: at CPL 0; rip is that of the next instruction. Without an ``exit_reason`` the guest goes on."""
    on_port: int = u64()
    """``(block, port, bytes, is_write, value)``: what is read, or EXIT. The guest may use the port: that was checked.

    The registers are not up to date.
    """
    on_mmio: int = u64()
    """``(block, gpa, bytes, is_write, value)``, or 0: an access to what the p2m does not back, or not for writing.

    Non-zero if it was done; what was read is in ``mmio_value``. Else the engine comes back with MMIO. The registers
    are not up to date, and it may change none.
    """
    mmio_value: int = u64()
    pending_vector: int = u64()
    """``(block)``: the interrupt that the guest takes now, acknowledged, or -1. Asked after a kick, and whenever the
    engine starts to run, as soon as the guest can take one."""
    inject: int = u64()
    """``(block, vector, error_code)``: an exception before the guest's next instruction, with an error code of -1
    for none. Not for a handler that can answer with a vector."""
    injected: int = u64()
    """What ``inject`` was given: vector + 1, or 0 (part of the state of a vCPU),"""
    injected_error: int = u64()
    """and the error code."""
    load_cr: int = u64()
    """``(block, register, value)``: set CR0, 3 or 4, unchecked, with all that follows from it. Before the guest's next
    instruction or while the engine does not run."""
    load_efer: int = u64()
    """``(block, value)``: the same for EFER; LMA is not the caller's"""
    registers_loaded: int = u64()
    """``(block)``: registers were written from outside, segments and control registers perhaps: what is derived from
    them is made anew. The CPL is that of SS, and TR's type loses its busy bit, which the translator does not keep.
    Translations are forgotten."""
    instruction_bytes: int = u64()
    """The length of the instruction that ``on_vmcall`` is asked about."""
    delivering: int = u64()
    """Set while an exception or an interrupt is on its way to the guest's handler."""
    large_pages: int = u64()
    """Host address of what ``unicorn.hvm.large`` knows of large pages in the TLBs."""

    cc_compute_all: int = u64()
    """Host address of the function that works out lazily kept flags."""
    exit_label: int = u64()
    """While a block of code is being translated: the label at its end to which it leaves early."""
