"""How native code asks its engine to come back to Python."""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call1, load64, native, store64


@native
def request_exit(block: int, reason: int, info: int) -> int:
    """Let the engine come back with ``reason``, an ExitReason, as soon as the handler that asks has returned."""
    store64(block + CpuBlock.exit_info, info)
    store64(block + CpuBlock.exit_reason, reason)
    return call1(load64(block + CpuBlock.stop), block)
