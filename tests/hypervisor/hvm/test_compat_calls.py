"""What 32-bit guests' hypercalls become, where no guest of ours gets to see it."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from euxen.abi import compat as abi
from euxen.abi.memory import XENMEM_populate_physmap, XenMemoryReservation
from euxen.hypervisor.caller import Lender
from euxen.hypervisor.errors import Continuation
from euxen.hypervisor.hypercalls import compat, table
from euxen.hypervisor.vcpu import Vcpu

STRUCTURE, EXTENTS = 0x1000, 0x2000


def test_a_reservation_lets_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has to wait for somebody else does so in the guest, not here with the machine's lock."""
    op = abi.CompatMemoryReservation(extent_start=EXTENTS, nr_extents=20, domid=3)
    memory = {STRUCTURE: bytes(op), EXTENTS + 4 * 5: struct.pack("<15I", *range(15))}
    lender = Lender()
    caller = SimpleNamespace(read=lambda address, size: memory[address][:size], xlat=lender)
    made: list[int] = []

    def call(_caller: Any, _number: int, command: int, argument: int, *_rest: int) -> int:
        assert not made, "it was made again at once"
        made.append(XenMemoryReservation.unpack_from(lender.read(argument, XenMemoryReservation.size)).nr_extents)
        raise Continuation(2 << 6 | command, argument)

    monkeypatch.setattr(table, "call", call)
    with pytest.raises(Continuation) as preempted:
        compat._reservation(cast(Vcpu, caller), [5 << 6 | XENMEM_populate_physmap, STRUCTURE])
    assert made == [15]
    assert preempted.value.arguments == (7 << 6 | XENMEM_populate_physmap, STRUCTURE)
