"""One physical host: its memory, its clock, its domains.

RAM is one sparse memfd, mapped once. Frames below ``first_frame`` are Xen's own: the machine-to-physical
table and the page tables that show it to guests.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

from euxen.abi.domctl import XEN_SCHEDULER_NULL
from euxen.abi.xen import DOMID_FIRST_RESERVED
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor.clock import HostClock, now
from euxen.hypervisor.console import XenConsole
from euxen.hypervisor.mm import heap
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.xen_slots import FIRST_XEN_SLOT, LAST_XEN_SLOT
from euxen.hypervisor.records import PAGE_SIZE as PAGE_SIZE
from euxen.hypervisor.records import MachineRecord, PageInfo

SCHEDULER_ID = XEN_SCHEDULER_NULL
"""Each domain has a CPU of its own: a thread, which the host schedules."""
MIN_MEMORY = 8 << 20
DEFAULT_TSC_KHZ = 2_000_000
FRAMES_AT_ONCE = 4096
"""So many are given back to the host, which takes some ms, before others get their turn."""
MOMENT = 0.0002
"""In seconds: as long as it takes to wake somebody."""

# Page-table entries of Xen's own tables: present, accessed, user-accessible; superpages carry PSE and D.
XEN_TABLE = 0x025
XEN_SUPERPAGE_RO = 0x0A5 | 1 << 63
SUPERPAGE = 2 << 20


class OutOfMemory(Exception):
    """The machine has no free frame left."""


class Machine:
    """A host with ``memory`` bytes of RAM."""

    def __init__(self, memory: int, tsc_khz: int = DEFAULT_TSC_KHZ) -> None:
        self.frames = max(memory, MIN_MEMORY) // PAGE_SIZE
        self._ram = self._map_ram(self.frames * PAGE_SIZE)
        self.ram = memoryview(self._ram)
        self.ram_address = ctypes.addressof(ctypes.c_char.from_buffer(self._ram))
        self.frame_table = Memory(self.frames * PageInfo.size)
        self._heap = Memory(-(-self.frames // 64) * 8)
        self._xen_slots = Memory((LAST_XEN_SLOT - FIRST_XEN_SLOT + 1) * 8)
        self._domain_list = Memory(DOMID_FIRST_RESERVED * 8)
        self._write_windows = Memory(self.frames * 8)
        self.record = Record(MachineRecord)
        self.clock = HostClock()
        self.tsc_khz = tsc_khz
        self.pcpus = len(os.sched_getaffinity(0))
        """How many CPUs there are."""
        self._fill_record()
        self._make_m2p()
        self.evtchn_buckets: list[Memory] = []
        """Records of event channels that no domain has now; see ``event_channel``."""
        self.lock = threading.RLock()
        """Held by whoever changes more than one domain, or any domain from Python."""
        self.changed = threading.Condition(self.lock)
        """Notified when a domain may run, or runs no more."""
        self.console = XenConsole()

    @staticmethod
    def _map_ram(size: int) -> mmap.mmap:
        """Memory that costs nothing before it is written to. Its file can be handed to another process."""
        file = os.memfd_create("euxen-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(file, size)
            return mmap.mmap(file, size, mmap.MAP_SHARED)
        finally:
            os.close(file)

    def _fill_record(self) -> None:
        record = self.record
        record["ram"], record["frames"] = self.ram_address, self.frames
        record["frame_table"] = self.frame_table.address
        record["heap"], record["heap_words"] = self._heap.address, self._heap.size // 8
        record["xen_slots"] = self._xen_slots.address
        record["domain_list"] = self._domain_list.address
        record["write_windows"] = self._write_windows.address
        record["tsc_mul"] = (self.tsc_khz << 32) // 1_000_000
        record["tsc_to_ns_mul"] = (1_000_000 << 32) // self.tsc_khz
        self.clock.install(record)

    def _make_m2p(self) -> None:
        """Make the machine-to-physical table, and the page tables that show it read-only in slot 256."""
        table_frames = -(-self.frames * 8 // SUPERPAGE) * (SUPERPAGE // PAGE_SIZE)
        # Superpages have to be aligned, and frame 0 is never handed out: 0 means "none" in many places.
        first = SUPERPAGE // PAGE_SIZE
        l3, l2 = 1, 2
        heap.add_frames(self.record.address, first + table_frames, self.frames - first - table_frames)
        self.record["m2p"] = self.ram_address + first * PAGE_SIZE
        entries = memoryview(self._ram).cast("Q")
        self.m2p = entries[first * 512 : first * 512 + self.frames]
        libc = ctypes.CDLL(None)
        libc.memset(ctypes.c_void_p(self.record["m2p"]), 0xFF, ctypes.c_size_t(self.frames * 8))
        entries[l3 * 512] = l2 * PAGE_SIZE | XEN_TABLE
        for number in range(table_frames * PAGE_SIZE // SUPERPAGE):
            entries[l2 * 512 + number] = (first * PAGE_SIZE + number * SUPERPAGE) | XEN_SUPERPAGE_RO
        self._xen_slots.words()[0] = l3 * PAGE_SIZE | XEN_TABLE

    def give_m2p(self, owner: int) -> None:
        """Have a system domain own the machine-to-physical table: privileged domains may map it, but not writable.

        share_xen_page_with_privileged_guests.
        """
        words = self.frame_table.words()
        table = (self.record["m2p"] - self.ram_address) // PAGE_SIZE
        for frame in range(table, table + -(-self.frames * 8 // PAGE_SIZE)):
            base = frame * (PageInfo.size // 8)
            words[base] = (pg.PGC_xen_heap | pg.PGC_allocated | 1) & (1 << 64) - 1
            words[base + 1] = (pg.PGT_none | pg.PGT_validated | 1) & (1 << 64) - 1
            words[base + 2] = owner

    def m2p_frames(self) -> list[int]:
        """The first frame of each 2 MiB of the machine-to-physical table."""
        first = (self.record["m2p"] - self.ram_address) // PAGE_SIZE
        return list(range(first, first + -(-self.frames * 8 // PAGE_SIZE), SUPERPAGE // PAGE_SIZE))

    def frame(self, number: int) -> memoryview:
        """The contents of a machine frame."""
        return self.ram[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]

    def heap_words(self) -> memoryview:
        """The heap's bits: a word for 64 frames, a bit set for each that is free."""
        return self._heap.words()

    def printk(self, line: str) -> None:
        """Log a line on Xen's console."""
        self.console.printk(line)

    def free_frames_between(self, first: int, end: int) -> int:
        """How many frames from ``first`` on and below ``end`` are free."""
        if (first, end) == (0, self.frames):
            return self.record["free_pages"]
        bits = int.from_bytes(self._heap.view, "little")
        return (bits >> first & (1 << max(end - first, 0)) - 1).bit_count()

    def now(self) -> int:
        """System time, in ns since the machine was made."""
        return now(self.record.address)

    def tsc_now(self) -> int:
        """The time stamp counter of the machine."""
        return self.now() * self.record["tsc_mul"] >> 32

    def allocate_run(self, order: int, domain: int = 0) -> int | None:
        """Take ``2 ** order`` frames in a row that belong to nobody; the first, or None if there are none.

        ``domain`` is the record of a domain that will have them, and that may have claimed them.
        """
        first = heap.alloc_for(self.record.address, domain, order)
        return first if first != heap.NONE else None

    def set_pfns(self, first: int, pfn: int, count: int) -> None:
        """Say in the machine-to-physical table that frames are those of the pfns from ``pfn`` on."""
        for number in range(count):
            self.m2p[first + number] = pfn + number & (1 << 64) - 1

    def let_others(self) -> None:
        """For who has the lock for long: give it to others for a moment, with all that it guards in order."""
        with self.lock:
            self.changed.wait(MOMENT)

    def return_free_memory(self) -> None:
        """Give the host back what free frames take; nobody has to clear them then. Others get their turn meanwhile."""
        machine = self.record.address
        frame = heap.next_dirty(machine, 0)
        while frame != heap.NONE:
            count = heap.take_dirty(machine, frame, FRAMES_AT_ONCE)
            if count:
                self._ram.madvise(mmap.MADV_REMOVE, frame * PAGE_SIZE, count * PAGE_SIZE)
                heap.give_cleared(machine, frame, count)
            if count == FRAMES_AT_ONCE:
                self.let_others()
            frame = heap.next_dirty(machine, frame + count)

    def alloc_xen_frame(self) -> int:
        """Take a zeroed frame for Xen's own use. Raises OutOfMemory."""
        number = self.allocate_run(0)
        if number is None:
            raise OutOfMemory
        return number


def cache_directory() -> Path:
    """Where compiled code is kept between runs: $XDG_CACHE_HOME/euxen."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "euxen"
