"""One request: a struct xen_sysctl in its caller's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from euxen.abi.structure import Structure
from euxen.abi.sysctl import XenSysctl
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.hypervisor import Hypervisor

Kind = TypeVar("Kind", bound=Structure)
ARGUMENT = XenSysctl.offsetof("u")


@dataclass(frozen=True)
class Sysctl:
    """What is asked, and by whom."""

    caller: Caller
    address: int
    """Of the structure."""
    data: bytes
    """A copy of it."""

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that is asked."""
        return self.caller.domain.hypervisor

    def load(self, kind: type[Kind]) -> Kind:
        """The command's own part of the structure."""
        return kind.unpack_from(self.data, ARGUMENT)

    def store(self, part: Structure) -> None:
        """Give it back. Raises GuestFault."""
        self.caller.write(self.address + ARGUMENT, bytes(part))
