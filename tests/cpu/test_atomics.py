"""Locked instructions: the same results as the host's, and atomic to everybody who shares the memory."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from assembler import assemble
from bare import CODE, DATA, PAGE_DIRECTORY, PAGE_FAULT, PATIENCE, SUPERPAGE, SYSCALL, TRAP, BareEngine, Outcome
from host import HostCode
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.cpu import state
from euxen.cpu.policy import PV_FEATURES, cpu_leaves

POLICY = cpu_leaves(PV_FEATURES)
SUFFIXES = {8: "b", 16: "w", 32: "l", 64: "q"}
OPERAND = {8: "%bl", 16: "%bx", 32: "%ebx", 64: "%rbx"}
PAGE = 4096
RAX, RCX, RDX, RBX, RSI, RDI = 0, 1, 2, 3, 6, 7
GENERAL_PROTECTION = 13

TWO_OPERANDS = ("add", "adc", "sub", "sbb", "and", "or", "xor", "xadd", "cmpxchg")
ONE_OPERAND = ("inc", "dec", "neg", "not")
BIT_TESTS = ("bts", "btr", "btc")


def instruction(name: str, bits: int, lock: str = "lock") -> str:
    """One that changes the operand at (%rdi), and may use RAX, RBX, RCX and RDX."""
    if name == "xchg":
        return f"xchg {OPERAND[bits]},(%rdi)"
    if name in ("cmpxchg8b", "cmpxchg16b"):
        return f"{lock} {name} (%rdi)"
    if name in ONE_OPERAND:
        return f"{lock} {name}{SUFFIXES[bits]} (%rdi)"
    # Bit tests with a register reach beyond the operand: the number is kept below its width.
    limit = f"and ${bits - 1},%rbx;" if name in BIT_TESTS else ""
    return f"{limit} {lock} {name}{SUFFIXES[bits]} {OPERAND[bits]},(%rdi)"


INSTRUCTIONS = [
    *((name, bits) for name in (*TWO_OPERANDS, *ONE_OPERAND, "xchg") for bits in SUFFIXES),
    *((name, bits) for name in BIT_TESTS for bits in (16, 32, 64)),
    ("cmpxchg8b", 64),
    ("cmpxchg16b", 128),
]
IDS = [f"{name}-{bits}" for name, bits in INSTRUCTIONS]


@pytest.fixture(scope="module")
def engine(native: None) -> Iterator[BareEngine]:
    engine = BareEngine(POLICY)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def other(engine: BareEngine) -> Iterator[BareEngine]:
    """Another guest's CPU, on the same memory."""
    other = BareEngine(POLICY, shared=engine)
    yield other
    other.close()


# ---- The results ----

BEFORE_AND_AFTER = struct.Struct("<6Q")
"""The operand's address, flags, RAX, RBX, RCX and RDX."""
AROUND = """
    mov %rdi,%rsi
    mov (%rsi),%rdi
    push 8(%rsi)
    popf
    mov 16(%rsi),%rax; mov 24(%rsi),%rbx; mov 32(%rsi),%rcx; mov 40(%rsi),%rdx
    {}
    pushf
    mov %rax,16(%rsi); mov %rbx,24(%rsi); mov %rcx,32(%rsi); mov %rdx,40(%rsi)
    pop 8(%rsi)
"""
BLOCK = DATA
OPERANDS = DATA + 2 * PAGE
"""The end of one page and the beginning of another."""
REACH = 32
"""How many bytes on both sides of it are looked at."""

# Which flags are undefined; and the translator takes those of a locked NEG from the operand instead of the result.
UNCERTAIN = {
    **dict.fromkeys(("and", "or", "xor"), state.AF),
    **dict.fromkeys(BIT_TESTS, state.OF | state.SF | state.AF | state.PF),
    "neg": state.ARITHMETIC & ~state.CF & ~state.ZF,
}


@dataclass(frozen=True)
class Case:
    """What an instruction finds."""

    memory: bytes
    offset: int
    flags: int
    registers: tuple[int, int, int, int]


@dataclass(frozen=True)
class Effect:
    """What it leaves."""

    memory: bytes
    flags: int
    registers: tuple[int, ...]


