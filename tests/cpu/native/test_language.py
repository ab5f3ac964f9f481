"""Every operation of native code does what its docstring says, also at the edges."""

from __future__ import annotations

import ctypes
import math
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from compiled import compile_into, native_function
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.cpu.native.language import SLOTS, Intrinsic, NativeFunction, signed, unsigned
from euxen.cpu.native.memory import Memory
from euxen.hypervisor.machine import cache_directory

WITHOUT_RESULT = {"store8", "store16", "store32", "store64", "fill", "copy"}
PREDICATES = {"ult", "ule"}
MASK = (1 << 64) - 1

Run = Callable[..., int]


@pytest.fixture(scope="module")
def run() -> Run:
    """Calls an intrinsic by its name."""
    functions = {name: _function_for(name, intrinsic) for name, intrinsic in Intrinsic.registry.items()}
    compile_into(cache_directory(), *functions.values())

    def call(name: str, *arguments: int) -> int:
        return functions[name](*arguments)

    return call


def _function_for(name: str, intrinsic: Intrinsic) -> NativeFunction[Any]:
    parameters = ", ".join(f"a{number}" for number in range(intrinsic.arity))
    call = f"{name}({parameters})"
    if name in WITHOUT_RESULT:
        body = f"{call}\nreturn 0"
    else:
        body = f"return 1 if {call} else 0" if name in PREDICATES else f"return {call}"
    return native_function(f"run_{name}", body, parameters, **{name: intrinsic})


WORDS = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([0, 1, -1, 0x7F, 0x80, 0xFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, (1 << 63) - 1, -(1 << 63)]),
)


@settings(max_examples=40, deadline=None)
@given(value=WORDS)
def test_signed_and_unsigned(value: int) -> None:
    assert signed(unsigned(value)) == value
    assert 0 <= unsigned(value) <= MASK
    assert unsigned(value) % (1 << 64) == value % (1 << 64)


# ---- Arithmetic ----

ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "ult": lambda a, b: int(unsigned(a) < unsigned(b)),
    "ule": lambda a, b: int(unsigned(a) <= unsigned(b)),
    "udiv": lambda a, b: signed(unsigned(a) // (unsigned(b) or 1)),
    "shr": lambda a, b: signed(unsigned(a) >> (b & 63)),
}


@pytest.mark.parametrize("name", ARITHMETIC)
@settings(max_examples=40, deadline=None)
@given(a=WORDS, b=WORDS)
def test_arithmetic(run: Run, name: str, a: int, b: int) -> None:
    if name == "shr":
        b &= 63
    assert run(name, a, b or (name == "udiv")) == ARITHMETIC[name](a, b)


@settings(max_examples=40, deadline=None)
@given(a=WORDS, b=WORDS, bits=st.integers(0, 127))
def test_mulshift(run: Run, a: int, b: int, bits: int) -> None:
    assert run("mulshift", a, b, bits) == signed(unsigned(a) * unsigned(b) >> bits)


@settings(max_examples=40, deadline=None)
@given(value=WORDS)
def test_bit_counts(run: Run, value: int) -> None:
    assert run("ctz", value) == (unsigned(value) & -unsigned(value)).bit_length() - 1 if value else 64
    assert run("ctz", 0) == 64
    assert run("popcount", value) == unsigned(value).bit_count()


FLOATS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
DOUBLES = st.one_of(
    st.integers(0, MASK),
    st.floats().map(lambda value: int.from_bytes(struct.pack("<d", value), "little")),
)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("bits", [32, 64])
@settings(max_examples=40, deadline=None)
@given(a=DOUBLES, b=DOUBLES)
def test_floating_point(run: Run, name: str, bits: int, a: int, b: int) -> None:
    """The upper half of a word with a float in it does not count, and comes back as zero."""
    kind: Any = np.float32 if bits == 32 else np.float64
    size = bits // 8
    x, y = (np.frombuffer(value.to_bytes(8, "little")[:size], kind)[0] for value in (a, b))
    with np.errstate(all="ignore"):
        expected = FLOATS[name](x, y)
    result = run(f"float{bits}_{name}", signed(a), signed(b)) & MASK
    assert result < 1 << bits
    ours = np.frombuffer(result.to_bytes(8, "little")[:size], kind)[0]
    assert ours.tobytes() == expected.tobytes() or (math.isnan(ours) and math.isnan(expected))


