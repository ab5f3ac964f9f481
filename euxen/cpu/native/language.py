"""What native code is written in: a small, typed-by-convention subset of Python.

A function marked ``@native`` is compiled by numba. Its rules:

- Every value is a 64-bit two's complement integer: arguments, locals, results. Addresses, frame
  numbers and register contents are that integer too. ``+ - * & | ^ << ~`` wrap; ``<`` and ``>>`` are
  *signed*: use ``ult`` and ``shr`` where a value may have its top bit set.
- A constant above 2**63-1 has to be written ``signed(0xffff800000000000)`` at module level.
- A C function receives and returns such integers. Where C declares a narrower argument, the upper
  bits are undefined: mask them. A last parameter called ``return_address`` is not passed by C: it is
  the place in the caller's code to which the function will return.
- Nothing may raise, allocate or touch a Python object.

A native function can be called from native code, from C by ``address``, and from Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

SLOTS = 128
"""Words of process-wide memory; see ``slots``."""


class NativeFunction(Generic[P]):
    """A function of the native runtime. Calling it from Python runs the compiled code."""

    registry: ClassVar[dict[str, NativeFunction[Any]]] = {}

    def __init__(self, function: Callable[P, int]) -> None:
        self.function = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        count = function.__code__.co_argcount
        self.wants_return_address = "return_address" in function.__code__.co_varnames[count - 1 : count]
        self.arity = count - self.wants_return_address
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self._entry: Callable[..., int] | None = None
        self._address = 0
        self.registry[self.name] = self

    def bind(self, address: int, entry: Callable[..., int]) -> None:
        """Say where the compiled code is. Called by the library when it is loaded."""
        self._address = address
        self._entry = entry

    @property
    def is_bound(self) -> bool:
        """Whether there is compiled code to call."""
        return self._entry is not None

    @property
    def address(self) -> int:
        """The entry point, for C and for handler tables."""
        if not self._address:
            raise RuntimeError(f"{self.name}: the native library is not loaded")
        return self._address

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> int:
        if self._entry is None:
            raise RuntimeError(f"{self.name}: the native library is not loaded")
        return self._entry(*args)

    @property
    def _numba_type_(self) -> Any:
        """Lets numba see a call to another native function as a call to its compiled form."""
        from euxen.cpu.native import compiler

        return compiler.numba_type_of(self)


def native(function: Callable[P, int]) -> NativeFunction[P]:
    """Mark a function as part of the native runtime; see the module's docstring for its rules."""
    return NativeFunction(function)


class Intrinsic:
    """An operation that the compiler lowers to instructions of its own (``compiler.LOWERINGS``)."""

    registry: ClassVar[dict[str, Intrinsic]] = {}

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.arity = function.__code__.co_argcount
        self.__doc__ = function.__doc__
        self.registry[self.name] = self

    @property
    def _numba_type_(self) -> Any:
        from euxen.cpu.native import compiler

        return compiler.numba_type_of(self)


def intrinsic(function: Callable[P, R]) -> Callable[P, R]:
    """Declare an intrinsic: the signature and meaning are here, the code is in the compiler."""
    return cast(Callable[P, R], Intrinsic(function))


def signed(value: int) -> int:
    """The 64-bit pattern ``value`` as the signed integer that native code holds."""
    return (value & 0xFFFF_FFFF_FFFF_FFFF) - ((value & 1 << 63) << 1)


def unsigned(value: int) -> int:
    """The unsigned number whose 64-bit pattern native code holds as ``value``."""
    return value & 0xFFFF_FFFF_FFFF_FFFF


# The bodies below are never run: an intrinsic exists only inside native code.


@intrinsic
def load8(address: int) -> int:
    """The byte at a host address, zero-extended."""
    return 0


@intrinsic
def load16(address: int) -> int:
    """The 16-bit word at a host address, zero-extended."""
    return 0


@intrinsic
def load32(address: int) -> int:
    """The 32-bit word at a host address, zero-extended."""
    return 0


@intrinsic
def load32s(address: int) -> int:
    """The 32-bit word at a host address, sign-extended."""
    return 0


@intrinsic
def load64(address: int) -> int:
    """The 64-bit word at a host address. Read once: the compiler neither repeats nor splits it."""
    return 0


@intrinsic
def store8(address: int, value: int) -> None:
    """Write the low byte of ``value``."""


@intrinsic
def store16(address: int, value: int) -> None:
    """Write the low 16 bits of ``value``."""


@intrinsic
def store32(address: int, value: int) -> None:
    """Write the low 32 bits of ``value``."""


@intrinsic
def store64(address: int, value: int) -> None:
    """Write ``value``."""