class OnBoth:
    """One instruction for both CPUs."""

    def __init__(self, name: str, bits: int) -> None:
        self._name, self._bits = name, bits
        self._guest_code = f"mov ${BLOCK},%edi; {AROUND.format(instruction(name, bits))}; syscall"
        # Alone on its memory, and some hosts do not permit LOCK where an operand is not aligned.
        self._host_code = HostCode(AROUND.format(instruction(name, bits, "")))
        self._buffer = ctypes.create_string_buffer(BEFORE_AND_AFTER.size + 2 * REACH)

    def on_guest(self, engine: BareEngine, case: Case) -> Effect:
        engine.memory[OPERANDS - REACH : OPERANDS + REACH] = case.memory
        BEFORE_AND_AFTER.pack_into(engine.memory, BLOCK, OPERANDS + case.offset, case.flags, *case.registers)
        assert engine.run(self._guest_code) == Outcome(SYSCALL)
        _, flags, *registers = BEFORE_AND_AFTER.unpack_from(engine.memory, BLOCK)
        return self._effect(bytes(engine.memory[OPERANDS - REACH : OPERANDS + REACH]), flags, registers)

    def on_host(self, case: Case) -> Effect:
        buffer, start = self._buffer, ctypes.addressof(self._buffer)
        operand = start + BEFORE_AND_AFTER.size + REACH + case.offset
        ctypes.memmove(start + BEFORE_AND_AFTER.size, case.memory, 2 * REACH)
        BEFORE_AND_AFTER.pack_into(buffer, 0, operand, case.flags, *case.registers)
        self._host_code(start)
        _, flags, *registers = BEFORE_AND_AFTER.unpack_from(buffer)
        return self._effect(buffer.raw[BEFORE_AND_AFTER.size :], flags, registers)

    def _effect(self, memory: bytes, flags: int, registers: list[int]) -> Effect:
        if self._name == "cmpxchg":
            # The translator clears the upper half of RAX also where 32 bits compare as equal.
            registers[0] &= (1 << self._bits) - 1
        return Effect(memory, flags & state.ARITHMETIC & ~UNCERTAIN.get(self._name, 0), tuple(registers))


