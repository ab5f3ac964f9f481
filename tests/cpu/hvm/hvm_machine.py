"""An HVM guest without a hypervisor: an engine, a p2m, and the tables with which a kernel would begin.

Guest frame n is not machine frame n, so whatever takes one for the other is found out. Each vector of the guest's IDT
leads to a VMCALL, and a VMCALL ends the run: so a test sees how its code ended.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from assembler import assemble

from euxen.cpu import cpuid, exits, state
from euxen.cpu.block import P2M_ENTRIES, P2M_EXECUTE, P2M_READ, P2M_WRITE, Answer
from euxen.cpu.cpuid import Leaf
from euxen.cpu.engine import ExitReason
from euxen.cpu.native.memory import Memory
from euxen.cpu.policy import PV_FEATURES, cpu_leaves
from euxen.cpu.registers import Registers
from euxen.cpu.unicorn.engine import UnicornEngine

PAGE = 4096
FRAMES = 4096
GUEST_FRAMES = 3072
"""Guest frames from 0 on. The machine's other frames belong to somebody else."""
SCRAMBLE = 0x2A5
SOMEBODY_ELSE = b"not yours "

CODE, USER_CODE, DATA, STACK_END, USER_STACK_END = 0x10_0000, 0x18_0000, 0x20_0000, 0x30_0000, 0x38_0000
GDT, IDT, TSS, STUBS, IST_END, KERNEL_STACK_END = 0x1000, 0x2000, 0x3000, 0x6000, 0xA000, 0xC000
TABLES, TABLES_END = 0x10_000, 0x40_000
"""Where page tables are made. All of this is mapped where it is."""

NULL, CODE32, CODE64, DATA0, USER32, USER_DATA, USER64, TSS_SELECTOR, LDT = (8 * n for n in range(9))
CALL_GATE = 0x50
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL, NX = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
PE, MP, ET, NE, WP, PG = 1, 2, 0x10, 0x20, 0x10000, 0x8000_0000
PSE, PAE, PGE, OSFXSR = 0x10, 0x20, 0x80, 0x200
SCE, LME, LMA, NXE = 1, 0x100, 0x400, 0x800
DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS, NP, SS, GP, PF = 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14
WITH_ERROR_CODE = {DF, TS, NP, SS, GP, PF}
PATIENCE = 20.0
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)


class Mode(enum.Enum):
    """How the guest translates addresses."""

    FLAT = "no paging"
    SHORT = "two levels"
    PAE = "three levels"
    LONG = "four levels"


PAGED = (Mode.SHORT, Mode.PAE, Mode.LONG)


@dataclass(frozen=True)
class End:
    """How a run ended."""

    kind: str
    """vmcall, exception, halted, triple fault, mmio, timeout."""
    vector: int = 0
    error_code: int = 0
    rip: int = 0
    cs: int = 0
    flags: int = 0
    rsp: int = 0
    ss: int = 0
    info: int = 0
    detail: int = 0


def segment(base: int, limit: int, flags: int) -> int:
    """A descriptor. ``flags`` are those of its second word; the limit is in pages where they have the granularity."""
    return (
        (limit & 0xFFFF)
        | (base & 0xFFFFFF) << 16
        | (flags & 0xF0FF00) << 32
        | (limit & 0xF0000) << 32
        | (base >> 24 & 0xFF) << 56
    )


def gate(selector: int, offset: int, kind: int = 0x8E00, stack: int = 0) -> bytes:
    """A gate of the IDT, of 16 bytes; the first 8 are one of 32-bit code."""
    low = (offset & 0xFFFF) | selector << 16 | (kind | stack) << 32 | (offset >> 16 & 0xFFFF) << 48
    return struct.pack("<QQ", low, offset >> 32)


SEGMENTS = [
    0,
    segment(0, 0xFFFFF, 0xC09B00),
    segment(0, 0xFFFFF, 0xA09B00),
    segment(0, 0xFFFFF, 0xC09300),
    segment(0, 0xFFFFF, 0xC0FB00),
    segment(0, 0xFFFFF, 0xC0F300),
    segment(0, 0xFFFFF, 0xA0FB00),
]


