"""Long operations on page tables stop when something is more urgent, and all is accounted for wherever they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor.audit import FIELDS, audit
from euxen.hypervisor.control import Control
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import Machine
from euxen.hypervisor.mm import mmu, mmuext, pagetable
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.pagetable import PGT_TABLES

FRAMES = 32
PRESENT, RW = 1, 3


class Tables:
    """A domain with some frames, of which page tables are made."""

    def __init__(self) -> None:
        self.machine = Machine(16 << 20)
        self.hypervisor = Hypervisor(self.machine, UnicornEngine)
        self.free = self.machine.record["free_pages"]
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        domain = self.hypervisor.find(self.control.create_domain(FRAMES))
        assert domain is not None
        self.domain = domain
        self.record = self.domain.record.address
        self.frames = list(self.control.populate_physmap(self.domain.domid, 0, FRAMES))
        self._next = iter(self.frames)
        assert self.domain.engine is not None
        self.block = self.domain.engine.block

    def table(self, entries: dict[int, int], flags: int = RW) -> int:
        """A frame with these entries: the frames that they map."""
        frame = next(self._next)
        words = self.machine.frame(frame).cast("Q")
        for slot, target in entries.items():
            words[slot] = target << 12 | flags
        return frame

    def l2(self, tables: int) -> int:
        """A table of level 2 with so many below."""
        data = self.table({})
        return self.table({slot: self.table({slot: data}) for slot in range(tables)})

    def type_info(self, frame: int) -> int:
        return int(self.machine.frame_table.words()[frame * FIELDS + 1])

    def check(self) -> None:
        """The books add up."""
        assert audit(self.hypervisor) == []

    def pin(self, frame: int, level: int) -> int:
        return mmuext.pin(self.record, frame, PGT_TABLES[level])

    def unpin(self, frame: int) -> int:
        return mmuext.unpin(self.record, frame)

    def update(self, table: int, slot: int, value: int) -> int:
        return mmu._pt_update(self.record, (table << 12) + slot * 8, value, 0, self.record)

    def undo(self) -> int:
        return pagetable.put_old_guest_table(self.record)

    def in_steps(self, operation: Callable[[], int], most: int = 10_000) -> tuple[int, int]:
        """Make an operation that is interrupted whenever it may be: the answer, and after how many steps."""
        self.block["kicked"] = 1
        error, steps = -pg.ERESTART, 0
        while error == -pg.ERESTART and steps < most:
            error = operation()
            steps += 1
            self.check()
        self.block["kicked"] = 0
        return error, steps

    def close(self) -> None:
        """Destroy the domain: nothing of it is left."""
        self.control.destroy_domain(self.domain.domid)
        assert self.machine.record["free_pages"] == self.free
        self.check()


@pytest.fixture
def tables(native: None) -> Iterator[Tables]:
    tables = Tables()
    yield tables
    tables.close()


def test_a_pin_in_steps(tables: Tables) -> None:
    l4 = tables.table({0: tables.table({0: tables.l2(5), 1: tables.l2(5)})})
    error, steps = tables.in_steps(lambda: tables.pin(l4, 4))
    assert error == 0
    assert steps > 10
    assert tables.type_info(l4) & pg.PGT_validated


def test_an_unpin_in_steps(tables: Tables) -> None:
    l4 = tables.table({0: tables.table({0: tables.l2(5), 1: tables.l2(5)})})
    assert tables.pin(l4, 4) == 0
    tables.block["kicked"] = 1
    assert tables.unpin(l4) == 0
    tables.check()
    assert tables.type_info(l4) & pg.PGT_partial
    error, steps = tables.in_steps(tables.undo)
    assert error == 0
    assert steps > 10
    assert not tables.type_info(l4) & pg.PGT_count_mask


@pytest.mark.parametrize("steps", [1, 2, 6, 300, 513, 800])
def test_a_domain_that_is_destroyed_during_a_pin(tables: Tables, steps: int) -> None:
    l4 = tables.table({0: tables.table({0: tables.l2(5), 1: tables.l2(5)})})
    assert tables.in_steps(lambda: tables.pin(l4, 4), steps) == (-pg.ERESTART, steps)
    tables.block["kicked"] = 1


@pytest.mark.parametrize("steps", [0, 1, 2, 6, 300, 513, 800])
def test_a_domain_that_is_destroyed_during_an_unpin(tables: Tables, steps: int) -> None:
    l4 = tables.table({0: tables.table({0: tables.l2(5), 1: tables.l2(5)})})
    assert tables.pin(l4, 4) == 0
    tables.block["kicked"] = 1
    assert tables.unpin(l4) == 0
    assert tables.in_steps(tables.undo, steps) == (-pg.ERESTART, steps)
    tables.block["kicked"] = 1


def test_a_table_that_is_partly_validated_is_nothing_else(tables: Tables) -> None:
    l2 = tables.l2(5)
    assert tables.in_steps(lambda: tables.pin(l2, 2), 3) == (-pg.ERESTART, 3)
    for level in (1, 3, 4):
        assert tables.pin(l2, level) == -XEN_EINVAL
    assert tables.unpin(l2) == -XEN_EINVAL
    assert tables.update(l2, 0, 0) == -XEN_EINVAL
    assert pagetable.get_page_and_type_from_mfn(tables.record, l2, pg.PGT_writable_page) == -XEN_EINVAL
    tables.check()
    # Not even as a table that another shows.
    other = tables.table({0: l2}, PRESENT)
    assert tables.pin(other, 2) == -XEN_EINVAL
    tables.check()
    assert tables.pin(l2, 2) == 0


def test_what_was_refused_is_undone_in_steps(tables: Tables) -> None:
    good, bad = tables.l2(5), tables.table({0: tables.table({}), 1: tables.table({}), 2: 0})
    l4 = tables.table({0: tables.table({0: good, 1: bad})})
    error, _ = tables.in_steps(lambda: tables.pin(l4, 4))
    assert error == -XEN_EINVAL
    assert tables.domain.record["old_guest_table"]
    error, steps = tables.in_steps(tables.undo)
    assert error == 0
    assert steps > 5
    assert not any(tables.type_info(frame) & pg.PGT_count_mask for frame in tables.frames)


def test_an_update_in_steps(tables: Tables) -> None:
    """The new table is validated, and the old one given up."""
    old, new = tables.l2(5), tables.l2(5)
    l3 = tables.table({0: old})
    assert tables.pin(l3, 3) == 0
    error, steps = tables.in_steps(lambda: tables.update(l3, 0, new << 12 | RW))
    assert error == 0
    assert steps > 5
    assert tables.type_info(new) & pg.PGT_validated
    assert tables.type_info(old) & pg.PGT_partial
    assert tables.in_steps(tables.undo)[0] == 0
    assert not tables.type_info(old) & pg.PGT_count_mask


def test_an_update_that_nobody_goes_on_with(tables: Tables) -> None:
    l3, new = tables.table({}), tables.l2(5)
    assert tables.pin(l3, 3) == 0
    assert tables.in_steps(lambda: tables.update(l3, 0, new << 12 | RW), 3) == (-pg.ERESTART, 3)


def test_a_first_entry_that_has_become_something_else(tables: Tables) -> None:
    """The reference that the entry kept when it was interrupted goes with the table."""
    l2 = tables.l2(5)
    l3 = tables.table({0: l2})
    assert tables.in_steps(lambda: tables.pin(l3, 3), 2) == (-pg.ERESTART, 2)
    # The table below is completed, given up and used as memory.
    assert tables.pin(l2, 2) == 0
    assert tables.unpin(l2) == 0
    assert pagetable.get_page_and_type_from_mfn(tables.record, l2, pg.PGT_writable_page) == 0
    assert tables.pin(l3, 3) == -XEN_EINVAL
    assert tables.undo() == 0
    pagetable.put_page_and_type(pg.page_of(tables.machine.record.address, l2))
    tables.check()
    assert not tables.type_info(l3) & pg.PGT_count_mask


def test_an_entry_that_has_become_a_linear_mapping(tables: Tables) -> None:
    """It has the reference already that a linear mapping needs."""
    l2 = tables.l2(5)
    l3 = tables.table({3: l2}, PRESENT)
    assert tables.in_steps(lambda: tables.pin(l3, 3), 6) == (-pg.ERESTART, 6)
    assert tables.type_info(l2) & pg.PGT_partial
    assert tables.pin(l2, 2) == 0
    assert tables.unpin(l2) == 0
    tables.machine.frame(l2)[:] = bytes(4096)
    assert tables.pin(l2, 3) == 0
    assert tables.pin(l3, 3) == 0
    tables.check()


def test_a_linear_mapping_given_up_in_steps(tables: Tables) -> None:
    """A table that is in use only as it is shown in another of its level is given up with that one."""
    inner = tables.l2(5)
    outer = tables.table({0: inner}, PRESENT)
    assert tables.pin(inner, 2) == 0
    assert tables.pin(outer, 2) == 0
    assert tables.unpin(inner) == 0
    tables.check()
    tables.block["kicked"] = 1
    assert tables.unpin(outer) == 0
    tables.check()
    assert tables.in_steps(tables.undo, 515) == (-pg.ERESTART, 515)
    assert tables.type_info(outer) & pg.PGT_partial
    assert tables.type_info(inner) & pg.PGT_partial
    assert tables.in_steps(tables.undo)[0] == 0
    assert not any(tables.type_info(frame) & pg.PGT_count_mask for frame in tables.frames)
