"""A machine whose page tables change all the time, and a model of what an x86 CPU may make of them.

The tables are few and shared between places, and the pages are chosen so that they meet in the TLBs: so a
short sequence of changes brings about what is rare in a guest. A CPU may use a translation from the moment
when the tables say it until it is flushed: the model remembers all of them for every page.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from assembler import assemble
from bare import CODE, MEMORY, PAGE_FAULT, PML4, SYSCALL, BareEngine, Outcome

from euxen.cpu import state
from euxen.cpu.native.language import signed, unsigned
from euxen.cpu.unicorn import tlb

PAGE = 4096
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000

KERNEL, PROGRAM = 1, 3
"""Who accesses memory: the CPL."""

SLOTS = {4: (1, 300), 3: (0,), 2: (0, 1, 8), 1: (0, 1, 511)}
"""Entries that change. 8 entries of level 2 map as many pages as the kernel's TLB has places, so two pages meet."""
FILLED = range(2, 510)
"""Entries of every level 1 table that are always the same: for accesses in bulk."""
POOL = {4: 2, 3: 2, 2: 3, 1: 4}
"""How many tables there are of each level."""
FRAMES = 6

FIRST_TABLE = 0x900
NUMBER, DATA, ENTER, VALUE, CROSS = 0xFF0, 0x800, 0x10, 0x11, 0xFFE
"""Where a frame, and also a table, has its number; where a frame has a word to write to, code that returns a
value, and code that runs into the next frame."""

STUBS = {
    "read": "mov (%rdi),%rax; syscall",
    "write": "mov %rsi,(%rdi); syscall",
    "write32": "mov %esi,(%rdi); syscall",
    "xchg": "mov %rsi,%rax; xchg %rax,(%rdi); syscall",
    "add": "mov %rsi,%rax; lock xadd %rax,(%rdi); syscall",
    "execute": "call *%rdi; syscall",
    "read_all": "1: mov (%rdi),%rax; add $4096,%rdi; dec %ecx; jnz 1b; syscall",
    "write_all": "1: mov %rsi,(%rdi); add $4096,%rdi; dec %ecx; jnz 1b; syscall",
    "execute_all": "1: call *%rdi; add $4096,%rdi; dec %ecx; jnz 1b; syscall",
}
STUB_SIZE = 64


@dataclass(frozen=True)
class Translation:
    """What a TLB could hold for a page."""

    frame: int
    writable: bool
    executable: bool

    def permits(self, access: str) -> bool:
        """Whether an access of a kind (read, write, execute) may be made."""
        return access == "read" or (self.writable if access == "write" else self.executable)


def linear(*slots: int) -> int:
    """The address of the page that the entries 4 to 1 lead to, as native code has it."""
    address = 0
    for slot in slots:
        address = address << 9 | slot
    return signed((address << 12) | (0xFFFF << 48 if slots[0] >= 256 else 0))


PAGES = [linear(*slots) for slots in itertools.product(*(SLOTS[level] for level in (4, 3, 2, 1)))]
PAGES += [page + 4096 for page in PAGES if page + 4096 not in PAGES]
LINEAR_PAGES = [linear(*slots) for slots in itertools.product((1, 300), repeat=4)]
"""Where page tables are seen that a top-level table contains as if it were a lower one."""
PAGES += LINEAR_PAGES


