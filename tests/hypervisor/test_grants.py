"""Grants between domains: who may map and copy what, and what is left when one of them dies."""

from __future__ import annotations

import struct

import pytest
from grant_guest import GrantGuest, copy_from, is_there, pins, place

from euxen.abi import grant_table as abi
from euxen.abi.errno import XEN_EBUSY
from euxen.abi.xen import DOMID_SELF, HYPERVISOR_update_va_mapping
from euxen.hypervisor.control import GrantLimits
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.grants import tables
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE
from euxen.hypervisor.mm import mmu

pytest_plugins = ["grant_fixtures"]

REF = 20
PAGE_FAULT = 14
READ_ONLY = abi.GNTMAP_host_map | abi.GNTMAP_readonly
IN_USE = abi.GTF_permit_access | abi.GTF_reading | abi.GTF_writing
PTE_RW = 0x67


# Domain 0.


def test_domain_0_maps_and_sees_the_same_memory(lender: GrantGuest) -> None:
    frame = lender.pool(0)
    lender.grant(REF, 0, frame)
    mapped = lender.control.map_grants(lender.domid, [REF])
    mapped.pages[0][:5] = b"hello"
    assert bytes(lender.machine.frame(frame)[:5]) == b"hello"
    lender.machine.frame(frame)[5] = 33
    assert mapped.pages[0][5] == 33
    assert lender.entry(REF).flags == IN_USE
    assert lender.references(frame) == (2, 1)
    mapped.unmap()
    assert lender.entry(REF).flags == abi.GTF_permit_access
    assert lender.references(frame) == (1, 0)


def test_domain_0_maps_read_only(lender: GrantGuest) -> None:
    lender.grant(REF, 0, lender.pool(0), abi.GTF_permit_access | abi.GTF_readonly)
    mapped = lender.control.map_grants(lender.domid, [REF], writable=False)
    assert mapped.pages[0].readonly
    with pytest.raises(GrantError) as refused:
        lender.control.map_grants(lender.domid, [REF])
    assert refused.value.status == abi.GNTST_general_error
    mapped.unmap()


def test_domain_0_maps_all_or_nothing(lender: GrantGuest) -> None:
    lender.grant(REF, 0, lender.pool(0))
    lender.grant(REF + 1, lender.domid, lender.pool(1))
    with pytest.raises(GrantError):
        lender.control.map_grants(lender.domid, [REF, REF + 1])
    assert pins(lender.domain) == {}
    assert lender.entry(REF).flags == abi.GTF_permit_access


def test_domain_0_may_not_map_what_was_not_lent_to_it(lender: GrantGuest) -> None:
    for ref, domid in ((REF, lender.domid), (REF, 4000), (9999, lender.domid)):
        with pytest.raises(GrantError):
            lender.control.map_grants(domid, [ref])


def test_domain_0_copies_between_guests(lender: GrantGuest, borrower: GrantGuest) -> None:
    lender.machine.frame(lender.pool(0))[10:15] = b"12345"
    lender.grant(REF, 0, lender.pool(0), abi.GTF_permit_access | abi.GTF_readonly)
    borrower.grant(REF, 0, borrower.pool(0))
    op = abi.GnttabCopy(len=5, flags=abi.GNTCOPY_source_gref | abi.GNTCOPY_dest_gref)
    op.source.u.ref, op.source.domid, op.source.offset = REF, lender.domid, 10
    op.dest.u.ref, op.dest.domid, op.dest.offset = REF, borrower.domid, 20
    lender.control.grant_copy([op])
    assert op.status == abi.GNTST_okay
    assert bytes(borrower.machine.frame(borrower.pool(0))[20:25]) == b"12345"
    op.source, op.dest = op.dest, op.source
    lender.control.grant_copy([op])
    assert op.status == abi.GNTST_general_error
    assert pins(lender.domain) == pins(borrower.domain) == {}


# Two guests.


def test_a_guest_maps_what_another_lends(lender: GrantGuest, borrower: GrantGuest) -> None:
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    lender.machine.frame(frame)[:8] = struct.pack("<Q", 4711)
    handle = borrower.map_handle(lender.domid, REF, place(0))
    assert lender.references(frame) == (2, 1)
    result = borrower.run(f"mov {place(0)},%rbx; movq $4712,{place(0)}")
    assert result.rbx == 4711
    assert struct.unpack_from("<Q", lender.machine.frame(frame))[0] == 4712
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
    assert lender.references(frame) == (1, 0)