@dataclass
class Tables:
    """Page tables in the guest's memory."""

    machine: HvmMachine
    mode: Mode
    root: int = 0

    def __post_init__(self) -> None:
        self.root = self.machine.table_page()
        if self.mode is Mode.PAE:
            for number in range(4):
                self.machine.write(self.root + 8 * number, struct.pack("<Q", self.machine.table_page() | PRESENT))

    @property
    def entry_size(self) -> int:
        """In bytes."""
        return 4 if self.mode is Mode.SHORT else 8

    @property
    def shifts(self) -> list[int]:
        """Which bit of an address each level's index begins at, from the top."""
        return {Mode.SHORT: [22, 12], Mode.PAE: [30, 21, 12], Mode.LONG: [39, 30, 21, 12]}[self.mode]

    def entries(self, address: int, level: int = 1) -> list[int]:
        """Guest-physical addresses of the entries for an address, from the top down to a level; makes tables."""
        table, places = self.root, []
        for shift in self.shifts[: len(self.shifts) - level + 1]:
            count = 1024 if self.mode is Mode.SHORT else 512
            places.append(table + (address >> shift) % count * self.entry_size)
            entry = self.read(places[-1])
            if shift != self.shifts[len(self.shifts) - level]:
                if not entry & PRESENT:
                    entry = self.machine.table_page() | PRESENT | WRITABLE | USER
                    self.write(places[-1], entry)
                assert not entry & LARGE or (self.mode is Mode.PAE and shift == 30)
                table = entry & ADDRESS & (1 << self.entry_size * 8) - 1
        return places

    def read(self, place: int) -> int:
        """An entry at its guest-physical address."""
        return int.from_bytes(self.machine.read(place, self.entry_size), "little")

    def write(self, place: int, value: int) -> None:
        """Change an entry, as a store of the guest's would."""
        self.machine.write(place, value.to_bytes(self.entry_size, "little"))

    def map(self, address: int, gpa: int, flags: int = PRESENT | WRITABLE | USER, level: int = 1) -> int:
        """Map one page of a level; returns where its entry is."""
        place = self.entries(address, level)[-1]
        self.write(place, gpa | flags | (LARGE if level > 1 else 0))
        return place

    def map_range(self, start: int, end: int, flags: int = PRESENT | WRITABLE | USER) -> None:
        """Map small pages where they are."""
        for address in range(start, end, PAGE):
            self.map(address, address, flags)