@intrinsic
def cas64(address: int, expected: int, value: int) -> int:
    """Compare and swap, sequentially consistent: returns what was there."""
    return 0


@intrinsic
def cas32(address: int, expected: int, value: int) -> int:
    """The same with 32 bits; what was there is zero-extended."""
    return 0


@intrinsic
def xchg64(address: int, value: int) -> int:
    """Atomic exchange; returns what was there."""
    return 0


@intrinsic
def xchg32(address: int, value: int) -> int:
    """Atomic exchange of 32 bits; returns what was there."""
    return 0


@intrinsic
def xchg16(address: int, value: int) -> int:
    """Atomic exchange of 16 bits; returns what was there."""
    return 0


@intrinsic
def xchg8(address: int, value: int) -> int:
    """Atomic exchange of a byte; returns what was there."""
    return 0


@intrinsic
def or64(address: int, bits: int) -> int:
    """Atomic or; returns what was there."""
    return 0


@intrinsic
def and64(address: int, bits: int) -> int:
    """Atomic and; returns what was there."""
    return 0


@intrinsic
def add64(address: int, value: int) -> int:
    """Atomic add; returns what was there."""
    return 0


@intrinsic
def or32(address: int, bits: int) -> int:
    """Atomic or on 32 bits; returns what was there."""
    return 0


@intrinsic
def and32(address: int, bits: int) -> int:
    """Atomic and on 32 bits; returns what was there."""
    return 0


@intrinsic
def or8(address: int, bits: int) -> int:
    """Atomic or on a byte; returns what was there."""
    return 0


@intrinsic
def ult(a: int, b: int) -> bool:
    """Unsigned ``a < b``."""
    return False


@intrinsic
def ule(a: int, b: int) -> bool:
    """Unsigned ``a <= b``."""
    return False


@intrinsic
def shr(value: int, bits: int) -> int:
    """Logical shift right by 0 to 63 bits."""
    return 0


@intrinsic
def udiv(a: int, b: int) -> int:
    """Unsigned quotient; ``b`` must not be 0."""
    return 0


@intrinsic
def mulshift(a: int, b: int, bits: int) -> int:
    """The low 64 bits of the unsigned 128-bit product ``a * b`` shifted right by ``bits``."""
    return 0


@intrinsic
def ctz(value: int) -> int:
    """The number of the lowest set bit; 64 for 0."""
    return 0


@intrinsic
def popcount(value: int) -> int:
    """How many bits are set."""
    return 0


@intrinsic
def float64_add(a: int, b: int) -> int:
    """The sum of two doubles, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float32_add(a: int, b: int) -> int:
    """The sum of two floats, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float64_sub(a: int, b: int) -> int:
    """The difference of two doubles, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float32_sub(a: int, b: int) -> int:
    """The difference of two floats, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float64_mul(a: int, b: int) -> int:
    """The product of two doubles, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float32_mul(a: int, b: int) -> int:
    """The product of two floats, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float64_div(a: int, b: int) -> int:
    """The quotient of two doubles, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def float32_div(a: int, b: int) -> int:
    """The quotient of two floats, all given as their bits, as the host's unit rounds it."""
    return 0


@intrinsic
def fill(address: int, byte: int, size: int) -> None:
    """``memset``."""


@intrinsic
def copy(destination: int, source: int, size: int) -> None:
    """``memmove``."""


@intrinsic
def cpu_relax() -> int:
    """Wait a little for another thread, in a loop that looks at memory until somebody changes it."""
    return 0


@intrinsic
def monotonic() -> int:
    """The host's CLOCK_MONOTONIC, in ns."""
    return 0


@intrinsic
def slots() -> int:
    """The address of ``SLOTS`` words of process-wide memory, for what native code has to find from nothing."""
    return 0


@intrinsic
def call1(function: int, a: int) -> int:
    """Call the C function at an address with one argument."""
    return 0


@intrinsic
def call2(function: int, a: int, b: int) -> int:
    """Call the C function at an address with two arguments."""
    return 0


@intrinsic
def call3(function: int, a: int, b: int, c: int) -> int:
    """Call the C function at an address with three arguments."""
    return 0


@intrinsic
def call4(function: int, a: int, b: int, c: int, d: int) -> int:
    """Call the C function at an address with four arguments."""
    return 0


@intrinsic
def call5(function: int, a: int, b: int, c: int, d: int, e: int) -> int:
    """Call the C function at an address with five arguments."""
    return 0


@intrinsic
def call7(function: int, a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> int:
    """Call the C function at an address with seven arguments."""
    return 0