WORDS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, (1 << 63) - 1, 1 << 63]),
)
FLAGS = st.integers(0, 0xFFF).map(lambda bits: bits & state.ARITHMETIC | 0x202)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A case in which a comparison succeeds often enough."""
    memory = b"".join(draw(WORDS).to_bytes(8, "little") for _ in range(2 * REACH // 8))
    offset = draw(st.one_of(st.sampled_from([-16, -8, 0, 8]), st.integers(-17, 8)))
    a, b, c, d = (draw(WORDS) for _ in range(4))
    if draw(st.booleans()):
        a, d = struct.unpack_from("<QQ", memory, REACH + offset)
    return Case(memory, offset, draw(FLAGS), (a, b, c, d))


@pytest.mark.parametrize(("name", "bits"), INSTRUCTIONS, ids=IDS)
def test_results_are_the_hosts(engine: BareEngine, name: str, bits: int) -> None:
    both = OnBoth(name, bits)

    @settings(max_examples=25, deadline=None)
    @given(cases())
    def compare(case: Case) -> None:
        if bits == 128:
            case = replace(case, offset=case.offset & -16)
        assert both.on_guest(engine, case) == both.on_host(case)

    compare()


# ---- Faults ----

TABLE = 0x80_0000
KERNEL, PROGRAM = 1, 3
PRESENT, WRITABLE, USER, USED = 1, 2, 4, 0x60
READ_ONLY, ABSENT = PRESENT | USER | USED, 0
PLACES = {"aligned": 16, "unaligned": 19, "across": -1}
"""Where an operand is, from the beginning of the page at OPERANDS."""
VALUES = (0x0123_4567_89AB_CDEF, 3, 5, 7)
REPAIRED = READ_ONLY | WRITABLE


class SmallPages:
    """The data of an engine, mapped by pages of 4 KiB."""

    def __init__(self, engine: BareEngine) -> None:
        self._engine = engine
        entries = [DATA + number * PAGE | REPAIRED for number in range(512)]
        struct.pack_into("<512Q", engine.memory, TABLE, *entries)
        self._directory = engine.memory[PAGE_DIRECTORY : PAGE_DIRECTORY + PAGE].cast("Q")
        self._large = self._directory[DATA // SUPERPAGE]
        self._directory[DATA // SUPERPAGE] = TABLE | REPAIRED
        engine.engine.flush_tlb()

    def set_rights(self, address: int, rights: int) -> None:
        """What may be done with a page."""
        at = TABLE + (address - DATA) // PAGE * 8
        struct.pack_into("<Q", self._engine.memory, at, address | rights)
        self._engine.engine.flush_tlb(address)

    def restore(self) -> None:
        """Map the data as it was."""
        self._directory[DATA // SUPERPAGE] = self._large
        self._engine.engine.flush_tlb()


@pytest.fixture
def pages(engine: BareEngine) -> Iterator[SmallPages]:
    pages = SmallPages(engine)
    yield pages
    pages.restore()


def start(engine: BareEngine, code: str, operand: int, cpl: int) -> None:
    """Get ready to execute code with an operand; the rest of the registers always the same."""
    engine.reset(cpl)
    registers = engine.registers
    registers[RDI], registers.rflags = operand, 0x202 | state.CF | state.SF
    registers[RAX], registers[RBX], registers[RCX], registers[RDX] = VALUES
    engine.place(CODE, assemble(f"{code}; syscall", 64, CODE))


def snapshot(engine: BareEngine) -> tuple[object, ...]:
    """All that an instruction can change."""
    registers = engine.registers
    general = tuple(registers[number] for number in range(16))
    return bytes(engine.memory[OPERANDS - REACH : OPERANDS + REACH]), registers.rip, registers.rflags, general


def without_unaligned(name: str, place: str) -> bool:
    """Whether there is no such operand."""
    return name == "cmpxchg16b" and place != "aligned"


@pytest.mark.parametrize("rights", [ABSENT, READ_ONLY], ids=["absent", "read-only"])
@pytest.mark.parametrize("cpl", [KERNEL, PROGRAM], ids=["kernel", "program"])
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_leaves_no_trace(engine: BareEngine, pages: SmallPages, place: str, cpl: int, rights: int) -> None:
    """And once the page may be written, the instruction is executed as if nothing had been."""
    offset = PLACES[place]
    for name, bits in INSTRUCTIONS:
        if without_unaligned(name, place) or (place == "across" and bits == 8):
            continue
        code = instruction(name, bits)
        pattern = bytes(range(1, 2 * REACH + 1))
        engine.memory[OPERANDS - REACH : OPERANDS + REACH] = pattern
        start(engine, code, OPERANDS + offset, cpl)
        assert engine.finish() == Outcome(SYSCALL)
        undisturbed = snapshot(engine)

        engine.memory[OPERANDS - REACH : OPERANDS + REACH] = pattern
        pages.set_rights(OPERANDS, rights)
        start(engine, code, OPERANDS + offset, cpl)
        before = snapshot(engine)
        outcome = engine.finish()
        assert (outcome.kind, outcome.address) == (PAGE_FAULT, max(OPERANDS, OPERANDS + offset)), code
        # What the translator loads and then stores faults as a load where there is nothing to be loaded.
        with_load = name == "neg" or (place != "aligned" and bits > 8)
        first = 0 if rights == ABSENT and with_load else WRITABLE
        assert outcome.error_code == first | rights & PRESENT | (USER if cpl == PROGRAM else 0), code
        # Bit tests bring their operand into range before.
        if name not in BIT_TESTS:
            assert snapshot(engine) == before, code

        pages.set_rights(OPERANDS, REPAIRED)
        assert engine.finish() == Outcome(SYSCALL)
        assert snapshot(engine) == undisturbed, code


def test_an_unaligned_cmpxchg16b_is_a_protection_fault(engine: BareEngine) -> None:
    start(engine, "lock cmpxchg16b (%rdi)", OPERANDS + 8, KERNEL)
    assert engine.finish() == Outcome(TRAP, GENERAL_PROTECTION)


# ---- Stores that the hypervisor does ----


@pytest.mark.parametrize("place", ["aligned", "unaligned"])
def test_the_hypervisor_does_a_forbidden_store_once(engine: BareEngine, pages: SmallPages, place: str) -> None:
    """Such as one to a page table. It is told of what would be there."""
    stores: list[tuple[int, int]] = []

    def on_store(_block: int, address: int, value: int, size: int) -> int:
        stores.append((address, size))
        engine.memory[address : address + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return 1

    handler = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(on_store)
    usual = engine.engine.block["on_store"]
    address = ctypes.cast(handler, ctypes.c_void_p).value
    assert address is not None
    for name, bits in INSTRUCTIONS:
        if bits == 128:  # no entry of a page table is that long
            continue
        results = []
        for rights in (REPAIRED, READ_ONLY):
            engine.memory[OPERANDS - REACH : OPERANDS + REACH] = bytes(range(1, 2 * REACH + 1))
            pages.set_rights(OPERANDS, rights)
            start(engine, instruction(name, bits), OPERANDS + PLACES[place], KERNEL)
            stores.clear()
            engine.engine.block["on_store"] = address
            assert engine.finish() == Outcome(SYSCALL), name
            engine.engine.block["on_store"] = usual
            results.append(snapshot(engine))
        assert results[0] == results[1], name
        assert len(stores) == 1, name
    pages.set_rights(OPERANDS, REPAIRED)


# ---- Several at once ----

ROUNDS = 20_000
SHARED, MISTAKES = OPERANDS, OPERANDS + PAGE
TOP = {bits: 1 << bits - 1 for bits in SUFFIXES}
ACCUMULATOR = {8: "%al", 16: "%ax", 32: "%eax", 64: "%rax"}
NEXT = {8: "%r8b", 16: "%r8w", 32: "%r8d", 64: "%r8"}


@dataclass(frozen=True)
class Race:
    """What two do to one operand at (%rdi), many times each, and what is there in the end if nothing was lost."""

    left: str
    right: str
    end: int
    start: int = 0
    bits: int = 64


def loop(body: str) -> str:
    """R15 counts down; RSI is where mistakes are counted, RCX is a single bit that goes round."""
    # Both begin at the same time, or soon if the other never comes.
    meet = "lock incl 8(%rsi); mov $1<<28,%ecx; 0: pause; dec %ecx; jz 1f; cmpl $2,8(%rsi); jne 0b; 1:"
    return f"{meet}; mov ${ROUNDS},%r15d; mov $1,%ecx; xor %ebx,%ebx; 0: {body}; dec %r15d; jnz 0b"


def add_by_exchange(bits: int) -> str:
    """Add one to an operand, or to both halves of it, by comparing and exchanging until that succeeds."""
    if bits > 64:
        add = "lea 1(%rax),%rbx; lea 1(%rdx),%rcx"
        return f"mov (%rdi),%rax; mov 8(%rdi),%rdx; 1: {add}; lock cmpxchg16b (%rdi); jne 1b"
    return f"mov (%rdi),{ACCUMULATOR[bits]}; 1: lea 1(%rax),%r8; lock cmpxchg {NEXT[bits]},(%rdi); jne 1b"


CMPXCHG8B = """
    mov (%rdi),%eax; mov 4(%rdi),%edx
    1: lea 1(%rax),%ebx; lea 1(%rdx),%ecx; lock cmpxchg8b (%rdi); jne 1b
