"""What HVM guests access where the p2m has no memory: some loads and stores are answered natively."""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call5, load64, native, store64
from euxen.cpu.unicorn.hvm.walk import WALK_MMIO

MMIO, TRIPLE_FAULT = int(ExitReason.MMIO), int(ExitReason.TRIPLE_FAULT)
NOT_MODELLED = 1


@native
def leave(block: int, address: int) -> int:
    """Let the hypervisor emulate the instruction that makes an access; ``walk`` has left what it found."""
    if load64(block + CpuBlock.delivering):
        # No instruction makes it, so none can be emulated.
        return request_exit(block, TRIPLE_FAULT, NOT_MODELLED)
    store64(block + CpuBlock.exit_detail, load64(block + CpuBlock.walk_protection))
    return request_exit(block, MMIO, load64(block + CpuBlock.walk_frame) | (address & 0xFFF))


@native
def access(block: int, address: int, result: int, size: int, is_write: int, value: int) -> int:
    """Offer an access to the hypervisor after a walk with this result; whether it was done."""
    handler = load64(block + CpuBlock.on_mmio)
    if result != WALK_MMIO or not handler:
        return 0
    gpa = load64(block + CpuBlock.walk_frame) | (address & 0xFFF)
    return call5(handler, block, gpa, size, is_write, value)
