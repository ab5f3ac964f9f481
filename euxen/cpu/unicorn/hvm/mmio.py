"""Loads and stores of HVM guests where the p2m has no memory: some are answered natively."""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call5, load64, native
from euxen.cpu.unicorn.hvm.walk import WALK_MMIO


@native
def access(block: int, address: int, result: int, size: int, is_write: int, value: int) -> int:
    """Offer an access to the hypervisor after a walk with this result; whether it was done."""
    handler = load64(block + CpuBlock.on_mmio)
    if result != WALK_MMIO or not handler:
        return 0
    gpa = load64(block + CpuBlock.walk_frame) | (address & 0xFFF)
    return call5(handler, block, gpa, size, is_write, value)
