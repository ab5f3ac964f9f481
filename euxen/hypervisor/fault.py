"""An exception that the guest gets instead of what it asked for."""

from __future__ import annotations

from euxen.hypervisor import traps
from euxen.hypervisor.vcpu import Vcpu


class Fault(Exception):
    """A hardware exception for the guest: #GP(0) where nothing else is said. Carries no message."""

    def __init__(self, vector: int = traps.TRAP_gp_fault, error_code: int = 0) -> None:
        super().__init__(vector, error_code)
        self.vector = vector
        self.error_code = error_code

    def deliver(self, vcpu: Vcpu) -> None:
        """Have the guest's kernel entered with the exception."""
        traps.inject(vcpu.block, self.vector, self.error_code, 0)


class Retry(Exception):
    """What was asked for was interrupted: the instruction is executed again, after whatever was more urgent."""


class PageFault(Fault):
    """A page fault at a linear address. The error code's user bit is set by the mode the guest is in."""

    def __init__(self, address: int, error_code: int = 0) -> None:
        super().__init__(traps.TRAP_page_fault, error_code)
        self.address = address

    def deliver(self, vcpu: Vcpu) -> None:
        """The same, and CR2 holds the address."""
        traps.page_fault(vcpu.block, self.address, self.error_code)