"""
GUARDED = """
    1: mov $1,%eax; xchg {register},(%rdi); test {register},{register}; jnz 1b
    incl 16(%rdi)
    {release}
"""
"""A lock, and what it guards."""


def with_own_bit(set_it: str, clear_it: str, number: int, bits: int) -> str:
    """Set and clear a bit that nobody else touches, and see that it is as it was left."""
    look = f"mov (%rdi),{NEXT[bits]}; bt ${number},%r8"
    return f"{set_it}; {look}; jc 1f; lock incq (%rsi); 1: {clear_it}; {look}; jnc 2f; lock incq (%rsi); 2:"


def by_mask(number: int, bits: int) -> str:
    """With OR and AND."""
    size, bit = SUFFIXES[bits], 1 << number
    return with_own_bit(f"lock or{size} ${bit},(%rdi)", f"lock and{size} $~{bit},(%rdi)", number, bits)


def by_number(number: int, bits: int) -> str:
    """With BTS and BTR, which also tell how the bit was."""
    size, mistake = SUFFIXES[bits], "lock incq (%rsi)"
    set_it = f"lock bts{size} ${number},(%rdi); jnc 3f; {mistake}; 3:"
    clear_it = f"lock btr{size} ${number},(%rdi); jc 4f; {mistake}; 4:"
    return with_own_bit(set_it, clear_it, number, bits)


def rotating(change: str, bits: int) -> tuple[str, int]:
    """A change of every bit in turn, and which of them are changed in the end."""
    end = 0
    for number in range(ROUNDS):
        end ^= 1 << number % bits
    return change, end


def races() -> Iterator[tuple[str, Race]]:
    """All there are, by names."""
    for bits, size in SUFFIXES.items():
        mask, register = (1 << bits) - 1, OPERAND[bits]
        one = f"mov $1,%ebx; lock {{}}{size} {register},(%rdi)"
        yield f"add-{bits}", Race(one.format("add"), one.format("xadd"), 2 * ROUNDS & mask, bits=bits)
        yield f"inc-{bits}", Race(f"lock inc{size} (%rdi)", f"lock add{size} $3,(%rdi)", 4 * ROUNDS & mask, bits=bits)
        yield f"dec-{bits}", Race(f"lock dec{size} (%rdi)", one.format("sub"), -2 * ROUNDS & mask, bits=bits)
        carry = "stc; mov $0,%ebx; lock {}" + f"{size} {register},(%rdi)"
        yield f"adc-{bits}", Race(carry.format("adc"), one.format("add"), 2 * ROUNDS & mask, bits=bits)
        yield f"sbb-{bits}", Race(carry.format("sbb"), one.format("sub"), -2 * ROUNDS & mask, bits=bits)
        counted = add_by_exchange(bits)
        yield f"cmpxchg-{bits}", Race(counted, one.format("add"), 2 * ROUNDS & mask, bits=bits)
        count = {"8": "%cl", "16": "%cx", "32": "%ecx", "64": "%rcx"}[str(bits)]
        flip, flipped = rotating(f"lock xor{size} {count},(%rdi); rol{size} {count}", bits)
        yield f"not-{bits}", Race(f"lock not{size} (%rdi)", flip, flipped, bits=bits)
        yield f"xor-{bits}", Race(flip, flip, 0, bits=bits)
        # The top bit is its own negative, so it does not matter what comes first.
        top = f"mov ${TOP[bits]},%rbx; lock add{size} {register},(%rdi)"
        yield f"neg-{bits}", Race(f"lock neg{size} (%rdi)", top, 5, start=5, bits=bits)
        yield f"or-{bits}", Race(by_mask(1, bits), by_mask(5, bits), 0, bits=bits)
        if bits > 8:
            yield f"bts-{bits}", Race(by_number(3, bits), by_number(bits - 1, bits), 0, bits=bits)
            toggle, toggled = rotating(f"lock btc{size} {register},(%rdi); inc %ebx; and ${bits - 1},%ebx", bits)
            yield f"btc-{bits}", Race(f"lock not{size} (%rdi)", toggle, toggled, bits=bits)
        plain = {8: "%al", 16: "%ax", 32: "%eax", 64: "%rax"}[bits]
        for release in (f"mov{size} $0,(%rdi)", f"mov $0,%eax; xchg {plain},(%rdi)"):
            guarded = GUARDED.format(register=plain, release=release)
            yield f"xchg-{bits}-{release[:4].strip()}", Race(guarded, guarded, 2 * ROUNDS << 128, bits=160)
    yield "cmpxchg8b", Race(CMPXCHG8B, CMPXCHG8B, 2 * ROUNDS * ((1 << 32) + 1))
    both = 2 * ROUNDS * ((1 << 64) + 1)
    yield "cmpxchg16b", Race(add_by_exchange(128), add_by_exchange(128), both, bits=128)


RACES = dict(races())
LEFT_CODE, RIGHT_CODE = CODE, CODE + 0x1000


def prepare(engine: BareEngine, code: str, address: int) -> None:
    engine.reset()
    engine.registers.rip = address
    engine.registers[RDI], engine.registers[RSI] = SHARED, MISTAKES
    engine.place(address, assemble(f"{loop(code)}; syscall", 64, address))


def run_together(*functions: Callable[[], object]) -> None:
    """Run functions at the same time, each in a thread of its own."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive()


