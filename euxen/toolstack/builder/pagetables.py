"""The initial page tables of a PV guest. Source: alloc_pgtables_pv and setup_pgtables_pv in xg_dom_x86.c.

A mapping is a range of virtual addresses onto consecutive pfns. Its tables are laid out level by level,
the top first; tables that two mappings share, as the top always is, belong to the first.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import dataclass, field

from euxen.toolstack.builder.space import PAGE_SHIFT, PAGE_SIZE

LEVELS = 4
ENTRIES = 512
ADDRESS_MASK = (1 << 48) - 1

PRESENT, RW, USER, ACCESSED, DIRTY = 0x01, 0x02, 0x04, 0x20, 0x40
L1_PROT = PRESENT | RW | ACCESSED
LN_PROT = PRESENT | RW | ACCESSED | DIRTY | USER


def _shift(level: int) -> int:
    """How many address bits an entry of a level covers."""
    return PAGE_SHIFT + 9 * (level - 1)


@dataclass
class Level:
    """The tables of one level of a mapping: those for addresses ``first`` to ``last``, from a pfn on."""

    first: int = 0
    last: int = -1
    pfn: int = 0
    tables: int = 0

    def holds(self, address: int) -> bool:
        """Whether the table for an address is among these."""
        return self.tables > 0 and self.first <= address <= self.last


@dataclass
class Mapping:
    """Virtual addresses ``start`` to ``end`` (inclusive) shown from pfn ``pfn`` on."""

    start: int
    end: int
    pfn: int
    levels: list[Level] = field(default_factory=lambda: [Level() for _ in range(LEVELS + 1)])

    @property
    def tables(self) -> int:
        """How many tables are the mapping's own."""
        return sum(level.tables for level in self.levels)


class PageTables:
    """The tables of all mappings of a guest."""

    def __init__(self) -> None:
        self.mappings: list[Mapping] = []

    def count(self, start: int, end: int, pfn: int, tables_at: int) -> Mapping:
        """A mapping with its tables laid out from pfn ``tables_at``, without adding it (count_pgtables)."""
        mapping = Mapping(start & ADDRESS_MASK, end & ADDRESS_MASK, pfn)
        for number in range(LEVELS, 0, -1):
            span = (1 << (_shift(number) + 9)) - 1
            level = mapping.levels[number]
            level.first, level.last = mapping.start & ~span, mapping.end | span
            for other in self.mappings:
                shared = other.levels[number]
                # The ranges of two mappings may touch in one table, which is the older one's.
                if shared.holds(level.first):
                    level.first = shared.last + 1
                if shared.holds(level.last):
                    level.last = shared.first - 1
            if number == LEVELS and self.mappings:
                level.first, level.last = 0, -1
            if level.first <= level.last:
                level.tables = (level.last - level.first + 1) >> (_shift(number) + 9)
                level.pfn = tables_at
                tables_at += level.tables
        return mapping

    def add(self, mapping: Mapping) -> None:
        """Let a mapping take part in ``write``."""
        self.mappings.append(mapping)

    def is_table(self, pfn: int) -> bool:
        """Whether a pfn holds one of the tables."""
        return any(level.pfn <= pfn < level.pfn + level.tables for mapping in self.mappings for level in mapping.levels)

    def _table(self, level: int, address: int) -> int:
        """The pfn of the table of a level for an address."""
        for mapping in self.mappings:
            tables = mapping.levels[level]
            if tables.holds(address):
                return tables.pfn + ((address - tables.first) >> (_shift(level) + 9))
        raise AssertionError("no table for an address that is mapped")

    @property
    def root(self) -> int:
        """The pfn of the top-level table."""
        return self._table(LEVELS, self.mappings[0].start)

    def write(self, p2m: memoryview, write_pfn: Callable[[int, bytes], None]) -> None:
        """Fill all tables in. Pages that hold tables are mapped read-only."""
        contents: dict[int, array.array[int]] = {}
        for mapping in self.mappings:
            for level in range(LEVELS, 1, -1):
                self._write_upper(mapping, level, p2m, contents)
            self._write_leaves(mapping, p2m, contents)
        for pfn, entries in contents.items():
            write_pfn(pfn, entries.tobytes())

    @staticmethod
    def _entries(contents: dict[int, array.array[int]], pfn: int) -> array.array[int]:
        if pfn not in contents:
            contents[pfn] = array.array("Q", bytes(PAGE_SIZE))
        return contents[pfn]

    def _write_upper(
        self, mapping: Mapping, level: int, p2m: memoryview, contents: dict[int, array.array[int]]
    ) -> None:
        step = 1 << _shift(level)
        address = mapping.start & ~(step - 1)
        while address <= mapping.end:
            below = p2m[self._table(level - 1, address)]
            entries = self._entries(contents, self._table(level, address))
            entries[address >> _shift(level) & ENTRIES - 1] = below << PAGE_SHIFT | LN_PROT
            address += step

    def _write_leaves(self, mapping: Mapping, p2m: memoryview, contents: dict[int, array.array[int]]) -> None:
        read_only = {
            pfn
            for other in self.mappings
            for level in other.levels
            for pfn in range(level.pfn, level.pfn + level.tables)
        }
        entries = array.array("Q")
        for number, address in enumerate(range(mapping.start, mapping.end + 1, PAGE_SIZE)):
            index = address >> PAGE_SHIFT & ENTRIES - 1
            if number == 0 or index == 0:
                entries = self._entries(contents, self._table(1, address))
            pfn = mapping.pfn + number
            prot = L1_PROT & ~RW if pfn in read_only else L1_PROT
            entries[index] = p2m[pfn] << PAGE_SHIFT | prot
