"""What Xen once got wrong about grants between domains, tried again: docs/advisories.md says of each what it was."""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Callable

import pytest
from grant_guest import FREE, GrantGuest, copy_from, is_there, pins, place
from pv_guest import DATA
from test_grants import lend_on, set_version_2

from euxen.abi import grant_table as abi
from euxen.abi.xen import (
    DOMID_SELF,
    MMUEXT_PIN_L1_TABLE,
    HYPERVISOR_grant_table_op,
    HYPERVISOR_mmuext_op,
    HYPERVISOR_set_gdt,
    HYPERVISOR_update_va_mapping,
    HYPERVISOR_update_va_mapping_otherdomain,
)
from euxen.hypervisor.continuation import PREEMPTED
from euxen.hypervisor.control import GrantLimits
from euxen.hypervisor.hypercalls import native
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.mm import reservation
from euxen.hypervisor.records import PageInfo

pytest_plugins = ["grant_fixtures"]

REF = 20
PAGE_FAULT = 14
PTE_RW = 0x67
READ_ONLY = abi.GNTMAP_device_map | abi.GNTMAP_readonly
HANDLES_AT_ONCE = 1024
"""After so many, the end of a domain lets others go first."""
OPERATION, SECOND = DATA + 0x100, DATA + 0x200
FAILED = 0xBAD
TIMES = 200_000


def copy_to(granter: int, ref: int, frame: int) -> abi.GnttabCopy:
    """Copy 8 bytes of the caller's to a grant."""
    op = abi.GnttabCopy(len=8, flags=abi.GNTCOPY_dest_gref)
    op.source.u.gmfn, op.source.domid = frame, DOMID_SELF
    op.dest.u.ref, op.dest.domid = ref, granter
    return op


# Entries that change while they are in use.


def test_a_copy_to_what_another_frame_has_become(lender: GrantGuest, borrower: GrantGuest) -> None:
    """The grant is of the frame that was lent first, as long as somebody has it mapped."""
    lender.grant(REF, borrower.domid, lender.pool(0))
    handle = borrower.map_handle(lender.domid, REF, 0, READ_ONLY)
    lender.grant(REF, borrower.domid, lender.pool(1))
    borrower.machine.frame(borrower.pool(0))[:8] = b"abcdefgh"
    assert borrower.copy(copy_to(lender.domid, REF, borrower.pool(0))) == abi.GNTST_okay
    assert bytes(lender.machine.frame(lender.pool(0))[:8]) == b"abcdefgh"
    assert bytes(lender.machine.frame(lender.pool(1))[:8]) == bytes(8)
    assert lender.references(lender.pool(1)) == (1, 0)
    assert borrower.unmap(handle, 0, lender.pool(0) << 12) == abi.GNTST_okay
    assert lender.references(lender.pool(0)) == (1, 0)


@pytest.mark.parametrize("write", [False, True])
def test_a_grant_in_use_that_becomes_a_transitive_one(lender: GrantGuest, borrower: GrantGuest, write: bool) -> None:
    """It is what it was. Whoever copies is not kept in its hypercall until it changes back."""
    set_version_2(lender)
    entry = abi.GrantEntryV2FullPage(
        hdr=abi.GrantEntryHeader(flags=abi.GTF_permit_access, domid=borrower.domid), frame=lender.pool(0)
    )
    at = REF * abi.GrantEntryV2.size
    lender.entries[at : at + entry.size] = bytes(entry)
    handle = borrower.map_handle(lender.domid, REF, 0, READ_ONLY)
    borrower.grant(REF, lender.domid, borrower.pool(1))
    lend_on(lender, REF, borrower.domid, borrower.domid, REF)
    op = copy_to(lender.domid, REF, borrower.pool(0)) if write else copy_from(lender.domid, REF, borrower.pool(0))
    borrower.put(DATA, bytes(op))
    block, vcpu = borrower.domain.record["block"], borrower.vcpu.record.address
    arguments = (HYPERVISOR_grant_table_op, abi.GNTTABOP_copy, DATA, 1, 0)
    results = [native.dispatch(block, vcpu, *arguments) for _ in range(20)]
    assert PREEMPTED not in results
    assert abi.GnttabCopy.unpack_from(borrower.page(DATA)).status == abi.GNTST_okay
    assert borrower.unmap(handle, 0, lender.pool(0) << 12) == abi.GNTST_okay
    assert pins(lender.domain) == pins(borrower.domain) == {}


