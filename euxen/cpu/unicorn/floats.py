"""SSE arithmetic on the host's own unit.

The library computes in software, except for operands and results that are usual, and then spends most
of its time on finding out that they are. Here the usual case is decided on the bits. Zeroes and normal
numbers are usual, with rounding to nearest, once the guest's inexact flag is set anyway: then the result
is the host's. Everything else is the library's.
"""

from __future__ import annotations

from euxen.cpu import state
from euxen.cpu.native.language import (
    call3,
    float32_add,
    float32_div,
    float32_mul,
    float32_sub,
    float64_add,
    float64_div,
    float64_mul,
    float64_sub,
    load32,
    load64,
    native,
    shr,
    slots,
    store32,
    store64,
    ult,
)
from euxen.cpu.unicorn import layout
from euxen.cpu.unicorn.library import Functions

ADD, SUB, MUL, DIV = range(4)
UNUSUAL = -1
"""Instead of a result. These bits would be a NaN, which is no usual result."""


@native
def _can_use_host(env: int) -> int:
    """Rounding to nearest, no flushing to zero, and the inexact flag is set already."""
    return 1 if load64(env + state.SSE_STATUS) & layout.FLOAT_STATUS_MASK == layout.FLOAT_STATUS_USUAL else 0


@native
def _is_usual64(bits: int) -> int:
    return 1 if ult((shr(bits, 52) & 0x7FF) - 1, 0x7FE) or bits << 1 == 0 else 0


@native
def _result64(a: int, b: int, operation: int) -> int:
    """The result for two doubles, or UNUSUAL."""
    if not _is_usual64(a) or not _is_usual64(b):
        return UNUSUAL
    if operation == ADD:
        result = float64_add(a, b)
    elif operation == SUB:
        result = float64_sub(a, b)
    elif operation == MUL:
        result = float64_mul(a, b)
    else:
        result = float64_div(a, b)
    # Only a sum is exact when it is zero.
    if not ult((shr(result, 52) & 0x7FF) - 1, 0x7FE) and (operation >= MUL or result << 1 != 0):
        return UNUSUAL
    return result


@native
def _is_usual32(bits: int) -> int:
    return 1 if ult((shr(bits, 23) & 0xFF) - 1, 0xFE) or bits & 0x7FFF_FFFF == 0 else 0


@native
def _result32(a: int, b: int, operation: int) -> int:
    """The result for two floats, or UNUSUAL."""
    if not _is_usual32(a) or not _is_usual32(b):
        return UNUSUAL
    if operation == ADD:
        result = float32_add(a, b)
    elif operation == SUB:
        result = float32_sub(a, b)
    elif operation == MUL:
        result = float32_mul(a, b)
    else:
        result = float32_div(a, b)
    if not ult((shr(result, 23) & 0xFF) - 1, 0xFE) and (operation >= MUL or result & 0x7FFF_FFFF != 0):
        return UNUSUAL
    return result


@native
def _sd(env: int, d: int, s: int, operation: int, library: int) -> int:
    """One double: ``d`` and ``s`` are the addresses of the registers."""
    if _can_use_host(env):
        result = _result64(load64(d), load64(s), operation)
        if result != UNUSUAL:
            store64(d, result)
            return 0
    return call3(load64(slots() + library), env, d, s)


@native
def _pd(env: int, d: int, s: int, operation: int, library: int) -> int:
    """Two doubles."""
    if _can_use_host(env):
        low = _result64(load64(d), load64(s), operation)
        high = _result64(load64(d + 8), load64(s + 8), operation)
        if low != UNUSUAL and high != UNUSUAL:
            store64(d, low)
            store64(d + 8, high)
            return 0
    return call3(load64(slots() + library), env, d, s)


@native
def _ss(env: int, d: int, s: int, operation: int, library: int) -> int:
    """One float."""
    if _can_use_host(env):
        result = _result32(load32(d), load32(s), operation)
        if result != UNUSUAL:
            store32(d, result)
            return 0
    return call3(load64(slots() + library), env, d, s)


@native
def _ps(env: int, d: int, s: int, operation: int, library: int) -> int:
    """Four floats."""
    if _can_use_host(env):
        a = _result32(load32(d), load32(s), operation)
        b = _result32(load32(d + 4), load32(s + 4), operation)
        c = _result32(load32(d + 8), load32(s + 8), operation)
        e = _result32(load32(d + 12), load32(s + 12), operation)
        if a != UNUSUAL and b != UNUSUAL and c != UNUSUAL and e != UNUSUAL:
            store32(d, a)
            store32(d + 4, b)
            store32(d + 8, c)
            store32(d + 12, e)
            return 0
    return call3(load64(slots() + library), env, d, s)


@native
def addsd(env: int, d: int, s: int) -> int:
    """``helper_addsd``."""
    return _sd(env, d, s, ADD, Functions.helper_addsd)


@native
def subsd(env: int, d: int, s: int) -> int:
    """``helper_subsd``."""
    return _sd(env, d, s, SUB, Functions.helper_subsd)


@native
def mulsd(env: int, d: int, s: int) -> int:
    """``helper_mulsd``."""
    return _sd(env, d, s, MUL, Functions.helper_mulsd)


@native
def divsd(env: int, d: int, s: int) -> int:
    """``helper_divsd``."""
    return _sd(env, d, s, DIV, Functions.helper_divsd)


@native
def addpd(env: int, d: int, s: int) -> int:
    """``helper_addpd``."""
    return _pd(env, d, s, ADD, Functions.helper_addpd)


@native
def subpd(env: int, d: int, s: int) -> int:
    """``helper_subpd``."""
    return _pd(env, d, s, SUB, Functions.helper_subpd)


@native
def mulpd(env: int, d: int, s: int) -> int:
    """``helper_mulpd``."""
    return _pd(env, d, s, MUL, Functions.helper_mulpd)


@native
def divpd(env: int, d: int, s: int) -> int:
    """``helper_divpd``."""
    return _pd(env, d, s, DIV, Functions.helper_divpd)


@native
def addss(env: int, d: int, s: int) -> int:
    """``helper_addss``."""
    return _ss(env, d, s, ADD, Functions.helper_addss)


@native
def subss(env: int, d: int, s: int) -> int:
    """``helper_subss``."""
    return _ss(env, d, s, SUB, Functions.helper_subss)


@native
def mulss(env: int, d: int, s: int) -> int:
    """``helper_mulss``."""
    return _ss(env, d, s, MUL, Functions.helper_mulss)


@native
def divss(env: int, d: int, s: int) -> int:
    """``helper_divss``."""
    return _ss(env, d, s, DIV, Functions.helper_divss)


@native
def addps(env: int, d: int, s: int) -> int:
    """``helper_addps``."""
    return _ps(env, d, s, ADD, Functions.helper_addps)


@native
def subps(env: int, d: int, s: int) -> int:
    """``helper_subps``."""
    return _ps(env, d, s, SUB, Functions.helper_subps)


@native
def mulps(env: int, d: int, s: int) -> int:
    """``helper_mulps``."""
    return _ps(env, d, s, MUL, Functions.helper_mulps)


@native
def divps(env: int, d: int, s: int) -> int:
    """``helper_divps``."""
    return _ps(env, d, s, DIV, Functions.helper_divps)


DOUBLES = (addsd, subsd, mulsd, divsd, addpd, subpd, mulpd, divpd)
FLOATS = (addss, subss, mulss, divss, addps, subps, mulps, divps)
REPLACEMENTS = {f"helper_{function.__name__}": function for function in DOUBLES + FLOATS}
"""What takes the place of the library's helpers, by their names."""