# ---- Memory ----

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
PLACES = st.integers(0, 24)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(32)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(min_size=32, max_size=32), at=PLACES)
def test_loads(run: Run, memory: Memory, content: bytes, at: int) -> None:
    """They need no alignment, and extend by zeros, or by the sign where the name says so."""
    memory.view[:] = content
    for bits, size in SIZES.items():
        value = int.from_bytes(content[at : at + size], "little")
        assert run(f"load{bits}", memory.address + at) == signed(value)
    assert run("load32s", memory.address + at) == int.from_bytes(content[at : at + 4], "little", signed=True)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(min_size=32, max_size=32), at=PLACES, value=WORDS)
def test_stores(run: Run, memory: Memory, content: bytes, at: int, value: int) -> None:
    """They write as many bytes as their names say, and none besides."""
    for bits, size in SIZES.items():
        memory.view[:] = content
        run(f"store{bits}", memory.address + at, value)
        low = unsigned(value).to_bytes(8, "little")[:size]
        assert bytes(memory.view) == content[:at] + low + content[at + size :]


CHANGES: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "xchg8": (1, lambda old, value: value),
    "xchg16": (2, lambda old, value: value),
    "xchg32": (4, lambda old, value: value),
    "xchg64": (8, lambda old, value: value),
    "or8": (1, lambda old, value: old | value),
    "or32": (4, lambda old, value: old | value),
    "and32": (4, lambda old, value: old & value),
    "or64": (8, lambda old, value: old | value),
    "and64": (8, lambda old, value: old & value),
    "add64": (8, lambda old, value: old + value),
}


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=40, deadline=None)
@given(content=st.binary(min_size=32, max_size=32), place=PLACES, value=WORDS)
def test_atomic_changes(run: Run, memory: Memory, name: str, content: bytes, place: int, value: int) -> None:
    """They return what was there, extended by zeros."""
    size, change = CHANGES[name]
    at = place - place % size
    memory.view[:] = content
    old = int.from_bytes(content[at : at + size], "little")
    assert run(name, memory.address + at, value) == signed(old)
    new = (change(old, unsigned(value)) & (1 << 8 * size) - 1).to_bytes(size, "little")
    assert bytes(memory.view) == content[:at] + new + content[at + size :]


@settings(max_examples=40, deadline=None)
@given(old=WORDS, expected=WORDS, value=WORDS, equal=st.booleans())
def test_compare_and_swap(run: Run, memory: Memory, old: int, expected: int, value: int, equal: bool) -> None:
    words = memory.words()
    words[1] = unsigned(old)
    if equal:
        expected = old
    assert run("cas64", memory.address + 8, expected, value) == old
    assert words[1] == unsigned(value if old == expected else old)


@settings(max_examples=40, deadline=None)
@given(old=WORDS, expected=WORDS, value=WORDS, equal=st.booleans())
def test_compare_and_swap_32(run: Run, memory: Memory, old: int, expected: int, value: int, equal: bool) -> None:
    words, low = memory.words(), 0xFFFF_FFFF
    words[1] = unsigned(old)
    if equal:
        expected = old & low  # the upper half of what is expected does not matter
    assert run("cas32", memory.address + 8, expected, value) == old & low
    assert words[1] == unsigned((old & ~low) | ((value if old & low == expected & low else old) & low))


