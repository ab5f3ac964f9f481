"""One request: a struct xen_domctl in its caller's memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

from euxen.abi.domctl import XenDomctl
from euxen.abi.errno import XEN_EINVAL, XEN_ESRCH
from euxen.abi.structure import Structure
from euxen.abi.xen import XenctlBitmap
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.vcpu import Vcpu

Kind = TypeVar("Kind", bound=Structure)

HEADER = struct.Struct("<IIH")
"""The command, the version of the interface that the caller knows, and the domain."""
DOMAIN = XenDomctl.offsetof("domain")
ARGUMENT = XenDomctl.offsetof("u")


@dataclass(frozen=True)
class Domctl:
    """What is asked, by whom, of which domain."""

    caller: Caller
    address: int
    """Of the structure."""
    data: bytes
    """A copy of it."""
    command: int
    domid: int
    found: Domain | None
    """The domain with that number."""

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that is asked."""
        return self.caller.domain.hypervisor

    @property
    def domain(self) -> Domain:
        """The domain that it is about, for commands that need one."""
        if self.found is None:
            raise XenError(XEN_ESRCH)
        return self.found

    @property
    def other(self) -> Domain:
        """The same, for commands that nobody may ask for himself, as they pause the domain."""
        if self.domain is self.caller.domain:
            raise XenError(XEN_EINVAL)
        return self.domain

    def vcpu(self, number: int, out_of_range: int = XEN_ESRCH, missing: int = XEN_ESRCH) -> Vcpu:
        """A vCPU of the domain's. Raises XenError with what the command has for a number that cannot be, or is not."""
        if number >= self.domain.max_vcpus:
            raise XenError(out_of_range)
        if number >= len(self.domain.vcpus):
            raise XenError(missing)
        return self.domain.vcpus[number]

    def load(self, kind: type[Kind]) -> Kind:
        """The command's own part of the structure."""
        return kind.unpack_from(self.data, ARGUMENT)

    def store(self, part: Structure, domid: int | None = None) -> None:
        """Give it back, and with it the domain's number where that is an answer. Raises GuestFault."""
        self.caller.write(self.address + ARGUMENT, bytes(part))
        if domid is not None:
            self.caller.write(self.address + DOMAIN, domid.to_bytes(2, "little"))


CHUNK = 4096
"""A bit map is written so many bytes at a time: it can be said to be larger than all memory."""


def read_bitmap(caller: Caller, bitmap: XenctlBitmap, bits: int) -> int:
    """The first ``bits`` bits of a caller's bit map; those that it has not are 0 (xenctl_bitmap_to_bitmap)."""
    known = min(bitmap.nr_bits, bits)
    data = caller.read(bitmap.bitmap, (known + 7) // 8) if known else b""
    return int.from_bytes(data, "little") & (1 << known) - 1


def write_bitmap(caller: Caller, bitmap: XenctlBitmap, value: int, bits: int) -> None:
    """Fill a caller's bit map with the first ``bits`` bits of ``value``, and zeroes (bitmap_to_xenctl_bitmap)."""
    size = (bitmap.nr_bits + 7) // 8
    known = min(size, (bits + 7) // 8)
    data = (value & (1 << 8 * known) - 1).to_bytes(known, "little")
    for at in range(0, size, CHUNK):
        caller.write(bitmap.bitmap + at, data[at : at + CHUNK].ljust(min(CHUNK, size - at), b"\0"))
