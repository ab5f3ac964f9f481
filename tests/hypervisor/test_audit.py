"""The audit finds what does not add up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pv_guest import DATA, PvGuest

from euxen.hypervisor.audit import FIELDS, audit
from euxen.hypervisor.mm import heap
from euxen.hypervisor.mm import page as pg


@pytest.fixture
def guest(native: None) -> Iterator[PvGuest]:
    guest = PvGuest()
    yield guest
    guest.close()


def findings(guest: PvGuest) -> list[str]:
    """What the audit says."""
    return audit(guest.hypervisor)


def test_nothing_is_wrong(guest: PvGuest) -> None:
    assert findings(guest) == []


def test_a_reference_too_many(guest: PvGuest) -> None:
    page = pg.page_of(guest.machine.record.address, guest.data_frame)
    assert pg.get_page(page, guest.domain.record.address)
    assert findings(guest) == [
        f"mfn {guest.data_frame:#x} has count_info 0x3, and 2 references are to be found",
    ]
    pg.put_page(page)


def test_a_reference_too_few(guest: PvGuest) -> None:
    page = pg.page_of(guest.machine.record.address, guest.data_frame)
    pg.put_page(page)
    assert findings(guest) == [
        f"mfn {guest.data_frame:#x} has count_info 0x1, and 2 references are to be found",
    ]
    assert pg.get_page(page, guest.domain.record.address)


def test_a_page_table_that_can_be_written(guest: PvGuest) -> None:
    """An entry that nobody validated."""
    l1 = guest.frames[4]
    entries = guest.machine.frame(l1).cast("Q")
    slot = DATA >> 12
    old, entries[slot] = entries[slot], l1 << 12 | 0x67
    found = findings(guest)
    entries[slot] = old
    assert f"mfn {l1:#x} is used as l1 and writable at once" in found


def test_a_page_that_is_counted_nowhere(guest: PvGuest) -> None:
    guest.domain.record["tot_pages"] += 1
    assert findings(guest) == [f"d1 has 64 pages, and tot_pages is {guest.domain.record['tot_pages']}"]
    guest.domain.record["tot_pages"] -= 1


def test_a_free_frame_that_is_in_use(guest: PvGuest) -> None:
    frame = guest.machine.alloc_xen_frame()
    heap.free_frame(guest.machine.record.address, frame)
    guest.machine.frame_table.words()[frame * FIELDS] = 1
    found = findings(guest)
    guest.machine.frame_table.words()[frame * FIELDS] = 0
    assert any("is free and has count_info" in finding for finding in found)