def check_race(engine: BareEngine, race: Race, *functions: Callable[[], object]) -> None:
    """Run the functions and look at what is left."""
    size = race.bits // 8
    engine.memory[SHARED : SHARED + 32] = race.start.to_bytes(32, "little")
    engine.memory[MISTAKES : MISTAKES + 16] = bytes(16)
    run_together(*functions)
    assert int.from_bytes(engine.memory[SHARED : SHARED + size], "little") == race.end
    assert bytes(engine.memory[MISTAKES : MISTAKES + 8]) == bytes(8)


@pytest.mark.parametrize("race", RACES.values(), ids=RACES.keys())
def test_two_guests_share_a_word(engine: BareEngine, other: BareEngine, race: Race) -> None:
    prepare(engine, race.left, LEFT_CODE)
    prepare(other, race.right, RIGHT_CODE)
    outcomes: list[Outcome] = []
    check_race(engine, race, lambda: outcomes.append(engine.finish()), lambda: outcomes.append(other.finish()))
    assert outcomes == [Outcome(SYSCALL)] * 2


@pytest.mark.parametrize("race", RACES.values(), ids=RACES.keys())
def test_a_guest_and_the_host_share_a_word(engine: BareEngine, race: Race) -> None:
    prepare(engine, race.left, LEFT_CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(engine.memory))
    setup = f"lea {MISTAKES - SHARED}(%rdi),%rsi"
    host = HostCode(f"{setup}; {loop(race.right)}")
    outcomes: list[Outcome] = []
    check_race(engine, race, lambda: outcomes.append(engine.finish()), lambda: host(address + SHARED))
    assert outcomes == [Outcome(SYSCALL)]