def test_a_grant_that_was_unmapped_by_other_means(
    hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest
) -> None:
    """It is pinned, and has no page any more: that is somebody else's by now, and nobody gets at it."""
    heir = GrantGuest(hypervisor)
    frame = lender.pool(0)
    lender.grant(REF, borrower.domid, frame)
    borrower.map_handle(lender.domid, REF, place(0))
    assert borrower.set_entry(place(0), 0) == 0
    heir.grant(REF, lender.domid, 70, abi.GTF_accept_transfer)
    assert reservation.guest_remove_page(heir.domain.record.address, heir.pool(1))
    assert lender.transfer(frame, heir.domid, REF) == abi.GNTST_okay
    heir.machine.frame(frame)[:8] = b"heirloom"
    for op in (copy_from(lender.domid, REF, borrower.pool(0)), copy_to(lender.domid, REF, borrower.pool(0))):
        assert borrower.copy(op) == abi.GNTST_bad_domain
    assert borrower.map(lender.domid, REF, place(1)).status == abi.GNTST_general_error
    assert bytes(borrower.machine.frame(borrower.pool(0))[:8]) == bytes(8)
    assert bytes(heir.machine.frame(frame)[:8]) == b"heirloom"
    assert heir.references(frame) == (1, 0)


@pytest.mark.parametrize("write", [False, True])
def test_a_copy_from_a_pinned_grant_of_the_dead(
    hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest, write: bool
) -> None:
    """While another page keeps the lender, who is dead, the one whose grant is pinned is gone."""
    for number in range(2):
        lender.grant(REF + number, borrower.domid, lender.pool(number))
    borrower.map_handle(lender.domid, REF, place(0))
    keeps = borrower.map_handle(lender.domid, REF + 1, place(1))
    assert borrower.set_entry(place(0), 0) == 0
    lender.close()
    assert is_there(hypervisor, lender.domid)
    op = copy_to(lender.domid, REF, borrower.pool(0)) if write else copy_from(lender.domid, REF, borrower.pool(0))
    assert borrower.copy(op) == abi.GNTST_bad_domain
    assert borrower.unmap(keeps, place(1)) == abi.GNTST_okay
    assert not is_there(hypervisor, lender.domid)


# Pages that go to others.


