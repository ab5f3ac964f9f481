"""SSE arithmetic: the same results as the host's, for usual and unusual operands."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bare import DATA, SYSCALL, BareEngine
from hypothesis import given, settings
from hypothesis import strategies as st

OPERATIONS = ("add", "sub", "mul", "div")
EDGES = (0.0, -0.0, 1.0, -1.5, 1e308, -1e308, 2.2250738585072014e-308, 5e-324, math.inf, -math.inf, math.nan)

# From (a, b) at DATA: all four results in the form that the suffix names, 16 bytes each, at DATA + 32.
PROGRAM = """
    movsd one(%rip),%xmm7
    divsd three(%rip),%xmm7       # from here on the inexact flag is set
    {body}
    syscall
one: .double 1.0
three: .double 3.0
"""
STEP = "movups 0x400000,%xmm0; movups 0x400010,%xmm1; {op}{kind} %xmm1,%xmm0; movups %xmm0,{result};"


def program(kind: str) -> str:
    """Code that performs all operations of a kind: sd, ss, pd or ps."""
    steps = [STEP.format(op=op, kind=kind, result=0x400020 + 16 * i) for i, op in enumerate(OPERATIONS)]
    return PROGRAM.format(body="\n".join(steps))


@pytest.fixture(scope="module")
def engine(native: None) -> Iterator[BareEngine]:
    """A CPU without a CPUID policy's limits."""
    engine = BareEngine()
    yield engine
    engine.close()


def compute(engine: BareEngine, kind: str, a: bytes, b: bytes) -> list[bytes]:
    """The guest's results for two registers."""
    engine.memory[DATA : DATA + 32] = a + b
    assert engine.run(program(kind)).kind == SYSCALL
    return [bytes(engine.memory[DATA + 32 + 16 * i : DATA + 48 + 16 * i]) for i in range(len(OPERATIONS))]


def expected(kind: str, a: bytes, b: bytes) -> list[bytes]:
    """The host's results: what is not computed stays as it is in ``a``."""
    dtype: Any = np.float64 if kind.endswith("d") else np.float32
    lanes = 1 if kind.startswith("s") else 16 // np.dtype(dtype).itemsize
    x: Any = np.frombuffer(a, dtype)[:lanes]
    y: Any = np.frombuffer(b, dtype)[:lanes]
    with np.errstate(all="ignore"):
        results = (x + y, x - y, x * y, x / y)
    return [result.tobytes() + a[len(result.tobytes()) :] for result in results]


def same(kind: str, ours: bytes, theirs: bytes) -> bool:
    """Whether two registers agree; any NaN is as good as another."""
    dtype: Any = np.float64 if kind.endswith("d") else np.float32
    return bool(
        all(
            p.tobytes() == q.tobytes() or (np.isnan(p) and np.isnan(q))
            for p, q in zip(np.frombuffer(ours, dtype), np.frombuffer(theirs, dtype), strict=True)
        )
    )


@pytest.mark.parametrize("kind", ["sd", "pd"])
def test_doubles_at_the_edges(engine: BareEngine, kind: str) -> None:
    for x in EDGES:
        for y in EDGES:
            a, b = struct.pack("<2d", x, 3.25), struct.pack("<2d", y, 0.1)
            for ours, theirs in zip(compute(engine, kind, a, b), expected(kind, a, b), strict=True):
                assert same(kind, ours, theirs), (x, y)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["sd", "ss", "pd", "ps"]),
    a=st.binary(min_size=16, max_size=16),
    b=st.binary(min_size=16, max_size=16),
)
def test_any_bits(engine: BareEngine, kind: str, a: bytes, b: bytes) -> None:
    for ours, theirs in zip(compute(engine, kind, a, b), expected(kind, a, b), strict=True):
        assert same(kind, ours, theirs)


def test_rounding_as_the_guest_wants_it(engine: BareEngine) -> None:
    # 1/3 rounded up is one unit more than rounded to nearest.
    source = """
        movl $0x5f80,0x400000
        ldmxcsr 0x400000
        movsd one(%rip),%xmm0
        divsd three(%rip),%xmm0       # inexact
        movsd one(%rip),%xmm0
        divsd three(%rip),%xmm0
        movq %xmm0,%rax
        syscall
    one: .double 1.0
    three: .double 3.0
    """
    assert engine.run(source).kind == SYSCALL
    nearest = struct.unpack("<Q", struct.pack("<d", 1 / 3))[0]
    assert engine.registers[0] & (1 << 64) - 1 == nearest + 1
