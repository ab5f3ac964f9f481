"""What the operations of memory_op have in common. An extent of order n is 2**n frames in a row, aligned."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator

from euxen.abi.errno import XEN_ESRCH
from euxen.abi.memory import XENMEMF_exact_node_request, XENMEMF_get_node
from euxen.abi.xen import DOMID_SELF
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError

MAX_ORDER = 9
"""The largest extent that a domain without devices may ask for (CONFIG_DOMU_MAX_ORDER)."""

NUMA_NO_NODE, MAX_NUMNODES = 0xFF, 64

WORD = struct.Struct("<Q")


def domain_named(caller: Caller, domid: int, check: Callable[[Domain, Domain], None]) -> Domain:
    """A domain that the caller names, if it may do with it what ``check`` is for. Raises XenError."""
    own = caller.domain
    domain = own if domid == DOMID_SELF else own.event_channels.domain_at(domid)
    if domain is None:
        raise XenError(XEN_ESRCH)
    check(own, domain)
    return domain


def propagate_node(caller: Caller, mem_flags: int) -> bool:
    """Whether a caller may ask for memory of the node that its flags name. Guests have no say in that, only a wish."""
    node = XENMEMF_get_node(mem_flags)
    if node == NUMA_NO_NODE:
        return True
    if caller.domain.privileged:
        return node < MAX_NUMNODES
    return not mem_flags & XENMEMF_exact_node_request


@contextlib.contextmanager
def changing(caller: Caller, domain: Domain, *arguments: int) -> Iterator[None]:
    """Change a domain's memory, the caller's or another's; that one does not run meanwhile.

    Raises Continuation, with ``arguments``, if somebody else does such a thing.
    """
    if domain is caller.domain:
        yield
        return
    with domain.hypervisor.managing(caller, *arguments), domain.paused():
        yield


def read_word(caller: Caller, address: int) -> int:
    """One frame number of a guest's list. Raises GuestFault."""
    (value,) = WORD.unpack(caller.read(address, 8))
    return int(value)
