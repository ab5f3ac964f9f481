"""Translations: whatever happens to the page tables, the guest sees what an x86 CPU could show it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from bare import PAGE_FAULT, SYSCALL, Outcome
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from paged import (
    ACCESSED,
    CROSS,
    DATA,
    DIRTY,
    ENTER,
    FILLED,
    FRAMES,
    KERNEL,
    NUMBER,
    NX,
    PAGE,
    PAGES,
    POOL,
    PRESENT,
    PROGRAM,
    SLOTS,
    USER,
    VALUE,
    WRITABLE,
    PagedEngine,
    Translation,
    linear,
)

from euxen.cpu.native.language import unsigned

KINDS = {"read": 0, "write": 2, "execute": 16}
"""Kinds of access, and their bit in a page fault's error code."""

WHO = st.sampled_from([KERNEL, PROGRAM])
SMALL = st.integers(0, 23)
PLACE = st.tuples(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 3, 4]), WHO, SMALL)
"""An entry: its level, who uses it, and for which page."""
USED = st.sampled_from([0, ACCESSED, ACCESSED | DIRTY])
CHANGE = st.one_of(
    st.tuples(st.just("map"), PLACE, SMALL, st.sampled_from([0, WRITABLE, WRITABLE, NX, NX | WRITABLE]), USED),
    st.tuples(st.just("map_linear"), PLACE, SMALL, st.booleans()),
    st.tuples(st.just("unmap"), PLACE),
    st.tuples(st.just("toggle"), PLACE, st.sampled_from([WRITABLE, NX, ACCESSED, DIRTY])),
    st.tuples(st.just("write_from_outside"), SMALL),
    st.tuples(st.just("take_from_guest"), SMALL),
)
FORGET = st.one_of(
    st.sampled_from([("flush",), ("flush",), ("invalidate_changed",), ("nothing",)]),
    st.tuples(st.just("switch"), WHO, SMALL),
)
USES = ["read", "write", "exchange", "add", "write_code", "execute", "write_code", "execute", "execute_across",
        "read_across"]  # fmt: skip


