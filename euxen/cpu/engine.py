"""The contract between the hypervisor and whatever executes guest instructions.

The shape is KVM's: an engine runs one vCPU of one domain until something happens that its native
handlers can't finish, and comes back with the reason.
"""

from __future__ import annotations

import enum
from typing import Protocol

from euxen.cpu.cpuid import Leaf
from euxen.cpu.native.memory import Record


class ExitReason(enum.IntEnum):
    """Why an engine came back. ``CpuBlock.exit_info`` says more."""

    NONE = 0
    HYPERCALL = 1
    """The guest called, and the call is one that Python handles."""
    EMULATE = 2
    """A privileged instruction; info is the vector that it would raise."""
    BLOCKED = 3
    """The vCPU has nothing to do until an event arrives."""
    DEADLINE = 4
    """The time slice is over."""
    CRASH = 5
    """The domain did what Xen crashes a domain for; info is a ``CrashReason`` of the hypervisor."""
    SHUTDOWN = 6
    """The domain ended itself; info is SHUTDOWN_*."""
    ATTENTION = 7
    """An event for somebody outside of this domain is pending."""
    TRIPLE_FAULT = 8
    """An HVM guest's CPU shut down; info is 0, or 1 where it was in a state that the engine does not model."""
    MMIO = 9
    """An HVM guest's access to what its p2m does not back, or not for that; info is the guest-physical address, detail
    the P2M_* bit that was wanted. rip is at the instruction, which can be executed again."""


class Engine(Protocol):
    """What every engine can do. One instance serves one domain; its vCPUs take turns on it."""

    block: Record
    """The ``CpuBlock``, shared with native code."""

    # An engine for an HVM guest has block["hvm"] set when it is made, and asks the handlers that ``CpuBlock`` lists
    # from ``p2m`` on. ``on_page_fault``, ``on_store``, ``on_trap``, ``on_syscall`` and ``on_descriptor`` are PV's.

    def run(self) -> ExitReason:
        """Execute the loaded vCPU until there is a reason to come back. Releases the GIL meanwhile."""
        ...

    def kick(self) -> None:
        """From any thread: have the hypervisor's ``on_interrupt`` called soon."""
        ...

    def flush_tlb(self, address: int | None = None) -> None:
        """Forget every translation, or those of one page."""
        ...

    def invalidate_code(self, address: int, size: int) -> None:
        """Machine memory was written from outside: forget what was translated from it."""
        ...

    def set_features(self, policy: list[Leaf]) -> None:
        """Execute the instructions that a CPUID policy offers, and no others."""
        ...

    def debug_register(self, number: int) -> int:
        """A debug register of the loaded vCPU."""
        ...

    def set_debug_register(self, number: int, value: int) -> None:
        """Write one, with its effect on breakpoints."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