def test_threads_lose_no_change(run: Run, memory: Memory) -> None:
    words, rounds = memory.words(), 3000
    words[0] = words[1] = words[2] = 0

    def change(bit: int) -> None:
        for _ in range(rounds):
            run("add64", memory.address, 1)
            assert not run("or64", memory.address + 8, bit) & bit
            assert run("and64", memory.address + 8, ~bit) & bit

    threads = [threading.Thread(target=change, args=(1 << number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (words[0], words[1]) == (2 * rounds, 0)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(min_size=32, max_size=32), at=st.integers(0, 32), byte=WORDS, data=st.data())
def test_fill(run: Run, memory: Memory, content: bytes, at: int, byte: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 32 - at))
    memory.view[:] = content
    run("fill", memory.address + at, byte, size)
    assert bytes(memory.view) == content[:at] + bytes([byte & 0xFF]) * size + content[at + size :]


@settings(max_examples=40, deadline=None)
@given(content=st.binary(min_size=32, max_size=32), to=st.integers(0, 32), start=st.integers(0, 32), data=st.data())
def test_copy(run: Run, memory: Memory, content: bytes, to: int, start: int, data: st.DataObject) -> None:
    """Also where the two overlap."""
    size = data.draw(st.integers(0, 32 - max(to, start)))
    memory.view[:] = content
    run("copy", memory.address + to, memory.address + start, size)
    assert bytes(memory.view) == content[:to] + content[start : start + size] + content[to + size :]


# ---- The rest ----


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_calls(run: Run, count: int, data: st.DataObject) -> None:
    arguments = [data.draw(WORDS) for _ in range(count)]
    result = data.draw(WORDS)
    seen: list[tuple[int, ...]] = []

    def function(*received: int) -> int:
        seen.append(received)
        return result

    callback = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)(function)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    assert run(f"call{count}", address, *arguments) == result
    assert seen == [tuple(arguments)]


def test_monotonic_is_the_hosts_clock(run: Run) -> None:
    before = time.monotonic_ns()
    now = run("monotonic")
    assert before <= now <= time.monotonic_ns()


def test_slots_are_memory_of_one_address(run: Run) -> None:
    first = run("slots")
    assert first == run("slots")
    assert [run("load64", first + 8 * number) for number in range(SLOTS)] == [0] * SLOTS
    run("store64", first + 8 * SLOTS - 8, 5)
    assert run("load64", first + 8 * SLOTS - 8) == 5


def test_every_intrinsic_is_tested() -> None:
    here = {f"{kind}{bits}" for kind in ("load", "store") for bits in SIZES} | {"load32s"}
    here |= {f"float{bits}_{name}" for bits in (32, 64) for name in FLOATS} | ARITHMETIC.keys() | CHANGES.keys()
    here |= {f"call{count}" for count in (1, 2, 3, 4, 5, 7)}
    here |= {"mulshift", "ctz", "popcount", "cas32", "cas64", "fill", "copy", "monotonic", "slots"}
    assert here == Intrinsic.registry.keys()


# ---- Plain Python in native code ----

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a & b": lambda a, b: a & b,
    "a | b": lambda a, b: a | b,
    "a ^ b": lambda a, b: a ^ b,
    "~a": lambda a, b: ~a,
    "-a": lambda a, b: -a,
    "a << (b & 63)": lambda a, b: a << (b & 63),
    "a >> (b & 63)": lambda a, b: a >> (b & 63),
    "1 if a < b else 0": lambda a, b: int(a < b),
    "1 if a <= b else 0": lambda a, b: int(a <= b),
    "1 if a == b else 0": lambda a, b: int(a == b),
    "min(a, b)": min,
    "max(a, b)": max,
    "1 if not a and b else 0": lambda a, b: int(not a and bool(b)),
}


@pytest.fixture(scope="module")
def operations() -> Iterator[dict[str, NativeFunction[Any]]]:
    functions = {
        text: native_function(f"operation{number}", f"return {text}", "a, b") for number, text in enumerate(OPERATIONS)
    }
    compile_into(cache_directory(), *functions.values())
    yield functions


@pytest.mark.parametrize("text", OPERATIONS)
@settings(max_examples=40, deadline=None)
@given(a=WORDS, b=WORDS)
def test_operators(operations: dict[str, NativeFunction[Any]], text: str, a: int, b: int) -> None:
    """They wrap around, and compare and shift with the sign."""
    assert operations[text](a, b) == signed(OPERATIONS[text](a, b))
