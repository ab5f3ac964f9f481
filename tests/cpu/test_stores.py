"""Stores that the hypervisor does for a guest's kernel: to its page tables, which it has mapped read-only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pv_guest import CODE, PRESENT, SPARE, TABLES, WRITABLE, PvGuest

from euxen.abi.xen import VMASST_TYPE_writable_pagetables
from euxen.hypervisor.machine import PAGE_SIZE

L1_TABLE = TABLES - 1
WINDOW, SHARED_INFO, TARGET = (SPARE + number * PAGE_SIZE for number in range(1, 4))
"""Linear addresses: the level 1 table read-only, the shared_info page, and one whose entry will be written."""
ENTRY = WINDOW + TARGET // PAGE_SIZE % 512 * 8


@pytest.fixture
def guest(native: None) -> Iterator[PvGuest]:
    guest = PvGuest()
    guest.domain.record["vm_assist"] |= 1 << VMASST_TYPE_writable_pagetables
    table = guest.machine.frame(guest.frames[L1_TABLE]).cast("Q")
    table[WINDOW // PAGE_SIZE] = guest.frames[L1_TABLE] << 12 | PRESENT
    table[SHARED_INFO // PAGE_SIZE] = guest.domain.shared_info_frame << 12 | WRITABLE
    yield guest
    guest.close()


def page(guest: PvGuest) -> int:
    """An entry for the page at CODE, as Xen completes it."""
    return guest.frames[TABLES] << 12 | PRESENT


def test_a_store_to_a_page_table_is_done(guest: PvGuest) -> None:
    result = guest.run(f"mov ${page(guest)},%eax; mov %rax,{ENTRY}; mov {ENTRY},%rbx; mov {TARGET},%rdx")
    assert result.vector is None
    assert result.rbx & ~0x160 == page(guest) & ~0x160
    assert result.rdx == int.from_bytes(guest.page(CODE)[:8], "little")


def test_an_event_does_not_come_in_the_middle_of_a_store(guest: PvGuest) -> None:
    """It waits for the end of the block of code: until then the registers are the translator's."""
    guest.vcpu.record["event_callback"] = CODE
    result = guest.run(
        f"mov $1,%ecx; mov $2,%r11d; mov ${page(guest)},%eax; jmp 1f;"
        f"1: movw $1,{SHARED_INFO}; mov %rax,{ENTRY}; movw $0x100,{SHARED_INFO}; mov %r11,%rbx"
    )
    assert result.vector is None
    assert (result.rcx, result.rbx) == (1, 2)