@dataclass
class Answers:
    """What the handlers answer, and what they were asked."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    vectors: list[int] = field(default_factory=list)
    """Interrupts that pend."""
    msrs: dict[int, int] = field(default_factory=dict)
    cr_faults: bool = False
    mmio: dict[int, int] | None = None
    port_exit: bool = False
    ticks: int = 0


class HvmMachine:
    """The engine with its guest. The native library has to be loaded."""

    def __init__(self, mode: Mode = Mode.LONG, policy: Sequence[Leaf] | None = None) -> None:
        self._ram = mmap.mmap(-1, FRAMES * PAGE)
        self.memory = memoryview(self._ram)
        for frame in range(FRAMES):
            self.memory[frame * PAGE : frame * PAGE + len(SOMEBODY_ELSE)] = SOMEBODY_ELSE
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._ram))
        self.engine = UnicornEngine(address, FRAMES, hvm=True)
        self.block = self.engine.block
        self.registers = Registers(self.block)
        self.answers = Answers()
        self.mode = mode
        self._callbacks: list[Any] = []
        self._end: End | None = None
        self._next_table = TABLES
        self._make_p2m()
        self._install_handlers()
        leaves = list(cpu_leaves(PV_FEATURES) if policy is None else policy)
        self._policy = cpuid.install(leaves)
        self.block["cpuid"], self.block["cpuid_entries"] = self._policy.address, len(leaves)
        self.engine.set_features(leaves)
        self.write(0, bytes(GUEST_FRAMES * PAGE))
        self._make_tables()
        self.start()

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    # Guest-physical memory

    def _make_p2m(self) -> None:
        self._directory, self._leaf = Memory(P2M_ENTRIES * 8), Memory(P2M_ENTRIES * 8)
        self.leaf = self._leaf.words()
        self._directory.words()[0] = self._leaf.address
        for gfn in range(GUEST_FRAMES):
            self.leaf[gfn] = self.mfn(gfn) << 12 | P2M_READ | P2M_WRITE | P2M_EXECUTE
        self.block["p2m"] = self._directory.address

    @staticmethod
    def mfn(gfn: int) -> int:
        """Which machine frame a guest frame is at first."""
        return gfn ^ SCRAMBLE

    def set_p2m(self, gfn: int, entry: int) -> None:
        """Change the p2m as a hypervisor does."""
        self.leaf[gfn] = entry
        self.engine.flush_tlb()

    def _pieces(self, gpa: int, size: int) -> Iterable[tuple[int, int]]:
        while size:
            piece = min(size, PAGE - gpa % PAGE)
            yield (self.leaf[gpa >> 12] & ADDRESS) + gpa % PAGE, piece
            gpa, size = gpa + piece, size - piece

    def write(self, gpa: int, data: bytes) -> None:
        """Write guest memory from outside."""
        at = 0
        for machine, size in self._pieces(gpa, len(data)):
            self.memory[machine : machine + size] = data[at : at + size]
            self.engine.invalidate_code(machine, size)
            at += size

    def read(self, gpa: int, size: int) -> bytes:
        """Read guest memory."""
        return b"".join(bytes(self.memory[machine : machine + count]) for machine, count in self._pieces(gpa, size))

    def word(self, gpa: int) -> int:
        """A 64-bit word of guest memory."""
        return int.from_bytes(self.read(gpa, 8), "little")

    def others_are_untouched(self) -> bool:
        """Whether the machine's other frames are what they were."""
        others = set(range(FRAMES)) - {(self.leaf[gfn] & ADDRESS) >> 12 for gfn in range(GUEST_FRAMES)}
        expected = SOMEBODY_ELSE + bytes(PAGE - len(SOMEBODY_ELSE))
        return len(others) >= FRAMES - GUEST_FRAMES and all(
            self.memory[frame * PAGE : frame * PAGE + PAGE] == expected for frame in others
        )

    # The guest's tables

    def table_page(self) -> int:
        """A page for a page table."""
        assert self._next_table < TABLES_END
        self._next_table += PAGE
        return self._next_table - PAGE

    def _make_tables(self) -> None:
        is_long = self.mode is Mode.LONG
        tss = [segment(TSS, 0x1FFF, 0x008900), 0] if is_long else [segment(TSS, 0x1FFF, 0x008900)]
        self.write(GDT, struct.pack(f"<{len(SEGMENTS) + len(tss)}Q", *SEGMENTS, *tss))
        for vector in range(256):
            self.set_gate(vector, STUBS + vector * 16)
            self.write(STUBS + vector * 16, b"\x0f\x01\xc1")
        if is_long:
            self.write(TSS, struct.pack("<IQQQQQ", 0, KERNEL_STACK_END, 0, 0, 0, IST_END))
        else:
            self.write(TSS, struct.pack("<III", 0, KERNEL_STACK_END, DATA0))
        self.write(TSS + 0x66, struct.pack("<H", 0x68))
        self.write(TSS + 0x68, b"\xff" * 0x1F98)
        self.tables = Tables(self, self.mode) if self.mode is not Mode.FLAT else None
        if self.tables is not None:
            self.tables.map_range(0, 0x40_0000)

    def set_gate(self, vector: int, offset: int, kind: int = 0x8E00, stack: int = 0, selector: int = 0) -> None:
        """Write a gate of the IDT."""
        if self.mode is Mode.LONG:
            self.write(IDT + vector * 16, gate(selector or CODE64, offset, kind, stack))
        else:
            self.write(IDT + vector * 8, gate(selector or CODE32, offset, kind)[:8])

    @property
    def paging(self) -> Tables:
        """The page tables that CR3 names at first."""
        assert self.tables is not None
        return self.tables

    # Registers

    def start(self, cpl: int = 0, flags: int = 2) -> None:
        """Registers as a kernel, or a program, has them that was set up."""
        registers = self.registers
        for number in range(16):
            registers[number] = 0
        is_long = self.mode is Mode.LONG
        registers.rflags = flags
        registers.set_word(state.CR0, PE | ET | NE | WP | (0 if self.mode is Mode.FLAT else PG))
        registers.set_word(state.CR4, OSFXSR | PGE | PSE | (PAE if self.mode in (Mode.PAE, Mode.LONG) else 0))
        registers.set_word(state.EFER, NXE | SCE | (LME | LMA if is_long else 0))
        registers.set_word(state.CR3, self.tables.root if self.tables else 0)
        registers.set_word(state.CR2, 0)
        env = self.block["env"]
        code = (USER64 if is_long else USER32) if cpl else (CODE64 if is_long else CODE32)
        data = USER_DATA if cpl else DATA0
        self.load_segment(state.CS, code | cpl)
        for number in (state.SS, state.DS, state.ES, state.FS, state.GS):
            self.load_segment(number, data | cpl)
        state.set_segment(env, state.LDTR, 0, 0, 0, 0)
        state.set_segment(env, state.TR, TSS_SELECTOR, TSS, 0x1FFF, 0x8B00)
        state.set_segment(env, state.GDTR, 0, GDT, 0x7F, 0)
        state.set_segment(env, state.IDTR, 0, IDT, 0xFFF, 0)
        registers.rip = USER_CODE if cpl else CODE
        registers[RSP] = USER_STACK_END if cpl else STACK_END
        state.init_fpu(env, 0x37F, 0x1F80)
        self.call("registers_loaded")

    def load_segment(self, segment_register: int, selector: int) -> None:
        """Put one of ``SEGMENTS`` into a segment register."""
        flags = SEGMENTS[selector >> 3] >> 32 & 0xF0FF00
        state.set_segment(self.block["env"], segment_register, selector, 0, 0xFFFF_FFFF, flags)

    def call(self, name: str, *arguments: int) -> int:
        """Call one of the engine's functions in the block."""
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, *[ctypes.c_int64] * len(arguments))
        return int(kind(self.block[name])(self.block.address, *arguments))

    # Running

    def run(self, source: str | bytes, cpl: int = 0, flags: int = 2, bits: int | None = None) -> End:
        """Execute code from fresh registers."""
        self.start(cpl, flags)
        self.place(source, USER_CODE if cpl else CODE, bits)
        return self.resume()

    def place(self, source: str | bytes, address: int, bits: int | None = None) -> None:
        """Put code somewhere."""
        width = bits or (64 if self.mode is Mode.LONG else 32)
        self.write(address, assemble(source, width, address) if isinstance(source, str) else source)

    def resume(self) -> End:
        """Go on from where the registers are."""
        alarm = threading.Timer(PATIENCE, self.engine.kick)
        alarm.start()
        try:
            return self.go()
        finally:
            alarm.cancel()

    def go(self) -> End:
        """The same; nobody stops code that does not end."""
        self._end = None
        self.block["exit_reason"] = 0
        reason = self.engine.run()
        if self._end is not None:
            return self._end
        info, detail = self.block["exit_info"], self.block["exit_detail"]
        kinds = {ExitReason.TRIPLE_FAULT: "triple fault", ExitReason.MMIO: "mmio", ExitReason.BLOCKED: "halted"}
        return End(kinds.get(reason, "timeout"), rip=self.registers.rip, info=info, detail=detail)

    def _install_handlers(self) -> None:
        handlers: dict[str, tuple[int, Callable[..., int]]] = {
            "on_interrupt": (1, lambda block: self._interrupt()),
            "on_tsc": (1, lambda block: self.answers.ticks),
            "on_vmcall": (1, lambda block: self._vmcall()),
            "on_cr_write": (3, lambda block, register, value: self._cr_write(register, value)),
            "on_cr8_read": (1, lambda block: 5),
            "on_rdmsr": (2, lambda block, msr: self._rdmsr(msr)),
            "on_wrmsr": (3, lambda block, msr, value: self._wrmsr(msr, value & (1 << 64) - 1)),
            "on_hlt": (1, lambda block: self._exit(ExitReason.BLOCKED)),
            "on_port": (5, lambda block, port, size, write, value: self._port(port, size, write, value)),
            "on_mmio": (5, lambda block, gpa, size, write, value: self._mmio(gpa, size, write, value)),
            "pending_vector": (1, lambda block: self._pending()),
        }
        for name, (arity, handler) in handlers.items():
            callback = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(handler)
            self._callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p).value
            assert address is not None
            self.block[name] = address

    def _exit(self, reason: ExitReason) -> int:
        exits.request_exit(self.block.address, int(reason), 0)
        return int(Answer.EXIT)

    def _interrupt(self) -> int:
        return 0 if self.block["exit_reason"] else self._exit(ExitReason.DEADLINE)

    def _pending(self) -> int:
        return self.answers.vectors.pop(0) if self.answers.vectors else -1

    def _vmcall(self) -> int:
        registers = self.registers
        if not STUBS <= registers.rip < STUBS + 256 * 16:
            self._end = End("vmcall", rip=registers.rip, flags=registers.rflags)
            self._exit(ExitReason.HYPERCALL)
            return int(Answer.DONE)
        vector = (registers.rip - STUBS) // 16
        size = 8 if registers.long_mode else 4
        words = [self._linear(registers[RSP] + size * number, size) for number in range(6)]
        error_code = words.pop(0) if vector in WITH_ERROR_CODE else 0
        rip, cs, flags, rsp, ss = words[:5]
        if not registers.long_mode and cs & 3 == 0:
            rsp, ss = registers[RSP] + size * (3 + (vector in WITH_ERROR_CODE)), 0
        self._end = End("exception", vector, error_code, rip, cs & 0xFFFF, flags, rsp, ss & 0xFFFF)
        return self._exit(ExitReason.HYPERCALL)

    def _linear(self, address: int, size: int) -> int:
        host = self.call("translate", address, 0)
        return int.from_bytes(ctypes.string_at(host, size), "little") if host else -1

    def _cr_write(self, register: int, value: int) -> int:
        self.answers.asked.append(("cr", register, value & (1 << 64) - 1))
        if self.answers.cr_faults:
            return GP
        if register != 8:
            self.call("load_cr", register, value)
        return int(Answer.DONE)

    def _rdmsr(self, msr: int) -> int:
        msr &= 0xFFFF_FFFF
        if msr not in self.answers.msrs:
            return GP
        value = self.answers.msrs[msr]
        self.registers[RAX], self.registers[RDX] = value & 0xFFFF_FFFF, value >> 32
        return int(Answer.DONE)

    def _wrmsr(self, msr: int, value: int) -> int:
        self.answers.asked.append(("wrmsr", msr & 0xFFFF_FFFF, value))
        if msr & 0xFFFF_FFFF == 0xC000_0080:
            self.call("load_efer", value)
        elif msr & 0xFFFF_FFFF not in self.answers.msrs:
            return GP
        self.answers.msrs[msr & 0xFFFF_FFFF] = value
        return int(Answer.DONE)

    def _port(self, port: int, size: int, write: int, value: int) -> int:
        self.answers.asked.append(("port", port, size, write, value))
        return self._exit(ExitReason.EMULATE) if self.answers.port_exit else 0x1234_5678 & (1 << size * 8) - 1

    def _mmio(self, gpa: int, size: int, write: int, value: int) -> int:
        if self.answers.mmio is None:
            return 0
        self.answers.asked.append(("mmio", gpa, size, write, value & (1 << size * 8) - 1 if write else 0))
        if write:
            self.answers.mmio[gpa] = value & (1 << size * 8) - 1
        else:
            self.block["mmio_value"] = self.answers.mmio.get(gpa, (1 << 64) - 1)
        return 1