class Tlb(RuleBasedStateMachine):
    """Changes of page tables, flushes of all kinds, and accesses by the guest's kernel and its programs."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = PagedEngine()
        self.changed: set[int] = set()
        """The pages for which entries were changed."""

    def teardown(self) -> None:
        self.machine.close()

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        """Few pages are used, often: all of them would drive each other out of the TLBs."""
        self.pages = random.Random(seed).sample(PAGES, 8)
        self.machine.wire()

    @rule(changes=st.lists(CHANGE, max_size=3), forget=FORGET)
    def change_and_forget(self, changes: list[tuple[Any, ...]], forget: tuple[Any, ...]) -> None:
        for name, *arguments in (*changes, forget):
            getattr(self, name)(*arguments)

    @rule(kinds=st.lists(st.sampled_from(USES), min_size=1, max_size=4), whos=st.permutations([KERNEL, PROGRAM]))
    def use(self, kinds: list[str], whos: list[int]) -> None:
        for kind in kinds:
            for page in self.pages:
                for who in whos:
                    getattr(self, kind)(who, page)

    # Changes

    def map(self, place: tuple[int, int, int], to: int, rights: int, used: int) -> None:
        self.set_entry(place, self.machine.target(place[0], to) * PAGE | PRESENT | USER | rights | used)

    def map_linear(self, place: tuple[int, int, int], to: int, itself: bool) -> None:
        """A page table in the place of one of the level below: its own entries can be read in the guest's memory."""
        place = (max(place[0], 2), *place[1:])
        level, table, _ = self.entry_at(place)
        frame = self.machine.tables[level][table if itself else to % POOL[level]]
        self.set_entry(place, frame * PAGE | PRESENT | USER | NX)

    def unmap(self, place: tuple[int, int, int]) -> None:
        self.set_entry(place, 0)

    def toggle(self, place: tuple[int, int, int], bits: int) -> None:
        level, table, slot = self.entry_at(place)
        entry = self.machine.entry(level, table, slot)
        linear = level > 1 and (entry & ~NX) // PAGE in self.machine.tables[level]
        if entry & PRESENT and not linear:
            self.set_entry(place, entry ^ bits)

    def set_entry(self, place: tuple[int, int, int], value: int) -> None:
        self.machine.set_entry(*self.entry_at(place), value)

    def entry_at(self, place: tuple[int, int, int]) -> tuple[int, int, int]:
        """Level, table and slot of the entry that is meant, or of another one where tables are missing."""
        level, who, number = place
        page = self.pages[number % len(self.pages)]
        self.changed.add(page)
        slot = page >> (3 + 9 * level) & 511
        path = [at for at, _ in self.machine.path(self.machine.roots[who], page)]
        table = path[4 - level] // 512 if len(path) > 4 - level else 0
        if table in self.machine.tables[level] and slot in SLOTS[level]:
            return level, self.machine.tables[level].index(table), slot
        return level, number % POOL[level], SLOTS[level][number % len(SLOTS[level])]

    def write_from_outside(self, number: int) -> None:
        """A disk, say, writes new code."""
        at = self.machine.frames[number % FRAMES] * PAGE + VALUE
        self.machine.place(at, self.machine.next_value().to_bytes(4, "little"))

    def take_from_guest(self, number: int) -> None:
        self.machine.take_from_guest(self.machine.frames[number % FRAMES])

    # What makes the CPU forget

    def nothing(self) -> None:
        pass

    def flush(self) -> None:
        self.machine.flush()

    def invalidate_changed(self) -> None:
        for page in self.changed:
            self.machine.invalidate_page(page)
        self.changed.clear()

    def switch(self, who: int, root: int) -> None:
        self.machine.switch(who, root % POOL[4])

    # Accesses

    def read(self, who: int, page: int) -> None:
        was_dirty = self.is_dirty(who, page)
        outcome = self.machine.access("read", who, page + NUMBER)
        if self.check(outcome, who, page, page + NUMBER, "read"):
            seen = self.machine.registers[0]
            frames = {one.frame for one in self.allowed(who, page, "read")}
            assert seen in {self.machine.number_in(frame, NUMBER) for frame in frames}
        assert self.is_dirty(who, page) == was_dirty

    def write(self, who: int, page: int) -> None:
        self.check_write(who, page, "write", DATA, 8)

    def exchange(self, who: int, page: int) -> None:
        self.check_write(who, page, "xchg", DATA, 8)

    def add(self, who: int, page: int) -> None:
        self.check_write(who, page, "add", DATA, 8)

    def write_code(self, who: int, page: int) -> None:
        self.check_write(who, page, "write32", VALUE, 4)

    def execute(self, who: int, page: int) -> None:
        was_dirty = self.is_dirty(who, page)
        outcome = self.machine.access("execute", who, page + ENTER)
        if self.check(outcome, who, page, page + ENTER, "execute"):
            frames = {one.frame for one in self.allowed(who, page, "execute")}
            assert self.machine.registers[0] in {self.machine.number_in(frame, VALUE, 4) for frame in frames}
        else:
            assert self.machine.registers.rip == unsigned(page + ENTER)
        assert self.is_dirty(who, page) == was_dirty

    def execute_across(self, who: int, page: int) -> None:
        """An instruction that begins in one page and ends in the next."""
        if page + PAGE not in PAGES:
            return
        outcome = self.machine.access("execute", who, page + CROSS)
        if outcome.kind == PAGE_FAULT and outcome.address == page + PAGE:
            assert self.machine.registers.rip == unsigned(page + CROSS)
            self.check(outcome, who, page + PAGE, page + PAGE, "execute")
        elif self.check(outcome, who, page, page + CROSS, "execute"):
            assert self.machine.registers[0] in {
                self.machine.number_in(one.frame, CROSS + 1, 1) | self.machine.number_in(other.frame, 0, 3) << 8
                for one in self.allowed(who, page, "execute")
                for other in self.allowed(who, page + PAGE, "execute")
            }

    def read_across(self, who: int, page: int) -> None:
        if page + PAGE not in PAGES:
            return
        outcome = self.machine.access("read", who, page + PAGE - 1)
        if outcome.kind == PAGE_FAULT and outcome.address == page + PAGE:
            self.check(outcome, who, page + PAGE, page + PAGE, "read")
        elif self.check(outcome, who, page, page + PAGE - 1, "read"):
            assert self.machine.registers[0] in {
                self.machine.number_in(one.frame, PAGE - 1, 1) | self.machine.number_in(other.frame, 0, 7) << 8
                for one in self.allowed(who, page, "read")
                for other in self.allowed(who, page + PAGE, "read")
            }

    @rule(who=WHO, kind=st.sampled_from(sorted(KINDS)), slot4=st.sampled_from(SLOTS[4]),
          slot2=st.sampled_from(SLOTS[2]))  # fmt: skip
    def all_of_a_region(self, who: int, kind: str, slot4: int, slot2: int) -> None:
        """More pages than a log has entries."""
        first = linear(slot4, SLOTS[3][0], slot2, FILLED[0])
        offset = ENTER if kind == "execute" else DATA
        outcome = self.machine.access(f"{kind}_all", who, first + offset, 0, len(FILLED))
        # The model does not follow the others, which need not be all the same.
        if outcome.kind == SYSCALL or outcome.address == first + offset:
            self.check(outcome, who, first, first + offset, kind)

    # What has to hold

    def allowed(self, who: int, page: int, kind: str) -> set[Translation]:
        """The translations by which an access of a kind may be made."""
        return {one for one in self.machine.may_hold[who, page] if one.permits(kind)}

    def is_certain(self, who: int, page: int) -> bool:
        """Whether the CPU may know nothing of a page but what the tables say now."""
        now = self.machine.translation(who, page)
        return now is not None and self.machine.may_hold[who, page] == {now} and not self.machine.bits_may_be_stale

    def is_dirty(self, who: int, page: int) -> bool | None:
        return self.machine.dirty(who, page) if self.machine.translation(who, page) else None

    def check(self, outcome: Outcome, who: int, page: int, address: int, kind: str) -> bool:
        """Whether an access succeeded. Asserts that it was allowed to end as it did."""
        known, now = self.machine.may_hold[who, page], self.machine.translation(who, page)
        if outcome.kind == SYSCALL:
            assert any(one.permits(kind) for one in known)
            if self.is_certain(who, page):
                assert self.machine.accessed(who, page)
            return True
        assert outcome.address == address
        assert now is None or not all(one.permits(kind) for one in known)
        assert outcome.error_code & ~1 == KINDS[kind] | (4 if who == PROGRAM else 0)
        if len(known) <= 1:
            assert outcome.error_code & 1 == (now is not None)
        return False

    def check_write(self, who: int, page: int, stub: str, offset: int, size: int) -> None:
        value = self.machine.next_value()
        before = {frame: self.machine.number_in(frame, offset, size) for frame in self.machine.frames}
        outcome = self.machine.access(stub, who, page + offset, value)
        after = {frame: self.machine.number_in(frame, offset, size) for frame in self.machine.frames}
        written = {frame for frame in before if before[frame] != after[frame]}
        if self.check(outcome, who, page, page + offset, "write"):
            (frame,) = written or {self.machine.filler}
            assert frame in {one.frame for one in self.allowed(who, page, "write")}
            if written:
                assert after[frame] == value + (before[frame] if stub == "add" else 0)
                if stub in ("xchg", "add"):
                    assert self.machine.registers[0] == before[frame]
            if self.is_certain(who, page):
                assert self.machine.dirty(who, page)
        else:
            assert not written


TestTlb = pytest.mark.usefixtures("native")(Tlb.TestCase)
TestTlb.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
