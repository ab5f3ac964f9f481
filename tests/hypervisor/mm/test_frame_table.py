"""Page types, driven at random, against the rule that they stand for.

The rule, as the model has it: a page table that is in use says what each frame that it maps has to be, and so do
the tables below it. A change is allowed where all that is said agrees. What is said is found out anew, from the
contents of memory and the list of pinned tables, and not by counting. Where an operation was interrupted, the frame
table says how many entries of which tables count already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor.audit import FIELDS, audit
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.foreign import ForeignMapping
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import Machine
from euxen.hypervisor.mm import mmu, mmuext, pagetable
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.pagetable import PGT_TABLES
from euxen.hypervisor.records import PageInfo

FRAMES = 20
PRESENT, RW, PCD, PSE, GLOBAL, NX = 1, 2, 0x10, 0x80, 0x100, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
WRITABLE = 7
SLOTS = {1: (0, 1, 511), 2: (0, 1, 511), 3: (0, 511), 4: (0, 255, 256, 271, 272, 511)}
XENS = range(256, 272)

FRAME = st.integers(0, FRAMES - 1)
LEVEL = st.sampled_from([1, 1, 1, 2, 2, 3, 4])
SLOT = st.sampled_from([0, 1, 255, 256, 271, 272, 511])
STEPS = st.sampled_from([0, 0, 0, 1, 2, 3, 300, 2000])
"""How often a hypercall is made that is interrupted whenever it may be; 0: it is not interrupted."""
ENTRY = st.tuples(
    st.sampled_from(["mine"] * 12 + ["other's", "Xen's", "no frame"]),
    FRAME,
    st.sampled_from(
        [PRESENT, PRESENT | RW, PRESENT | RW, PRESENT | NX, 0, PRESENT | PCD, PRESENT | RW | PSE, PRESENT | GLOBAL | RW]
    ),
)


class FrameTable(RuleBasedStateMachine):
    """Two domains with a few frames each. The first makes page tables of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(16 << 20)
        self.hypervisor = Hypervisor(self.machine, UnicornEngine)
        self.free = self.machine.record["free_pages"]
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.domains = [self._make_domain() for _ in range(2)]
        self.domain = self.domains[0]
        self.frames, self.others = (list(self.control.populate_physmap(one.domid, 0, FRAMES)) for one in self.domains)
        self.pins: dict[int, int] = {}
        self.held: list[ForeignMapping] = []
        assert self.domain.engine is not None
        self.block = self.domain.engine.block

    def _make_domain(self) -> Domain:
        domain = self.hypervisor.find(self.control.create_domain(2 * FRAMES))
        assert domain is not None
        return domain

    def teardown(self) -> None:
        for page in self.held:
            page.release()
        self.block["kicked"] = 1
        for domain in self.domains:
            self.control.destroy_domain(domain.domid)
        assert audit(self.hypervisor) == []
        assert self.machine.record["free_pages"] == self.free

    # The model

    def entries(self, frame: int) -> memoryview:
        """The entries of a frame as a page table."""
        return self.machine.frame(frame).cast("Q")

    def says(self, level: int, slot: int, entry: int) -> tuple[int, int | None] | None:
        """The frame that an entry maps, and as what, if that matters. Raises ValueError where it may not be."""
        if not entry & PRESENT or (level == 4 and slot in XENS):
            return None
        target = (entry & ADDRESS) >> 12
        if target not in self.frames or entry & (0x98 if level == 1 else 0x198):
            raise ValueError
        return target, (WRITABLE if entry & RW else None) if level == 1 else level - 1

    def partly_validated(self) -> Iterator[tuple[int, int, int]]:
        """Tables of which some entries count already: frame, level, and how many."""
        words = self.machine.frame_table.words()
        for frame in self.frames:
            info = PageInfo.unpack_from(words[frame * FIELDS : (frame + 1) * FIELDS].cast("B"))
            if info.type_info & pg.PGT_partial:
                yield frame, info.type_info >> 61, info.nr_validated_ptes

    def may_map_itself(self, frame: int, level: int) -> bool:
        """Whether a table, or one below it, has what could be a linear mapping: the model does not know these."""
        if level <= 1 or frame not in self.frames:
            return False
        for slot, entry in enumerate(self.entries(frame)):
            if entry & PRESENT and not (level == 4 and slot in XENS):
                if not entry & RW or self.may_map_itself((entry & ADDRESS) >> 12, level - 1):
                    return True
        return False

    def types(self, pins: dict[int, int], new: tuple[int, int, int] | None = None) -> dict[int, int] | None:
        """What each frame has to be; None where that contradicts itself.

        ``new``: an entry (frame, slot, value) that comes in, while what it replaces is still there.
        """
        known = {frame: WRITABLE for mapping in self.held for frame in mapping.frames}
        todo = [(frame, kind, 512) for frame, kind in pins.items()]
        todo += self.partly_validated()
        done = set()
        while todo:
            frame, kind, count = todo.pop()
            if known.setdefault(frame, kind) != kind:
                return None
            if kind == WRITABLE or (frame, count) in done:
                continue
            done.add((frame, count))
            entries = list(enumerate(self.entries(frame)[:count]))
            if new and new[0] == frame:
                entries.append(new[1:])
            try:
                said = [self.says(kind, slot, entry) for slot, entry in entries]
            except ValueError:
                return None
            todo += [(target, wanted, 512) for target, wanted in filter(None, said) if wanted is not None]
        return known

    # What happens

    def entry(self, parts: tuple[str, int, int], level: int) -> int:
        """A page-table entry."""
        whose, number, flags = parts
        frame = {
            "mine": self.frames[number],
            "other's": self.others[number],
            "Xen's": self.machine.m2p_frames()[0],
            "no frame": self.machine.frames + number,
        }[whose]
        # Above level 1 without RW it could be a linear mapping.
        return frame << 12 | flags | (RW if level > 1 else 0)

    def interrupted(self, steps: int, operation: Callable[[], int]) -> int:
        """Make an operation, or so many steps of it; -ERESTART if there is more to do."""
        self.block["kicked"] = int(steps > 0)
        error = -pg.ERESTART
        for _ in range(max(steps, 1)):
            error = operation()
            if error != -pg.ERESTART:
                break
        self.block["kicked"] = 0
        return error

    def undone(self, steps: int) -> bool:
        """Whether what an earlier operation left to undo is undone now: no operation begins before."""
        return self.interrupted(steps, lambda: pagetable.put_old_guest_table(self.domain.record.address)) == 0

    @initialize()
    def make_a_tree(self) -> None:
        """One that maps two pages and itself, so that there is something from the start."""
        l4, l3, l2, l1, *pages = self.frames
        self.entries(l4)[0] = l3 << 12 | PRESENT | RW
        self.entries(l3)[0] = l2 << 12 | PRESENT | RW
        self.entries(l2)[0] = l1 << 12 | PRESENT | RW
        self.entries(l1)[0] = pages[0] << 12 | PRESENT | RW
        self.entries(l1)[1] = l1 << 12 | PRESENT
        self.pin(0, 4, 0)

    @rule(number=FRAME, level=LEVEL, steps=STEPS)
    def pin(self, number: int, level: int, steps: int) -> None:
        if not self.undone(steps):
            return
        frame = self.frames[number]
        assume(not self.may_map_itself(frame, level))
        allowed = self.types({**self.pins, frame: level}) if self.pins.get(frame, level) == level else None
        error = self.interrupted(steps, lambda: mmuext.pin(self.domain.record.address, frame, PGT_TABLES[level]))
        if frame in self.pins:
            assert error
        elif error != -pg.ERESTART:
            assert bool(error) == (allowed is None)
        else:
            assert steps
        if not error:
            self.pins[frame] = level

    def known(self) -> dict[int, int]:
        """What each frame has to be."""
        types = self.types(self.pins)
        assert types is not None
        return types

    @rule(number=FRAME, steps=STEPS)
    def go_on(self, number: int, steps: int) -> None:
        """Pin a table of which some is validated."""
        for frame, level, _ in list(self.partly_validated())[number : number + 1]:
            self.pin(self.frames.index(frame), level, steps)

    @rule(number=FRAME, steps=STEPS)
    def unpin(self, number: int, steps: int) -> None:
        if not self.undone(steps):
            return
        frame = self.frames[number]
        self.block["kicked"] = int(steps > 0)
        error = mmuext.unpin(self.domain.record.address, frame)
        assert bool(error) == (frame not in self.pins)
        self.pins.pop(frame, None)

    @rule(number=FRAME, slot=SLOT, parts=ENTRY, level=LEVEL)
    def write(self, number: int, slot: int, parts: tuple[str, int, int], level: int) -> None:
        """The guest stores to memory that is no page table."""
        frame = self.frames[number]
        assume(self.known().get(frame, WRITABLE) == WRITABLE)
        self.entries(frame)[slot] = self.entry(parts, level)

    @rule(number=FRAME, slot=SLOT, parts=ENTRY, steps=STEPS)
    def update(self, number: int, slot: int, parts: tuple[str, int, int], steps: int) -> None:
        """MMU_NORMAL_PT_UPDATE."""
        if not self.undone(steps):
            return
        frame = self.frames[number]
        level = self.known().get(frame, WRITABLE)
        value = self.entry(parts, 1 if level == WRITABLE else level)
        if level != WRITABLE and value & PRESENT and self.may_map_itself((value & ADDRESS) >> 12, level - 1):
            return
        old = self.entries(frame)[slot]
        if (level == 4 and slot in XENS) or frame in [frame for frame, _, _ in self.partly_validated()]:
            allowed = False
        elif level == WRITABLE:
            allowed = True
        else:
            allowed = self.types(self.pins, (frame, slot, value)) is not None
        signed = value - (1 << 64) if value >> 63 else value
        pointer = (frame << 12) + slot * 8
        domain = self.domain.record.address
        error = self.interrupted(steps, lambda: mmu._pt_update(domain, pointer, signed, 0, domain))
        assert bool(error) == (not allowed) or (steps and error == -pg.ERESTART)
        new = self.entries(frame)[slot]
        if error:
            assert new == old
        else:
            assert new & (ADDRESS | PRESENT | RW | NX) == value & (ADDRESS | PRESENT | RW | NX)

    @rule(number=FRAME)
    def hold(self, number: int) -> None:
        """Domain 0 maps a page."""
        frame = self.frames[number]
        allowed = self.known().get(frame, WRITABLE) == WRITABLE
        try:
            self.held.append(self.control.map_foreign(self.domain.domid, frame))
        except XenError:
            assert not allowed
        else:
            assert allowed

    @rule(number=st.integers(0, 5))
    def release(self, number: int) -> None:
        if number < len(self.held):
            self.held.pop(number).release()

    @invariant()
    def the_books_add_up(self) -> None:
        assert audit(self.hypervisor) == []


TestFrameTable = pytest.mark.usefixtures("native")(FrameTable.TestCase)
TestFrameTable.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
