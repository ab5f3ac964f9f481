"""The registers of a guest as the hypervisor sees them: flags worked out late, and what follows from segments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from assembler import assemble
from bare import CODE, DATA, FLAT_CODE32, SYSCALL, TRAP, BareEngine, Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.cpu import state
from euxen.cpu.policy import PV_FEATURES, cpu_leaves
from euxen.cpu.registers import GENERAL, SEGMENTS

RAX, RBX = 0, 3
ANY_FLAGS = state.ARITHMETIC | state.DIRECTION | state.NT | state.AC | state.ID
ALWAYS = 0x202
CHANGES = (
    "nop", "add %ebx,%eax", "adc %bl,%al", "sub %rbx,%rax", "sbb %bx,%ax", "cmp %ebx,%eax", "inc %rax", "dec %al",
    "neg %eax", "and %ebx,%eax", "xor %eax,%eax", "test %al,%al", "shl $3,%eax", "sar $1,%rax", "shr $1,%al",
    "rol $1,%eax", "rcr $1,%eax", "imul %ebx,%eax", "mul %rbx", "bt $3,%eax", "stc", "clc", "cmc", "std", "cld",
    "sahf", "popcnt %rbx,%rax", "andn %ebx,%eax,%ecx", "adcx %rbx,%rax", "lock xadd %rax,0x400000", "scasb",
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(native: None) -> Iterator[BareEngine]:
    engine = BareEngine(cpu_leaves(PV_FEATURES))
    yield engine
    engine.close()


WORDS = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1, 0x7F, 0x80, 0x7FFF_FFFF, 0x8000_0000, 1 << 63]))
FLAGS = st.integers(0, ANY_FLAGS).map(lambda bits: bits & ANY_FLAGS | ALWAYS)


@pytest.mark.parametrize("change", CHANGES)
@settings(max_examples=40, deadline=None)
@given(flags=FLAGS, a=WORDS, b=WORDS)
def test_flags_are_what_the_guest_pushes(engine: BareEngine, change: str, flags: int, a: int, b: int) -> None:
    """However late they are worked out: at an exception, and once more after it."""
    engine.reset()
    registers = engine.registers
    registers.rflags, registers[RAX], registers[RBX], registers[7] = flags, a, b, DATA
    engine.place(CODE, assemble(f"{change}; ud2; pushf; pop %rbx; syscall", 64, CODE))
    assert engine.finish() == Outcome(TRAP, 6)
    seen = registers.rflags
    registers.rflags = seen
    assert registers.rflags == seen
    registers.rip += 2
    assert engine.finish() == Outcome(SYSCALL)
    assert registers[RBX] == seen
    assert registers.rflags == seen


@settings(max_examples=40, deadline=None)
@given(flags=FLAGS)
def test_flags_that_are_set_are_there(engine: BareEngine, flags: int) -> None:
    engine.reset()
    engine.registers.rflags = flags
    assert engine.registers.rflags == flags
    engine.place(CODE, assemble("pushf; pop %rax; mov $0x400010,%edi; stosb; syscall", 64, CODE))
    assert engine.finish() == Outcome(SYSCALL)
    assert engine.registers[RAX] == flags
    assert engine.registers[7] == DATA + 0x10 + (-1 if flags & state.DIRECTION else 1)


@settings(max_examples=40, deadline=None)
@given(value=WORDS, number=st.integers(0, 15))
def test_general_registers_by_number(engine: BareEngine, value: int, number: int) -> None:
    engine.reset()
    engine.registers[number] = value
    engine.place(CODE, assemble(f"mov %{GENERAL[number]},0x400000; syscall", 64, CODE))
    assert engine.finish() == Outcome(SYSCALL)
    assert int.from_bytes(engine.memory[DATA : DATA + 8], "little") == value


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_by_name(engine: BareEngine, name: str) -> None:
    engine.reset()
    state.set_segment(engine.engine.block["env"], SEGMENTS[name], 0x1_1234, 0x5678, 0xFFFF, 0)
    assert (engine.registers.selector(name), engine.registers.base(name)) == (0x1234, 0x5678)


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize("bits", [64, 32])
def test_the_mode_follows_from_the_segments(engine: BareEngine, cpl: int, bits: int) -> None:
    # The prefix of a NOP, or DEC EAX before it.
    assert engine.run(bytes.fromhex("4890 0f05"), cpl, bits) == Outcome(SYSCALL)
    assert (engine.registers.cpl, engine.registers.long_mode) == (cpl, bits == 64)
    assert engine.registers[RAX] == (0 if bits == 64 else 0xFFFF_FFFF)


def test_a_segment_with_a_base_is_added_in_32_bit_code(engine: BareEngine) -> None:
    env = engine.engine.block["env"]
    for base in (0, 0x1000):
        engine.reset(3, 32)
        state.set_segment(env, state.DS, 0x2B, base, 0xFFFF_FFFF, engine.registers.word(state.SS + 16) >> 32)
        state.set_segment(env, state.CS, 0x23, 0, 0xFFFF_FFFF, FLAT_CODE32)
        state.update_hflags(env, 3)
        engine.memory[DATA + base : DATA + base + 4] = (7 + base).to_bytes(4, "little")
        engine.place(CODE, assemble("mov 0x400000,%eax; syscall", 32, CODE))
        assert engine.finish() == Outcome(SYSCALL)
        assert engine.registers[RAX] == 7 + base
