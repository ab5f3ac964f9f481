"""Writes to memory that may be code, by others than the domain whose engine has translated it.

An engine sees what its own guest stores. Others write to a frame in a *window*: they open it before the first
write and close it after the last. A writable foreign mapping is one for as long as it is there; a copy by the
hypervisor is a short one. Opening tells the owner's engine to forget the code that it has. Code that is translated
while a window is open, or that was being translated when one was closed, is noted by the engine (``on_code``)
and not kept beyond the next time it looks. So a guest sees new code at the latest when it executes a serializing
instruction or Xen had control, which is all that it may expect of other CPUs on a real machine.

A window is counted in the low half of a word per frame. The high half is the time, on the machine's write clock,
at which one was last closed.
"""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import add64, call1, call2, cas64, load8, load64, native, shr, store64
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.records import PAGE_INFO_SHIFT, DomainRecord, MachineRecord, PageInfo, VcpuRecord

COUNT_MASK = 0xFFFF_FFFF


@native
def _window(machine: int, frame: int) -> int:
    return load64(machine + MachineRecord.write_windows) + frame * 8


@native
def forget_code(domain: int, frame: int) -> int:
    """From any thread: what a domain's engine has translated from a frame is wrong."""
    lock(domain + DomainRecord.block_lock)
    block = load64(domain + DomainRecord.block)
    if block and load8(load64(block + CpuBlock.code_map) + frame):
        call2(load64(block + CpuBlock.code_written), block, frame)
        call1(load64(block + CpuBlock.kick), block)
    unlock(domain + DomainRecord.block_lock)
    return 0


@native
def open_window(domain: int, frame: int) -> int:
    """Others will write to a frame of this domain's, to which the caller holds a reference."""
    add64(_window(load64(domain + DomainRecord.machine), frame), 1)
    return forget_code(domain, frame)


@native
def close_window(machine: int, frame: int) -> int:
    """They will not any more."""
    window = _window(machine, frame)
    now = add64(machine + MachineRecord.write_clock, 1) + 1
    while True:
        old = load64(window)
        if cas64(window, old, (now << 32) | ((old - 1) & COUNT_MASK)) == old:
            return 0


@native
def on_code(block: int, frame: int) -> int:
    """``CpuBlock.on_code``: whether code that was just translated may be wrong, or become so unseen."""
    domain = load64(load64(block + CpuBlock.vcpu) + VcpuRecord.domain)
    machine = load64(domain + DomainRecord.machine)
    page = load64(machine + MachineRecord.frame_table) + (frame << PAGE_INFO_SHIFT)
    window = load64(_window(machine, frame))
    if load64(page + PageInfo.owner) != domain or window & COUNT_MASK:
        return 1
    # The clock goes round; what matters is whether it passed the beginning.
    passed = shr(window, 32) - load64(block + CpuBlock.translation_began)
    return 1 if passed & COUNT_MASK and not passed & (1 << 31) else 0


@native
def detach(domain: int) -> int:
    """The domain's engine will be closed: no thread uses its block any more when this returns."""
    lock(domain + DomainRecord.block_lock)
    store64(domain + DomainRecord.block, 0)
    unlock(domain + DomainRecord.block_lock)
    return 0
