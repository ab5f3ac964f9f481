"""LOCK before a bit test of a register: #UD, wherever it stands, and nothing that only looks like it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from assembler import assemble
from bare import CODE, DATA, SYSCALL, TRAP, BareEngine, Outcome

INVALID_OPCODE = Outcome(TRAP, 6)
RAX, RCX = 0, 1
TESTS = {
    "bt": "0f a3 c1",
    "bts": "0f ab c1",
    "btr": "0f b3 c1",
    "btc": "0f bb c1",
    "bt-immediate": "0f ba e1 03",
    "bts-immediate": "0f ba e9 03",
    "btr-immediate": "0f ba f1 03",
    "btc-immediate": "0f ba f9 03",
}


@pytest.fixture(scope="module")
def engine(native: None) -> Iterator[BareEngine]:
    engine = BareEngine()
    yield engine
    engine.close()


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize("prefixes", ["f0", "66 f0", "f0 48", "48 f0", "2e f0 f3", "f0 65 67 4f"])
@pytest.mark.parametrize("test", TESTS)
def test_of_a_register(engine: BareEngine, test: str, prefixes: str, cpl: int) -> None:
    assert engine.run(bytes.fromhex(prefixes + TESTS[test]), cpl=cpl) == INVALID_OPCODE
    assert engine.registers.rip == CODE


@pytest.mark.parametrize("test", TESTS)
def test_of_a_register_in_32_bits(engine: BareEngine, test: str) -> None:
    assert engine.run(bytes.fromhex("66 f0" + TESTS[test]), cpl=3, bits=32) == INVALID_OPCODE


@pytest.mark.parametrize("test", TESTS)
def test_after_others(engine: BareEngine, test: str) -> None:
    """What comes before it is done, once."""
    before = assemble(f"mov ${DATA},%edi; add $1,%rax; lock bts %rcx,(%rdi)")
    assert engine.run(before + bytes.fromhex("f0" + TESTS[test])) == INVALID_OPCODE
    assert engine.registers[RAX] == 1
    assert engine.registers.rip == CODE + len(before)


@pytest.mark.parametrize("test", TESTS)
def test_without_lock(engine: BareEngine, test: str) -> None:
    assert engine.run(bytes.fromhex("48" + TESTS[test]) + assemble("syscall")) == Outcome(SYSCALL)


@pytest.mark.parametrize("test", TESTS)
def test_as_part_of_a_number(engine: BareEngine, test: str) -> None:
    number = bytes.fromhex("f0" + TESTS[test]).ljust(8, b"\x01")
    code = b"\x48\xb8" + number + assemble("mov %rax,%rcx; add $1,%rax; syscall")
    assert engine.run(code) == Outcome(SYSCALL)
    assert engine.registers[RCX] == int.from_bytes(number, "little")
    assert engine.registers[RAX] == engine.registers[RCX] + 1
