"""XENMEM_exchange: a PV guest gives frames back and gets others for the same pfns, in one step.

Source: memory_exchange in xen/common/memory.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from euxen.abi import memory as abi
from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL, XEN_ENOMEM, XEN_EOPNOTSUPP, XEN_EPERM
from euxen.cpu.native.language import signed
from euxen.cpu.registers import MASK
from euxen.hypervisor import xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import Continuation, GuestFault, XenError
from euxen.hypervisor.hypercalls.extents import MAX_ORDER, WORD, changing, domain_named, propagate_node, read_word
from euxen.hypervisor.mm import heap, reservation
from euxen.hypervisor.mm import page as pg

CHUNKS_AT_ONCE, FRAMES_AT_ONCE = 32, 2048
"""After so many of either, others go first."""
NR_EXCHANGED = abi.XenMemoryExchange.offsets["nr_exchanged"]


def memory_exchange(caller: Caller, argument: int) -> int:
    """Exchange, and tell the caller in ``nr_exchanged`` how many of its extents are done."""
    op = abi.XenMemoryExchange.unpack_from(caller.read(argument, abi.XenMemoryExchange.size))
    try:
        _exchange(caller, op, argument)
    finally:
        caller.write(argument + NR_EXCHANGED, WORD.pack(op.nr_exchanged))
    if op.nr_exchanged < op.in_.nr_extents:
        raise Continuation(abi.XENMEM_exchange, argument)
    return 0


def _exchange(caller: Caller, op: abi.XenMemoryExchange, argument: int) -> None:
    """Check the request and exchange as much as is done at once."""
    inside, outside = op.in_, op.out
    if max(inside.extent_order, outside.extent_order) > MAX_ORDER:
        raise XenError(XEN_EPERM)
    sizes = [extents.nr_extents << extents.extent_order for extents in (inside, outside)]
    if op.nr_exchanged > inside.nr_extents or inside.domid != outside.domid:
        raise XenError(XEN_EINVAL)
    if sizes[0] != sizes[1] or max(sizes) >> 64:
        raise XenError(XEN_EINVAL)
    if op.nr_exchanged == inside.nr_extents:
        return
    # A chunk is one extent of the larger kind, and as many of the smaller as that takes.
    order = max(inside.extent_order, outside.extent_order)
    given, taken = 1 << (order - inside.extent_order), 1 << (order - outside.extent_order)
    chunk = op.nr_exchanged // given
    # Later, when it is too late to refuse, what the guest can't read or write is only not told.
    starts = inside.extent_start + 8 * op.nr_exchanged, outside.extent_start + 8 * chunk * taken
    if not all(caller.handle_okay(start & MASK) for start in starts):
        raise XenError(XEN_EFAULT)
    if not propagate_node(caller, outside.mem_flags):
        raise XenError(XEN_EINVAL)
    domain = domain_named(caller, inside.domid, xsm.memory_exchange)
    op.nr_exchanged = chunk * given
    with changing(caller, domain, abi.XENMEM_exchange, argument):
        at_once = min(CHUNKS_AT_ONCE, FRAMES_AT_ONCE >> order)
        for number in range(chunk, min(chunk + at_once, inside.nr_extents // given)):
            _Chunk(caller, domain, op, number * given, given, number * taken, taken).exchange()
            op.nr_exchanged = (number + 1) * given


@dataclass(frozen=True)
class _Chunk:
    """One step: ``given`` extents from ``first_given`` on are exchanged for ``taken`` from ``first_taken`` on."""

    caller: Caller
    domain: Domain
    op: abi.XenMemoryExchange
    first_given: int
    given: int
    first_taken: int
    taken: int

    def exchange(self) -> None:
        """Raises XenError: with nothing changed, or for a result that could not be told."""
        stolen: list[int] = []
        try:
            self._steal(stolen)
            runs = self._allocate()
        except XenError:
            for frame in stolen:
                pg.own_page(self.domain.record.address, frame)
            raise
        pg.flush_domain_tlb(self.domain.record.address)
        for frame in stolen:
            heap.free_frame(self.domain.machine.record.address, frame)
        self._give(runs)

    def _steal(self, stolen: list[int]) -> None:
        """Take the frames that are given, adding each to ``stolen``. Raises XenError."""
        inside = self.op.in_
        for number in range(self.first_given, self.first_given + self.given):
            first = signed(read_word(self.caller, inside.extent_start + 8 * number))
            for frame in range(first, first + (1 << inside.extent_order)):
                if self.domain.is_hvm:  # as steal_page answers, for a frame that there is
                    raise XenError(XEN_EINVAL if self.domain.mfn_of(frame) is None else XEN_EOPNOTSUPP)
                if not reservation.steal_page(self.domain.record.address, frame):
                    raise XenError(XEN_EINVAL)
                stolen.append(frame)

    def _allocate(self) -> list[int]:
        """The first frames of the extents that are taken, which belong to nobody yet. Raises XenError."""
        machine, order = self.domain.machine, self.op.out.extent_order
        runs: list[int] = []
        for _ in range(self.taken):
            first = machine.allocate_run(order)
            if first is None:
                for run in runs:
                    for frame in range(run, run + (1 << order)):
                        heap.free_frame(machine.record.address, frame)
                raise XenError(XEN_ENOMEM)
            runs.append(first)
        return runs

    def _give(self, runs: list[int]) -> None:
        """Make new frames the domain's, under the pfns that it named, and tell it which they are."""
        outside, fault = self.op.out, False
        for number, first in enumerate(runs, self.first_taken):
            for frame in range(first, first + (1 << outside.extent_order)):
                pg.own_page(self.domain.record.address, frame)
            slot = outside.extent_start + 8 * number
            try:
                self.domain.machine.set_pfns(first, read_word(self.caller, slot), 1 << outside.extent_order)
                self.caller.write(slot, WORD.pack(first))
            except GuestFault:
                fault = True
        if fault:
            raise XenError(XEN_EFAULT)