@pytest.mark.parametrize("flags", [abi.GNTMAP_host_map, READ_ONLY])
def test_a_mapping_that_is_overwritten_is_gone_at_once(lender: GrantGuest, borrower: GrantGuest, flags: int) -> None:
    """The borrower does not ask for a flush, but the lender may do with its page what it likes from now on."""
    lender.grant(REF, borrower.domid, lender.pool(0))
    borrower.map_handle(lender.domid, REF, place(0), flags)
    overwrite = f"mov ${HYPERVISOR_update_va_mapping},%eax; mov ${place(0)},%edi; xor %esi,%esi; xor %edx,%edx; syscall"
    result = borrower.run(f"mov {place(0)},%rbx; {overwrite}; mov {place(0)},%rcx")
    assert result.rax == 0
    assert result.vector == PAGE_FAULT
    assert lender.references(lender.pool(0)) == (1, 0)


def test_pages_of_xens_that_are_lent(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    """A guest may lend what it shares with Xen. It is Xen's all the same, and stays while it is mapped."""
    frames = [lender.domain.shared_info_frame, lender.domain.grant_table.frames[0]]
    for number, frame in enumerate(frames):
        lender.grant(REF + number, borrower.domid, frame)
    handles = [borrower.map_handle(lender.domid, REF + number, place(number)) for number in range(2)]
    assert lender.transfer(frames[0], borrower.domid, REF) == abi.GNTST_bad_page
    lender.close()
    free = hypervisor.machine.record["free_pages"]
    assert is_there(hypervisor, lender.domid)
    assert borrower.run(f"movq $4711,{place(0) + 0x800}; mov {place(0) + 0x800},%rbx").rbx == 4711
    for number, handle in enumerate(handles):
        assert is_there(hypervisor, lender.domid)
        assert borrower.unmap(handle, place(number)) == abi.GNTST_okay
    assert not is_there(hypervisor, lender.domid)
    assert hypervisor.machine.record["free_pages"] == free + 2


def test_lent_status_frames_stay(lender: GrantGuest, borrower: GrantGuest) -> None:
    set_version_2(lender)
    frame = lender.domain.grant_table.status_frames[0]
    entry = abi.GrantEntryV2()
    header = abi.GrantEntryHeader(flags=abi.GTF_permit_access, domid=borrower.domid)
    entry.full_page = abi.GrantEntryV2FullPage(hdr=header, frame=frame)
    at = 5 * abi.GrantEntryV2.size
    lender.entries[at : at + abi.GrantEntryV2.size] = bytes(entry.full_page)
    handle = borrower.map_handle(lender.domid, 5, place(0))
    assert tables.set_version(lender.domain.grant_table.record.address, 1) == -XEN_EBUSY
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
    assert tables.set_version(lender.domain.grant_table.record.address, 1) == 0


def test_nobody_else_may_map_it(lender: GrantGuest, borrower: GrantGuest) -> None:
    lender.grant(REF, 0, lender.pool(0))
    assert borrower.map(lender.domid, REF, place(0)).status == abi.GNTST_general_error
    lender.grant(REF, borrower.domid, borrower.pool(0))
    assert borrower.map(lender.domid, REF, place(0)).status == abi.GNTST_bad_page
    lender.grant(REF, borrower.domid, lender.pool(0))
    handle = borrower.map_handle(lender.domid, REF, place(0))
    # While one has it, nobody else gets it, whatever the entry says.
    lender.grant(REF, 0, lender.pool(0))
    with pytest.raises(GrantError):
        lender.control.map_grants(lender.domid, [REF])
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay


def test_a_page_of_another_domain_is_mapped_by_a_grant_alone(lender: GrantGuest, borrower: GrantGuest) -> None:
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    assert borrower.set_entry(place(1), frame << 12 | PTE_RW) < 0
    handle = borrower.map_handle(lender.domid, REF, place(0), READ_ONLY)
    assert borrower.set_entry(place(1), frame << 12 | PTE_RW) < 0
    # The entry that is there may lose NX, but not become writable.
    assert borrower.set_entry(place(0), frame << 12 | PTE_RW) < 0
    assert borrower.set_entry(place(0), frame << 12 | 0x25) == 0
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay


def test_a_table_with_granted_pages_is_not_validated_again(lender: GrantGuest, borrower: GrantGuest) -> None:
    """What goes with a page table was granted once, and is not the guest's to map once more."""
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    handle = borrower.map_handle(lender.domid, REF, place(0))
    l2 = int(borrower.frames[3])
    entry = int(borrower.machine.frame(l2).cast("Q")[0])
    domain = borrower.domain.record.address
    assert mmu._pt_update(domain, l2 << 12, 0, 0, domain) == 0
    assert lender.references(frame) == (1, 0)
    assert mmu._pt_update(domain, l2 << 12, entry, 0, domain) < 0
    borrower.machine.frame(int(borrower.frames[4])).cast("Q")[place(0) // PAGE_SIZE] = 0
    assert mmu._pt_update(domain, l2 << 12, entry, 0, domain) == 0
    assert borrower.unmap(handle, place(0)) == abi.GNTST_general_error


def test_the_lender_cannot_make_a_table_of_it(lender: GrantGuest, borrower: GrantGuest) -> None:
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    handle = borrower.map_handle(lender.domid, REF, place(0))
    with pytest.raises(XenError):
        lender.control.pin_table(lender.domid, 1, frame)
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
    lender.control.pin_table(lender.domid, 1, frame)


def test_tracking_is_limited(hypervisor: Hypervisor, lender: GrantGuest) -> None:
    """One frame of handles, of which one is always free; a handle that is given back can be used again."""
    borrower = GrantGuest(hypervisor, grant_limits=GrantLimits(max_maptrack_frames=1))
    flags = abi.GNTMAP_device_map | abi.GNTMAP_readonly
    for ref in range(2):
        lender.grant(REF + ref, borrower.domid, lender.pool(0))
    handles = [borrower.map_handle(lender.domid, REF + number // 128, 0, flags) for number in range(255)]
    assert len(set(handles)) == 255
    assert borrower.map(lender.domid, REF + 1, 0, flags).status == abi.GNTST_no_space
    assert borrower.unmap(handles[77], 0, lender.pool(0) << 12) == abi.GNTST_okay
    borrower.map_handle(lender.domid, REF, 0, flags)
    assert borrower.map(lender.domid, REF + 1, 0, flags).status == abi.GNTST_no_space


def test_a_domain_that_may_track_nothing_maps_nothing(hypervisor: Hypervisor, lender: GrantGuest) -> None:
    borrower = GrantGuest(hypervisor, grant_limits=GrantLimits(max_maptrack_frames=0))
    lender.grant(REF, borrower.domid, lender.pool(0))
    assert borrower.map(lender.domid, REF, place(0)).status == abi.GNTST_no_space
    assert pins(lender.domain) == {}


def test_tables_are_limited(hypervisor: Hypervisor) -> None:
    guest = GrantGuest(hypervisor, grant_limits=GrantLimits(max_grant_frames=2, max_version=1))
    guest.domain.grant_table.grow(2)
    with pytest.raises(GrantError):
        guest.domain.grant_table.grow(3)
    for limits in (GrantLimits(max_grant_frames=0), GrantLimits(max_version=3), GrantLimits(max_version=0)):
        with pytest.raises(XenError):
            guest.control.create_domain(64, grant_limits=limits)


def test_no_memory_for_a_longer_table(hypervisor: Hypervisor, lender: GrantGuest) -> None:
    taken = GrantGuest(hypervisor, max_pages=1 << 20)
    free = hypervisor.machine.record["free_pages"]
    taken.control.populate_physmap(taken.domid, 1000, free - 3)
    with pytest.raises(GrantError):
        lender.domain.grant_table.grow(5)
    assert hypervisor.machine.record["free_pages"] == 3
    assert len(lender.domain.grant_table.frames) == 1
    lender.domain.grant_table.grow(4)


# Copying and giving.


def test_copying_from_another_guest(lender: GrantGuest, borrower: GrantGuest) -> None:
    lender.machine.frame(lender.pool(0))[:8] = b"abcdefgh"
    lender.grant(REF, borrower.domid, lender.pool(0))
    assert borrower.copy(copy_from(lender.domid, REF, borrower.pool(0))) == abi.GNTST_okay
    assert bytes(borrower.machine.frame(borrower.pool(0))[:8]) == b"abcdefgh"
    op = copy_from(lender.domid, REF, borrower.pool(0))
    op.dest.u.gmfn = lender.pool(0)
    assert borrower.copy(op) == abi.GNTST_bad_page
    lender.grant(REF, 0, lender.pool(0))
    assert borrower.copy(copy_from(lender.domid, REF, borrower.pool(0))) == abi.GNTST_general_error
    assert lender.references(lender.pool(0)) == borrower.references(borrower.pool(0)) == (1, 0)


def set_version_2(guest: GrantGuest) -> None:
    op = guest.operate(abi.GNTTABOP_set_version, [abi.GnttabSetVersion(version=2)])[0]
    assert op.version == 2


def lend_on(middle: GrantGuest, ref: int, to: int, granter: int, granters_ref: int) -> None:
    """Lend what was lent: a transitive grant."""
    entry = abi.GrantEntryV2()
    entry.transitive = abi.GrantEntryV2Transitive(
        hdr=abi.GrantEntryHeader(flags=abi.GTF_transitive, domid=to), trans_domid=granter, gref=granters_ref
    )
    bytes_of = bytes(entry.transitive).ljust(abi.GrantEntryV2.size, b"\0")
    at = ref * abi.GrantEntryV2.size
    middle.entries[at : at + len(bytes_of)] = bytes_of


def test_transitive_grants(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    """The lender lends to the one in the middle, who lends it on."""
    middle = GrantGuest(hypervisor)
    set_version_2(middle)
    lender.machine.frame(lender.pool(0))[:8] = b"abcdefgh"
    lender.grant(REF, middle.domid, lender.pool(0), abi.GTF_permit_access | abi.GTF_readonly)
    lend_on(middle, REF, borrower.domid, lender.domid, REF)
    assert borrower.copy(copy_from(middle.domid, REF, borrower.pool(0))) == abi.GNTST_okay
    assert bytes(borrower.machine.frame(borrower.pool(0))[:8]) == b"abcdefgh"
    # Both sides of a copy may be the same grant.
    lender.grant(REF, middle.domid, lender.pool(0))
    op = abi.GnttabCopy(len=4, flags=abi.GNTCOPY_source_gref | abi.GNTCOPY_dest_gref)
    op.source.u.ref, op.source.domid = REF, middle.domid
    op.dest.u.ref, op.dest.domid, op.dest.offset = REF, middle.domid, 4
    assert borrower.copy(op) == abi.GNTST_okay
    assert bytes(lender.machine.frame(lender.pool(0))[:8]) == b"abcdabcd"
    assert lender.entry(REF).flags == abi.GTF_permit_access
    lender.grant(REF, middle.domid, lender.pool(0), abi.GTF_permit_access | abi.GTF_readonly)
    # It can't be mapped, nor lent on twice, nor used by others, nor for more than was lent.
    assert borrower.map(middle.domid, REF, place(0)).status == abi.GNTST_general_error
    set_version_2(borrower)
    lend_on(borrower, REF, middle.domid, middle.domid, REF)
    assert middle.copy(copy_from(borrower.domid, REF, middle.pool(0))) == abi.GNTST_general_error
    assert lender.copy(copy_from(middle.domid, REF, lender.pool(1))) == abi.GNTST_general_error
    op = abi.GnttabCopy(len=8, flags=abi.GNTCOPY_dest_gref)
    op.source.u.gmfn, op.source.domid = borrower.pool(0), DOMID_SELF
    op.dest.u.ref, op.dest.domid = REF, middle.domid
    assert borrower.copy(op) == abi.GNTST_general_error
    # What was lent has to be lent to the one in the middle.
    lender.grant(REF, borrower.domid, lender.pool(0))
    assert borrower.copy(copy_from(middle.domid, REF, borrower.pool(0))) == abi.GNTST_general_error
    for guest in (lender, middle, borrower):
        assert pins(guest.domain) == {}
    assert lender.entry(REF).flags == abi.GTF_permit_access
    assert lender.references(lender.pool(0)) == (1, 0)


def test_transitive_grants_in_both_ways(lender: GrantGuest, borrower: GrantGuest) -> None:
    """XSA-226: two domains that stand for each other's grants get an error, not a hang."""
    for guest, other in ((lender, borrower), (borrower, lender)):
        set_version_2(guest)
        lend_on(guest, REF, other.domid, other.domid, REF)
    assert borrower.copy(copy_from(lender.domid, REF, borrower.pool(0))) == abi.GNTST_general_error
    assert pins(lender.domain) == pins(borrower.domain) == {}


def test_transfer_to_another_guest(hypervisor: Hypervisor, lender: GrantGuest) -> None:
    taker = GrantGuest(hypervisor, max_pages=65)
    frame = lender.pool(0)
    lender.machine.frame(frame)[:3] = b"abc"
    pages = lender.domain.record["tot_pages"]
    taker.grant(REF, lender.domid, 70, abi.GTF_accept_transfer)
    assert lender.transfer(frame, taker.domid, REF) == abi.GNTST_okay
    assert lender.owner(frame) == taker.domain.record.address
    assert taker.entry(REF).frame == frame
    assert taker.machine.m2p[frame] == 70
    assert bytes(taker.machine.frame(frame)[:3]) == b"abc"
    assert (lender.domain.record["tot_pages"], taker.domain.record["tot_pages"]) == (pages - 1, 65)
    # It has as many as it may have.
    taker.grant(REF, lender.domid, 71, abi.GTF_accept_transfer)
    assert lender.transfer(lender.pool(1), taker.domid, REF) == abi.GNTST_general_error
    assert taker.entry(REF).flags == abi.GTF_accept_transfer
    assert (lender.domain.record["tot_pages"], taker.domain.record["tot_pages"]) == (pages - 2, 65)


def test_a_lent_page_is_not_transferred(lender: GrantGuest, borrower: GrantGuest) -> None:
    lender.grant(REF, borrower.domid, lender.pool(0))
    handle = borrower.map_handle(lender.domid, REF, place(0), READ_ONLY)
    borrower.grant(REF, lender.domid, 70, abi.GTF_accept_transfer)
    assert lender.transfer(lender.pool(0), borrower.domid, REF) == abi.GNTST_bad_page
    assert borrower.unmap(handle, place(0)) == abi.GNTST_okay