class PagedEngine(BareEngine):
    """The machine. ``changed`` keeps the model up to date: no table is written by other means."""

    def __init__(self) -> None:
        super().__init__()
        words = self.memory.cast("Q")
        self.words = words
        frames = itertools.count(FIRST_TABLE)
        self.tables = {level: [next(frames) for _ in range(count)] for level, count in POOL.items()}
        self.frames = [next(frames) for _ in range(FRAMES + 1)]
        self.filler = self.frames.pop()
        self.roots = {KERNEL: self.tables[4][0], PROGRAM: self.tables[4][0]}
        self.may_hold: dict[tuple[int, int], set[Translation]] = {
            (who, page): set() for who in (KERNEL, PROGRAM) for page in PAGES
        }
        self.bits_may_be_stale = False
        """Accessed or dirty bits were cleared, and there was no flush."""
        self._value = 0x1000
        self._write_stubs()
        self._fill()
        self.reset()

    def _write_stubs(self) -> None:
        self.stubs: dict[str, int] = {}
        code = b""
        for number, (name, source) in enumerate(STUBS.items()):
            self.stubs[name] = CODE + number * STUB_SIZE
            code += assemble(source, 64, CODE + number * STUB_SIZE).ljust(STUB_SIZE, b"\xcc")
        self.place(CODE, code)

    def _fill(self) -> None:
        for frame in (*self.frames, self.filler):
            start = frame * PAGE
            struct.pack_into("<3sB", self.memory, start, frame.to_bytes(3, "little"), 0xC3)
            struct.pack_into("<BIB", self.memory, start + ENTER, 0xB8, frame, 0xC3)
            struct.pack_into("<BB", self.memory, start + CROSS, 0xB8, frame & 0xFF)
        for frame in range(FIRST_TABLE, self.filler + 1):
            self.words[frame * 512 + NUMBER // 8] = frame * PAGE  # in a table, a page that is not present
        for table in self.tables[4]:
            self.words[table * 512] = self.words[PML4 // 8]
        for table in self.tables[1]:
            for slot in FILLED:
                self.words[table * 512 + slot] = self.filler * PAGE | PRESENT | WRITABLE | USER

    def close(self) -> None:
        """Free the engine."""
        self.words.release()
        super().close()

    # Page tables

    def entry(self, level: int, table: int, slot: int) -> int:
        """An entry of the ``table``-th table of a level."""
        return int(self.words[self.tables[level][table] * 512 + slot])

    def set_entry(self, level: int, table: int, slot: int, value: int) -> None:
        """Change an entry as the hypervisor does."""
        at = self.tables[level][table] * 512 + slot
        old = int(self.words[at])
        self.words[at] = value
        if old & PRESENT:
            tlb.entry_changed(self.engine.block.address, self.engine.block["ram"] + at * 8, signed(old), level)
        self.bits_may_be_stale |= bool(old & ~value & (ACCESSED | DIRTY))
        self._remember()

    def target(self, level: int, number: int) -> int:
        """The frame that an entry of this level names by a small number: a table of the level below, or memory."""
        return self.frames[number % FRAMES] if level == 1 else self.tables[level - 1][number % POOL[level - 1]]

    def wire(self) -> None:
        """Map everything somewhere, so that a test need not begin with nothing."""
        for level, count in POOL.items():
            for table in range(count):
                for number, slot in enumerate(SLOTS[level]):
                    frame = self.target(level, table + number)
                    self.set_entry(level, table, slot, frame * PAGE | PRESENT | WRITABLE | USER)
        for who in (KERNEL, PROGRAM):
            self.switch(who, 0)

    def path(self, root: int, page: int) -> Iterator[tuple[int, int]]:
        """Where the entries for a page are, and what they say, up to one that is not present."""
        table = root
        for shift in (39, 30, 21, 12):
            at = table * 512 + (page >> shift & 511)
            entry = int(self.words[at])
            yield at, entry
            if not entry & PRESENT:
                return
            table = (entry & ADDRESS) // PAGE

    def translation(self, who: int, page: int) -> Translation | None:
        """What the tables say now."""
        entries = [entry for _, entry in self.path(self.roots[who], page)]
        if len(entries) < 4 or not entries[-1] & PRESENT:
            return None
        writable = all(entry & WRITABLE for entry in entries)
        executable = not any(entry & NX for entry in entries)
        return Translation((entries[-1] & ADDRESS) // PAGE, writable, executable)

    def _remember(self) -> None:
        for (who, page), known in self.may_hold.items():
            now = self.translation(who, page)
            if now is not None:
                known.add(now)

    def _forget(self, pages: list[int], whose: tuple[int, ...] = (KERNEL, PROGRAM)) -> None:
        for who in whose:
            for page in pages:
                now = self.translation(who, page)
                self.may_hold[who, page] = {now} if now else set()

    # What the hypervisor asks of the engine

    def flush(self) -> None:
        """Everything that the tables do not bear out any more is forgotten."""
        tlb.flush(self.engine.block.address)
        self._forget(PAGES)
        self.bits_may_be_stale = False

    def invalidate_page(self, page: int) -> None:
        """INVLPG."""
        tlb.flush_page(self.engine.block.address, page + 0x123)
        self._forget([page])

    def switch(self, who: int, number: int) -> None:
        """Another address space. The kernel's flushes everything."""
        self.roots[who] = self.tables[4][number]
        switch = tlb.switch_root if who == KERNEL else tlb.switch_user_root
        switch(self.engine.block.address, self.roots[who] * PAGE)
        self._remember()
        self._forget(PAGES, (KERNEL, PROGRAM) if who == KERNEL else (PROGRAM,))
        self.bits_may_be_stale &= who == PROGRAM

    def take_from_guest(self, frame: int) -> None:
        """No table maps a frame writable any more, and it becomes what no guest may write: no TLB may let it."""
        for table in range(POOL[1]):
            for slot in SLOTS[1]:
                entry = self.entry(1, table, slot)
                if entry & (ADDRESS | PRESENT | WRITABLE) == frame * PAGE | PRESENT | WRITABLE:
                    self.set_entry(1, table, slot, entry & ~WRITABLE)
        tlb.forget_frame(self.engine.block.address, frame)
        for key, known in self.may_hold.items():
            self.may_hold[key] = {
                Translation(one.frame, one.writable and one.frame != frame, one.executable) for one in known
            }

    # What the guest does

    def access(self, stub: str, who: int, address: int, value: int = 0, count: int = 0) -> Outcome:
        """Let the guest make an access. The result is in RAX."""
        registers = self.registers
        state.update_hflags(self.engine.block["env"], who)
        registers.rip, registers[4] = self.stubs[stub], MEMORY // 2 - 64
        registers[7], registers[6], registers[1] = unsigned(address), value, count
        outcome = self.go()
        assert outcome.kind in (SYSCALL, PAGE_FAULT), outcome
        return outcome

    def next_value(self) -> int:
        """A number that was not used before."""
        self._value += 1
        return self._value

    def number_in(self, frame: int, offset: int, size: int = 8) -> int:
        """A number in memory."""
        return int.from_bytes(self.memory[frame * PAGE + offset : frame * PAGE + offset + size], "little")

    def dirty(self, who: int, page: int) -> bool:
        """Whether the last entry for a page is marked as written to."""
        return bool(list(self.path(self.roots[who], page))[-1][1] & DIRTY)

    def accessed(self, who: int, page: int) -> bool:
        """Whether all entries for a page are marked as used."""
        return all(entry & ACCESSED for _, entry in self.path(self.roots[who], page))
