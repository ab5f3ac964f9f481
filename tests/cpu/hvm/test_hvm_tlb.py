"""Translations of HVM guests: whatever happens to the tables, the guest sees what an x86 CPU could show it.

A model remembers for every page which translations a CPU may have kept: what the tables say now, and whatever they said
since the page was last forgotten. What the guest reads, writes and executes has to be by one of them.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

import pytest
from hvm_machine import (
    CODE,
    GLOBAL,
    LARGE,
    NX,
    PAGE,
    PF,
    PRESENT,
    RAX,
    RDI,
    RSI,
    USER,
    USER_CODE,
    WRITABLE,
    HvmMachine,
    Mode,
    Tables,
)

from euxen.cpu import state

STEPS, SEEDS = 300, 6
PGE = 0x80
BASE, REGION, HIGH = 0x4000_0000, 0x5000_0000, 0x5800_0000
PAGES = [BASE, BASE + (4 << 20), BASE + (16 << 20), BASE + PAGE, HIGH, HIGH + (32 << 20)]
"""Some of them meet in the same place of a TLB."""
IN_REGION = [REGION, REGION + 5 * PAGE, REGION + 511 * PAGE]
"""They are mapped by a large page, or by a table."""
FRAMES = [0x40_0000, 0x40_1000, 0x40_2000, 0x60_0000, 0x60_1000]
LARGE_FRAMES = [0x80_0000, 0xA0_0000]
STUBS = {"read": "mov 1(%{r}di),%eax; vmcall", "write": "mov %esi,1(%{r}di); vmcall", "execute": "call *%{r}di; vmcall"}
STUB_SIZE = 32
FLAGS = [PRESENT | WRITABLE | USER, PRESENT | WRITABLE, PRESENT, PRESENT | USER, 0, PRESENT | WRITABLE | USER | GLOBAL,
         PRESENT | WRITABLE | GLOBAL, PRESENT | GLOBAL]  # fmt: skip


@dataclass(frozen=True)
class Translation:
    """What a TLB could hold for a page."""

    gpa: int
    flags: int

    def permits(self, access: str, cpl: int) -> bool:
        """Whether an access may be made."""
        if not self.flags & PRESENT or (cpl and not self.flags & USER):
            return False
        if access == "write":
            return bool(self.flags & WRITABLE)
        return access == "read" or not self.flags & NX


class Model:
    """The machine, and what is known of it."""

    def __init__(self, mode: Mode, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machine = HvmMachine(mode)
        self.mode = mode
        self.large = 22 if mode is Mode.SHORT else 21
        self.spaces = [self.machine.paging, Tables(self.machine, mode)]
        self.spaces[1].map_range(0, 0x20_0000)
        self.now = 0
        self.tables = [self._region_table(space) for space in self.spaces]
        register = "r" if mode is Mode.LONG else "e"
        for cpl, base in ((0, CODE), (3, USER_CODE)):
            self.machine.start(cpl)
            for number, source in enumerate(STUBS.values()):
                self.machine.place(source.format(r=register), base + number * STUB_SIZE)
        for space in self.spaces:
            for page in PAGES:
                space.map(page, 0, 0)
        self.values: dict[int, int] = {}
        frames = [*FRAMES, *(base + page - REGION for base in LARGE_FRAMES for page in IN_REGION)]
        for number, gpa in enumerate(frames, start=0x100):
            self.machine.write(gpa, b"\xb8" + struct.pack("<I", number) + b"\xc3")
            self.values[gpa] = number
        self.may_hold: dict[int, set[Translation]] = {page: set() for page in (*PAGES, *IN_REGION)}
        self.machine.start()
        self.forget_all()

    def _region_table(self, space: Tables) -> int:
        space.map(REGION, 0, 0)
        return space.entries(REGION)[-1] & ~0xFFF

    def translation(self, page: int) -> Translation:
        """What the tables say now."""
        space = self.spaces[self.now]
        place = space.entries(REGION, 2)[-1]
        entry = space.read(place)
        if page in IN_REGION and entry & LARGE:
            return Translation((entry & ~0xFFF & ~NX) + page - REGION, entry & (0x107 | NX))
        entry = space.read(space.entries(page)[-1])
        return Translation(entry & ~0xFFF & ~NX, entry & (0x107 | NX))

    def remember(self) -> None:
        """The tables may have changed."""
        for page, known in self.may_hold.items():
            known.add(self.translation(page))

    def forget_all(self) -> None:
        """The TLB is empty."""
        for page in self.may_hold:
            self.may_hold[page] = {self.translation(page)}

    # Steps

    def flags(self) -> int:
        """Flags of an entry."""
        extra = NX if self.mode is not Mode.SHORT and self.chance.random() < 0.2 else 0
        return self.chance.choice(FLAGS) | extra

    def map(self) -> None:
        """Change an entry of some address space."""
        space = self.chance.choice(self.spaces)
        page = self.chance.choice(PAGES)
        space.write(space.entries(page)[-1], self.chance.choice(FRAMES) | self.flags())

    def map_region(self) -> None:
        """Change what maps a region: a large page, or a table with some pages."""
        number = self.chance.randrange(2)
        space, table = self.spaces[number], self.tables[number]
        place = space.entries(REGION, 2)[-1]
        if self.chance.random() < 0.5:
            space.write(place, self.chance.choice(LARGE_FRAMES) & -(1 << self.large) | self.flags() | LARGE)
        else:
            page = self.chance.choice(IN_REGION)
            count = 1024 if self.mode is Mode.SHORT else 512
            entry = table + (page >> 12) % count * space.entry_size
            space.write(entry, self.chance.choice(FRAMES) | self.flags())
            space.write(place, table | PRESENT | WRITABLE | USER)

    def guest(self, source: str, address: int = 0) -> None:
        """Let the guest's kernel execute something."""
        machine = self.machine
        register = "r" if self.mode is Mode.LONG else "e"
        machine.place(source.format(r=register) + "; vmcall", CODE + 0x800)
        self.load_segments(0)
        machine.registers.rip, machine.registers[RDI] = CODE + 0x800, address
        assert machine.go().kind == "vmcall"

    def invlpg(self) -> None:
        """Forget a page, and with it the large one that it may be in."""
        page = self.chance.choice([*PAGES, *IN_REGION])
        self.guest("invlpg (%{r}di)", page + 0x10)
        self.may_hold[page] = {self.translation(page)}
        # A translation of a large page is forgotten as a whole.
        for other in IN_REGION if page in IN_REGION else ():
            self.may_hold[other] = self.may_hold[other] | {self.translation(other)}

    def switch(self) -> None:
        """Load CR3."""
        self.now = self.chance.randrange(2)
        self.guest(f"mov ${self.spaces[self.now].root},%eax; mov %{{r}}ax,%cr3")
        for page, known in self.may_hold.items():
            self.may_hold[page] = {one for one in known if one.flags & GLOBAL} | {self.translation(page)}

    def toggle(self) -> None:
        """Switch global pages off and on."""
        self.guest(f"mov %cr4,%{{r}}ax; xor ${PGE},%eax; mov %{{r}}ax,%cr4; xor ${PGE},%eax; mov %{{r}}ax,%cr4")
        self.forget_all()

    def move(self) -> None:
        """The hypervisor puts a frame's content elsewhere."""
        machine = self.machine
        first, second = (gpa >> 12 for gpa in self.chance.sample(FRAMES, 2))
        machine.leaf[first], machine.leaf[second] = machine.leaf[second], machine.leaf[first]
        first, second = first << 12, second << 12
        self.values[first], self.values[second] = self.values[second], self.values[first]
        machine.engine.flush_tlb()
        self.forget_all()

    def write_from_outside(self) -> None:
        """Somebody else changes memory that may hold code."""
        gpa = self.chance.choice(list(self.values))
        self.values[gpa] = self.chance.getrandbits(31)
        self.machine.write(gpa + 1, struct.pack("<I", self.values[gpa]))

    def load_segments(self, cpl: int) -> None:
        """Change the ring, and nothing else."""
        machine = self.machine
        cr3, cr4 = machine.registers.word(state.CR3), machine.registers.word(state.CR4)
        forget = machine.block["registers_loaded"]
        is_long = self.mode is Mode.LONG
        code = (48 if cpl else 16) if is_long else (32 if cpl else 8)
        machine.load_segment(state.CS, code | cpl)
        for segment in (state.SS, state.DS, state.ES):
            machine.load_segment(segment, (40 if cpl else 24) | cpl)
        state.update_hflags(machine.block["env"], cpl)
        machine.registers[4] = 0x18_8000 if cpl else 0x10_8000
        assert (cr3, cr4, forget) == (machine.registers.word(state.CR3), machine.registers.word(state.CR4), forget)

    def access(self) -> None:
        """The guest reads, writes or executes."""
        machine = self.machine
        page = self.chance.choice([*PAGES, *IN_REGION])
        access, cpl = self.chance.choice(list(STUBS)), self.chance.choice([0, 3])
        value = self.chance.getrandbits(31)
        self.load_segments(cpl)
        number = list(STUBS).index(access)
        machine.registers.rip = (USER_CODE if cpl else CODE) + number * STUB_SIZE
        machine.registers[RDI], machine.registers[RSI] = page, value
        end = machine.go()
        known = self.may_hold[page]
        if end.kind == "exception":
            assert end.vector == PF
            assert any(not one.permits(access, cpl) for one in known), (page, access, cpl, known)
            return
        assert end.kind == "vmcall", end
        usable = [one for one in known if one.permits(access, cpl)]
        assert usable, (hex(page), access, cpl, known)
        if access == "write":
            written = [
                gpa
                for gpa, old in self.values.items()
                if machine.read(gpa + 1, 4) == struct.pack("<I", value) and old != value
            ]
            assert len(written) == 1 and written[0] in {one.gpa for one in usable}, (written, usable)
            self.values[written[0]] = value
        else:
            assert machine.registers[RAX] in {self.values[one.gpa] for one in usable}, (access, usable)

    def step(self) -> None:
        """One of them."""
        steps = [self.map, self.map, self.map_region, self.invlpg, self.switch, self.toggle, self.move]
        steps += [self.write_from_outside, *[self.access] * 9]
        self.chance.choice(steps)()
        self.remember()
        if self.chance.random() < 0.02:
            # Nothing is kept now but what the tables say: then there is one answer.
            self.toggle()


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("mode", [Mode.SHORT, Mode.PAE, Mode.LONG], ids=lambda mode: mode.name)
def test_translations(native: None, mode: Mode, seed: int) -> None:
    model = Model(mode, seed)
    for _ in range(STEPS):
        model.step()
    assert model.machine.others_are_untouched()
    model.machine.close()
