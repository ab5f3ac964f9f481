"""What is left of grants when one of the domains dies."""

from __future__ import annotations

import struct

import pytest
from grant_guest import GrantGuest, copy_from, is_there, pins, place
from pv_guest import DATA

from euxen.abi import grant_table as abi
from euxen.abi.memory import XENMEM_decrease_reservation, XenMemoryReservation
from euxen.abi.xen import DOMID_SELF, HYPERVISOR_memory_op, HYPERVISOR_update_va_mapping
from euxen.cpu.engine import ExitReason
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.mm import reservation
from euxen.hypervisor.traps import CRASH_GRANTER_GONE

pytest_plugins = ["grant_fixtures"]

REF = 20
PAGE_FAULT = 14
PTE_RW = 0x67
OPERATION, SECOND = DATA + 0x100, DATA + 0x200


def test_a_lender_that_dies_stays_until_its_pages_are_let_go(
    hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest
) -> None:
    frame = lender.pool(0)
    lender.machine.frame(frame)[:8] = struct.pack("<Q", 4711)
    lender.grant(REF, borrower.domid, frame)
    handle = borrower.map_handle(lender.domid, REF, place(0))
    free = hypervisor.machine.record["free_pages"]
    lender.close()
    assert is_there(hypervisor, lender.domid)
    assert lender.domain.record["tot_pages"] == 1
    assert hypervisor.machine.record["free_pages"] == free + 63
    assert borrower.run(f"mov {place(0)},%rbx; movq $4712,{place(0)}").rbx == 4711
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
    assert not is_there(hypervisor, lender.domid)
    assert borrower.map(lender.domid, REF, place(0)).status == abi.GNTST_bad_domain