def page_type(guest: GrantGuest, frame: int) -> int:
    """The word that says what a frame is."""
    return int(guest.machine.frame_table.words()[frame * (PageInfo.size // 8) + PageInfo.type_info // 8])


def test_a_page_that_is_transferred_is_nothing_special(lender: GrantGuest, borrower: GrantGuest) -> None:
    """It was found fit to hold segment descriptors for the one who had it, and is looked at again for the other."""
    frame = lender.pool(0)
    lender.put(DATA, struct.pack("<Q", frame))
    assert lender.hypercall(HYPERVISOR_set_gdt, DATA, 512) == 0
    assert lender.hypercall(HYPERVISOR_set_gdt, 0, 0) == 0
    assert page_type(lender, frame)
    borrower.grant(REF, lender.domid, 70, abi.GTF_accept_transfer)
    assert reservation.guest_remove_page(borrower.domain.record.address, borrower.pool(1))
    assert lender.transfer(frame, borrower.domid, REF) == abi.GNTST_okay
    assert page_type(borrower, frame) == 0


def test_a_foreign_page_that_is_transferred_is_not_seen_any_more(
    hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest
) -> None:
    """Who had it mapped did not ask for a flush, and a third domain makes a page table of it."""
    taker, frame = GrantGuest(hypervisor), lender.pool(0)
    borrower.domain.record["is_privileged"] = 1
    entry = frame << 12 | PTE_RW
    map_it = (HYPERVISOR_update_va_mapping_otherdomain, FREE, entry, 0, lender.domid)
    assert borrower.hypercall(*map_it) == 0
    zap = f"mov ${HYPERVISOR_update_va_mapping},%eax; mov ${FREE},%edi; xor %esi,%esi; xor %edx,%edx; syscall"
    result = borrower.run(f"movq $1,{FREE}; movq $0,{FREE}; {zap}; movq ${PTE_RW},{FREE}")
    assert (result.rax, result.vector) == (0, PAGE_FAULT)
    taker.grant(REF, lender.domid, 70, abi.GTF_accept_transfer)
    assert reservation.guest_remove_page(taker.domain.record.address, taker.pool(1))
    assert lender.transfer(frame, taker.domid, REF) == abi.GNTST_okay
    taker.put(DATA, struct.pack("<QQQ", MMUEXT_PIN_L1_TABLE, frame, 0))
    assert taker.hypercall(HYPERVISOR_mmuext_op, DATA, 1, 0, DOMID_SELF) == 0
    assert taker.machine.frame(frame).cast("Q")[0] == 0


# The end of a domain that has borrowed much.


def test_the_end_of_a_domain_with_many_handles_lets_others_go_first(hypervisor: Hypervisor, lender: GrantGuest) -> None:
    borrower = GrantGuest(hypervisor, grant_limits=GrantLimits(max_maptrack_frames=32))
    count = 4 * HANDLES_AT_ONCE
    for ref in range(count // 128):
        lender.grant(REF + ref, borrower.domid, lender.pool(0))
        ops = [abi.GnttabMapGrantRef(flags=READ_ONLY, ref=REF + ref, dom=lender.domid) for _ in range(64)]
        for _ in range(2):
            assert all(op.status == abi.GNTST_okay for op in borrower.operate(abi.GNTTABOP_map_grant_ref, ops))
    borrowed: list[int] = []

    def preempt() -> bool:
        borrowed.append(len(list(borrower.domain.grant_table.mappings())))
        return True

    while not hypervisor.kill(borrower.domain, preempt):
        assert hypervisor.find(borrower.domid) is borrower.domain
    borrowed.append(len(list(borrower.domain.grant_table.mappings())))
    steps = [before - after for before, after in itertools.pairwise(borrowed)]
    assert borrowed[0] == count
    assert borrowed[-1] == 0
    assert max(steps) <= HANDLES_AT_ONCE
    assert pins(lender.domain) == {}
    assert lender.references(lender.pool(0)) == (1, 0)


# Several at the same time, without Python in between.


def repeat(count: int, body: str) -> str:
    """Assembler that does something many times and ends with 0 in RBX, or with FAILED where it jumps to 9."""
    return f"mov ${count},%r15d; 1: {body} dec %r15d; jnz 1b; mov $0,%ebx; jmp 8f; 9: mov ${FAILED},%ebx; 8:"


def operation(command: int, at: int, allowed: str = "") -> str:
    """One operation; ``allowed`` is what is done to its result, in EAX, that need not be 0."""
    check = allowed or "test %eax,%eax; jnz 9f"
    return (
        f"mov ${HYPERVISOR_grant_table_op},%eax; mov ${command},%edi; mov ${at},%rsi; mov $1,%edx; syscall; {check}; "
    )


def run_all(programs: list[tuple[GrantGuest, str]]) -> list[int]:
    """What is in RBX of each guest at its end; all run at once."""
    results = [FAILED] * len(programs)

    def run(number: int) -> Callable[[], None]:
        guest, program = programs[number]

        def target() -> None:
            results[number] = guest.run(program).rbx

        return target

    threads = [threading.Thread(target=run(number)) for number in range(len(programs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_transitive_grants_of_two_that_stand_for_each_other(lender: GrantGuest, borrower: GrantGuest) -> None:
    """Each copies by a grant of the other's that stands for one of its own: their tables are never locked both."""
    programs = []
    for guest, other in ((lender, borrower), (borrower, lender)):
        set_version_2(guest)
        lend_on(guest, REF, other.domid, other.domid, REF + 1)
        entry = abi.GrantEntryV2FullPage(
            hdr=abi.GrantEntryHeader(flags=abi.GTF_permit_access, domid=other.domid), frame=guest.pool(0)
        )
        at = (REF + 1) * abi.GrantEntryV2.size
        guest.entries[at : at + entry.size] = bytes(entry)
        guest.put(OPERATION, bytes(copy_from(other.domid, REF, guest.pool(1))))
        programs.append((guest, repeat(TIMES, operation(abi.GNTTABOP_copy, OPERATION))))
    assert run_all(programs) == [0, 0]
    for guest in (lender, borrower):
        assert abi.GnttabCopy.unpack_from(guest.page(DATA), OPERATION - DATA).status == abi.GNTST_okay
        assert pins(guest.domain) == {}
        assert guest.references(guest.pool(0)) == (1, 0)


def test_versions_change_while_grants_are_lent_on(
    hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest
) -> None:
    """What stood for another's grant is none, or one of version 1, when its table is locked again."""
    middle = GrantGuest(hypervisor)
    lender.grant(REF, middle.domid, lender.pool(0), abi.GTF_permit_access | abi.GTF_readonly)
    set_version_2(middle)
    lend_on(middle, REF, borrower.domid, lender.domid, REF)
    header = int.from_bytes(bytes(middle.entries[REF * 16 : REF * 16 + 8]), "little")
    gref = int.from_bytes(bytes(middle.entries[REF * 16 + 8 : REF * 16 + 16]), "little")
    table = FREE
    entry = middle.domain.grant_table.frames[0] << 12 | PTE_RW
    assert middle.set_entry(table, entry) == 0
    lend = f"mov ${header},%rax; mov ${gref},%rcx; mov %rcx,{table + REF * 16 + 8}; mov %rax,{table + REF * 16}; "
    change = "".join(
        f"movl ${version},{OPERATION}; " + operation(abi.GNTTABOP_set_version, OPERATION, "nop") + lend
        for version in (1, 2)
    )
    borrower.put(OPERATION, bytes(copy_from(middle.domid, REF, borrower.pool(1))))
    programs = [
        (middle, repeat(TIMES // 40, change)),
        (borrower, repeat(TIMES, operation(abi.GNTTABOP_copy, OPERATION))),
    ]
    assert run_all(programs) == [0, 0]
    for guest in (lender, middle, borrower):
        assert pins(guest.domain) == {}
    assert lender.references(lender.pool(0)) == (1, 0)
    assert lender.entry(REF).flags == abi.GTF_permit_access | abi.GTF_readonly


def test_two_give_each_other_pages(lender: GrantGuest, borrower: GrantGuest) -> None:
    """Each gives a page to itself, again and again, and copies by the other's table: nobody waits for ever."""
    programs = []
    for guest, other in ((lender, borrower), (borrower, lender)):
        frame = guest.pool(0)
        assert guest.set_entry(FREE, guest.domain.grant_table.frames[0] << 12 | PTE_RW) == 0
        guest.grant(REF + 1, other.domid, guest.pool(1), abi.GTF_permit_access | abi.GTF_readonly)
        accept = int.from_bytes(
            bytes(abi.GrantEntryV1(flags=abi.GTF_accept_transfer, domid=guest.domid, frame=70)), "little"
        )
        guest.put(OPERATION, bytes(abi.GnttabTransfer(mfn=frame, domid=guest.domid, ref=REF)))
        guest.put(SECOND, bytes(copy_from(other.domid, REF + 1, guest.pool(2))))
        give = f"mov ${accept},%rax; mov %rax,{FREE + REF * 8}; " + operation(abi.GNTTABOP_transfer, OPERATION)
        given = f"cmpw $0,{OPERATION + abi.GnttabTransfer.offsets['status']}; jne 9f; "
        copied = f"cmpw $0,{SECOND + abi.GnttabCopy.offsets['status']}; jne 9f; "
        programs.append((guest, repeat(TIMES // 100, give + given + operation(abi.GNTTABOP_copy, SECOND) + copied)))
    assert run_all(programs) == [0, 0]
    for guest in (lender, borrower):
        assert guest.owner(guest.pool(0)) == guest.domain.record.address
        assert pins(guest.domain) == {}
