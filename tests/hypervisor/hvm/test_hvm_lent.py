"""Memory that a PV domain lends to an HVM guest."""

from __future__ import annotations

import pytest
from kernels import HVM_MODES, boot, kernel_tests
from small_domains import DATA, STACK, SmallDomain

from euxen.abi.grant_table import GrantEntryV1, GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing
from euxen.toolstack.machine import Host

WRITABLE, READABLE, LENT = 8, 9, 0x600D
BORROWER = 2
FINALLY = {"map_and_unmap": 0xBEEF, "twice": 1, "copies": 0xCAFE, "kept_to_the_end": 0xFEED}
"""What is in the writable page in the end, if not what was."""


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize("test", kernel_tests("hvm/lent"))
def test_lent(test: str, mode: str, native: None) -> None:
    found: list[tuple[int, int]] = []

    def lend(host: Host) -> None:
        lender = SmallDomain(host.control)
        lender.word = LENT
        lender._write(STACK, LENT.to_bytes(8, "little"))
        with host.control.map_grant_table(lender.domid) as table:
            for ref, page, flags in ((WRITABLE, DATA, 0), (READABLE, STACK, GTF_readonly)):
                entry = GrantEntryV1(flags=GTF_permit_access | flags, domid=BORROWER, frame=lender.frames[page])
                entry.pack_into(table, ref * GrantEntryV1.size)
        lenders.append(lender)

    def look(host: Host) -> None:
        """The borrower is gone."""
        lender = lenders.pop()
        with host.control.map_grant_table(lender.domid) as table:
            for ref in (WRITABLE, READABLE):
                entry = GrantEntryV1.unpack_from(table, ref * GrantEntryV1.size)
                assert not entry.flags & (GTF_reading | GTF_writing)
        found.append((lender.domid, lender.word))
        lender.destroy()

    lenders: list[SmallDomain] = []
    boot("lent", test, mode=mode, argument="1", spare=1 << 20, before=lend, after=look).check_passed()
    assert found == [(1, FINALLY.get(test, LENT))]