def test_nothing_more_is_lent_by_the_dead(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    for number in range(2):
        lender.grant(REF + number, borrower.domid, lender.pool(number))
    handle = borrower.map_handle(lender.domid, REF, place(0))
    lender.close()
    assert borrower.map(lender.domid, REF + 1, place(1)).status == abi.GNTST_bad_page
    assert borrower.copy(copy_from(lender.domid, REF + 1, borrower.pool(0))) == abi.GNTST_bad_page
    lender.grant(REF + 1, borrower.domid, 0, abi.GTF_accept_transfer)
    assert borrower.transfer(borrower.pool(1), lender.domid, REF + 1) == abi.GNTST_general_error
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay


def test_a_borrower_that_dies_lets_go(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    both = abi.GNTMAP_host_map | abi.GNTMAP_device_map
    lender.grant(REF, borrower.domid, lender.pool(0))
    borrower.map_handle(lender.domid, REF, place(0), both)
    borrower.map_handle(lender.domid, REF, place(1), both | abi.GNTMAP_readonly)
    assert lender.references(lender.pool(0)) == (5, 2)
    borrower.close()
    assert not is_there(hypervisor, borrower.domid)
    assert pins(lender.domain) == {}
    assert lender.entry(REF).flags == abi.GTF_permit_access
    assert lender.references(lender.pool(0)) == (1, 0)


def test_domain_0_keeps_a_lender(hypervisor: Hypervisor, lender: GrantGuest) -> None:
    lender.grant(REF, 0, lender.pool(0))
    mapped = lender.control.map_grants(lender.domid, [REF])
    lender.close()
    mapped.pages[0][0] = 1
    assert is_there(hypervisor, lender.domid)
    mapped.unmap()
    assert not is_there(hypervisor, lender.domid)


def test_unmapping_by_other_means_from_a_lender_that_is_gone(
    hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest
) -> None:
    """The reference went with the page-table entry. Xen can't find the granter, and crashes who says otherwise."""
    lender.grant(REF, borrower.domid, lender.pool(0))
    handle = borrower.map_handle(lender.domid, REF, place(0))
    assert borrower.set_entry(place(0), 0) == 0
    lender.close()
    assert not is_there(hypervisor, lender.domid)
    borrower.unmap(handle, place(0))
    assert borrower.domain.engine is not None
    block = borrower.domain.engine.block
    assert (block["exit_reason"], block["exit_info"]) == (ExitReason.CRASH, CRASH_GRANTER_GONE)


def test_a_domid_that_is_used_again(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    """A handle for a mapping by a domain that is gone says nothing of another that has its number now."""
    lender.grant(REF, borrower.domid, lender.pool(0))
    handle = borrower.map_handle(lender.domid, REF, place(0))
    assert borrower.set_entry(place(0), 0) == 0
    lender.close()
    heir = GrantGuest(hypervisor, domid=lender.domid)
    assert heir.domid == lender.domid
    assert borrower.unmap(handle, place(0)) == abi.GNTST_bad_handle
    assert pins(heir.domain) == {}


def test_what_another_has_mapped_of_the_heir(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    """Such a handle does not take away what somebody else has mapped, even of a frame that its owner has as well."""
    lender.grant(REF, borrower.domid, lender.pool(0))
    handle = borrower.map_handle(lender.domid, REF, place(0))
    assert borrower.set_entry(place(0), 0) == 0
    lender.close()
    heir, third = GrantGuest(hypervisor, domid=lender.domid), GrantGuest(hypervisor)
    heir.grant(REF, third.domid, heir.pool(0))
    heir.grant(REF + 1, borrower.domid, heir.pool(0))
    theirs = third.map_handle(heir.domid, REF, place(0))
    own = borrower.map_handle(heir.domid, REF + 1, place(0))
    assert borrower.unmap(handle, place(0)) == abi.GNTST_bad_handle
    assert third.unmap(theirs, place(0)) == abi.GNTST_okay
    assert borrower.unmap(own, place(0)) == abi.GNTST_okay
    assert pins(heir.domain) == {}
    third.close()
    heir.close()


@pytest.mark.parametrize("first", [0, 1])
def test_both_die(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest, first: int) -> None:
    for guest, other in ((lender, borrower), (borrower, lender)):
        guest.grant(REF, other.domid, guest.pool(0))
        other.map_handle(guest.domid, REF, place(0))
    guests = [lender, borrower]
    guests.pop(first).close()
    assert len(hypervisor.domains) == 3
    guests.pop().close()
    assert len(hypervisor.domains) == 1


def test_pages_given_back_while_lent_are_not_used_again(lender: GrantGuest, borrower: GrantGuest) -> None:
    """A frame that somebody has mapped belongs to nobody else before it is let go."""
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    handle = borrower.map_handle(lender.domid, REF, place(0))
    free = lender.machine.record["free_pages"]
    assert reservation.guest_remove_page(lender.domain.record.address, frame)
    assert lender.machine.record["free_pages"] == free
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
    assert lender.machine.record["free_pages"] == free + 1


def test_a_page_given_back_while_lent_is_forgotten(lender: GrantGuest, borrower: GrantGuest) -> None:
    """Whoever lets go of it last knows nothing of translations that the lender may have of it."""
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    handle = borrower.map_handle(lender.domid, REF, place(0))
    assert lender.set_entry(place(0), frame << 12 | PTE_RW) == 0
    lender.put(SECOND, struct.pack("<Q", frame))
    lender.put(OPERATION, bytes(XenMemoryReservation(extent_start=SECOND, nr_extents=1, domid=DOMID_SELF)))
    zap = f"mov ${HYPERVISOR_update_va_mapping},%eax; mov ${place(0)},%edi; xor %esi,%esi; xor %edx,%edx; syscall"
    give = f"mov ${HYPERVISOR_memory_op},%eax; mov ${XENMEM_decrease_reservation},%edi; mov ${OPERATION},%esi; syscall"
    result = lender.run(f"mov {place(0)},%rbx; {zap}; {give}; mov {place(0)},%rcx")
    assert result.rax == 1
    assert result.vector == PAGE_FAULT
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
