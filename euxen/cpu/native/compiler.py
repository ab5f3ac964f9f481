"""Turns native functions into LLVM bitcode. The only module that imports numba.

numba compiles each function for 64-bit integers; around each we put an entry point of the C calling
convention with the function's own name. Numba's arithmetic turns a mix of signed and unsigned integers
into floating point without a word, so every inferred type is checked: a function in which anything but
integers and booleans appears is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numba
from numba.core import errors, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import typeof_impl

from euxen.abi.structure import StructureType
from euxen.cpu.native.language import SLOTS, Intrinsic, NativeFunction
from euxen.cpu.native.linker import ENTRY_VARIABLE

I1, I8, I16, I32, I64, I128 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64, 128))
BYTES = I8.as_pointer()

Lowering = Callable[..., Any]


def _pointer(b: Any, address: Any, kind: Any) -> Any:
    return b.inttoptr(address, kind.as_pointer())


def _load(kind: Any, extend: str = "zext") -> Lowering:
    def lower(b: Any, address: Any) -> Any:
        value = b.load(_pointer(b, address, kind), align=1)
        # Volatile: shared memory is read once, exactly where the code says so.
        value.volatile = True
        return value if kind is I64 else getattr(b, extend)(value, I64)

    return lower


def _store(kind: Any) -> Lowering:
    def lower(b: Any, address: Any, value: Any) -> None:
        b.store(value if kind is I64 else b.trunc(value, kind), _pointer(b, address, kind), align=1)

    return lower


def _atomic(operation: str, kind: Any = I64) -> Lowering:
    def lower(b: Any, address: Any, value: Any) -> Any:
        operand = value if kind is I64 else b.trunc(value, kind)
        old = b.atomic_rmw(operation, _pointer(b, address, kind), operand, "seq_cst")
        return old if kind is I64 else b.zext(old, I64)

    return lower


def _cas(kind: Any) -> Lowering:
    def lower(b: Any, address: Any, expected: Any, value: Any) -> Any:
        operands = [operand if kind is I64 else b.trunc(operand, kind) for operand in (expected, value)]
        old = b.extract_value(b.cmpxchg(_pointer(b, address, kind), *operands, "seq_cst", "seq_cst"), 0)
        return old if kind is I64 else b.zext(old, I64)

    return lower


def _mulshift(b: Any, x: Any, y: Any, bits: Any) -> Any:
    product = b.mul(b.zext(x, I128), b.zext(y, I128))
    return b.trunc(b.lshr(product, b.zext(bits, I128)), I64)


def _call(b: Any, function: Any, *args: Any) -> Any:
    kind = ir.FunctionType(I64, [I64] * len(args))
    return b.call(b.inttoptr(function, kind.as_pointer()), args)


def _libc(name: str, second: Any) -> Lowering:
    def lower(b: Any, address: Any, value: Any, size: Any) -> None:
        kind = ir.FunctionType(BYTES, [BYTES, second, I64])
        function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        operand = b.inttoptr(value, BYTES) if second is BYTES else b.trunc(value, second)
        b.call(function, [b.inttoptr(address, BYTES), operand, size])

    return lower


def _float(operation: str, kind: Any, bits: Any) -> Lowering:
    def lower(b: Any, x: Any, y: Any) -> Any:
        operands = [b.bitcast(value if bits is I64 else b.trunc(value, bits), kind) for value in (x, y)]
        result = b.bitcast(getattr(b, operation)(*operands), bits)
        return result if bits is I64 else b.zext(result, I64)

    return lower


def _monotonic(b: Any) -> Any:
    kind = ir.FunctionType(I32, [I32, I64.as_pointer()])
    function = b.module.globals.get("clock_gettime") or ir.Function(b.module, kind, "clock_gettime")
    with b.goto_entry_block():
        timespec = b.alloca(I64, I64(2))
    b.call(function, [I32(time.CLOCK_MONOTONIC), timespec])
    seconds, nanoseconds = b.load(timespec), b.load(b.gep(timespec, [I64(1)]))
    return b.add(b.mul(seconds, I64(1_000_000_000)), nanoseconds)


def _slots(b: Any) -> Any:
    kind = ir.ArrayType(I64, SLOTS)
    variable = b.module.globals.get("euxen.slots") or ir.GlobalVariable(b.module, kind, "euxen.slots")
    variable.linkage = "common"  # every module declares it, and linking makes them one
    variable.initializer = kind(None)
    return b.ptrtoint(variable, I64)


LOWERINGS: dict[str, Lowering] = {
    "load8": _load(I8),
    "load16": _load(I16),
    "load32": _load(I32),
    "load32s": _load(I32, "sext"),
    "load64": _load(I64),
    "store8": _store(I8),
    "store16": _store(I16),
    "store32": _store(I32),
    "store64": _store(I64),
    "cas64": _cas(I64),
    "cas32": _cas(I32),
    "xchg64": _atomic("xchg"),
    "xchg32": _atomic("xchg", I32),
    "xchg16": _atomic("xchg", I16),
    "xchg8": _atomic("xchg", I8),
    "or64": _atomic("or"),
    "and64": _atomic("and"),
    "add64": _atomic("add"),
    "or32": _atomic("or", I32),
    "and32": _atomic("and", I32),
    "or8": _atomic("or", I8),
    "ult": lambda b, x, y: b.icmp_unsigned("<", x, y),
    "ule": lambda b, x, y: b.icmp_unsigned("<=", x, y),
    "shr": lambda b, x, bits: b.lshr(x, bits),
    "udiv": lambda b, x, y: b.udiv(x, y),
    "mulshift": _mulshift,
    "ctz": lambda b, x: b.cttz(x, I1(0)),
    "popcount": lambda b, x: b.ctpop(x),
    "slots": _slots,
    "monotonic": _monotonic,
    **{f"float64_{name}": _float(f"f{name}", ir.DoubleType(), I64) for name in ("add", "sub", "mul", "div")},
    **{f"float32_{name}": _float(f"f{name}", ir.FloatType(), I32) for name in ("add", "sub", "mul", "div")},
    "fill": _libc("memset", I32),
    "copy": _libc("memmove", BYTES),
    **{f"call{n}": _call for n in (1, 2, 3, 4, 5, 7)},
}
PREDICATES = {"ult", "ule"}


@typeof_impl.register(StructureType)
def _type_of_structure(value: StructureType, context: Any) -> Any:
    """A structure is to numba a module of constants: the offsets of its fields."""
    return types.Module(value)  # type: ignore[no-untyped-call]


class NativeTypeError(Exception):
    """A native function that numba does not understand, or in which it inferred something that is no integer."""


def _numba_intrinsic(source: Intrinsic) -> Any:
    """Wrap a lowering as numba's kind of intrinsic: (i64, ...) -> i64, bool or nothing."""
    lowering = LOWERINGS[source.name]
    result: Any
    if source.name.startswith("store") or source.name in ("fill", "copy"):
        result = types.void
    else:
        result = types.boolean if source.name in PREDICATES else types.int64
    return _wrap(source.name, source.arity, result, lowering)


def _wrap(name: str, arity: int, result: Any, lowering: Lowering) -> Any:
    signature = result(*[types.int64] * arity)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        value = lowering(builder, *args)
        return context.get_dummy_value() if result is types.void else value

    names = "".join(f", a{i}" for i in range(arity))
    scope: dict[str, Any] = {"signature": signature, "codegen": codegen}
    # numba counts the parameters of the function that it is given, so it needs the right number.
    exec(f"def {name}(typingctx{names}):\n    return signature, codegen", scope)
    return numba_intrinsic(scope[name])


_callables: dict[str, Any] = {}


def numba_type_of(source: Intrinsic | NativeFunction[Any]) -> Any:
    """The numba type of a global that native code names."""
    return cpu_target.typing_context.resolve_value_type(_callables[source.name])


def _declare(functions: Iterable[NativeFunction[Any]]) -> None:
    """Make every intrinsic and every native function known to numba, so that they can be called."""
    _callables.update({name: _numba_intrinsic(known) for name, known in Intrinsic.registry.items()})
    _callables.update({function.name: _call_of(function) for function in functions})
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def _call_of(function: NativeFunction[Any]) -> Any:
    """A call of one native function by another.

    It goes through a variable that the linker makes a constant: so each function is compiled alone, in
    any order, and LLVM sees plain calls once all are linked.
    """

    def lower(b: Any, *args: Any) -> Any:
        name = ENTRY_VARIABLE + function.name
        variable = b.module.globals.get(name) or ir.GlobalVariable(b.module, I64, name)
        variable.linkage = "common"
        variable.initializer = I64(0)
        return _call(b, b.load(variable), *args)

    return _wrap("native_call", function.arity, types.int64, lower)


def _is_native(kind: Any) -> bool:
    """Whether native code may have a value of a type: an integer or a condition, or what names or counts them."""
    if isinstance(kind, types.IntegerLiteral):
        return bool(-(1 << 63) <= kind.literal_value < 1 << 63)
    names = (types.Boolean, types.BooleanLiteral, types.Function, types.Module, types.NoneType)
    counts = (types.RangeType, types.RangeIteratorType, types.Pair)
    return kind == types.int64 or isinstance(kind, names + counts)


def _in_one_line(error: Exception) -> str:
    """What numba has to say, without its headings and colours."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("Failed in", "During:")))


def _compile(function: NativeFunction[Any]) -> Any:
    """Compile one function; returns numba's result."""
    signature = types.int64(*[types.int64] * (function.arity + function.wants_return_address))
    options = {"error_model": "numpy", "boundscheck": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    try:
        dispatcher = numba.njit(signature, **options)(function.function)  # type: ignore[call-overload]
    except (errors.NumbaError, errors.UnsupportedBytecodeError, TypeError) as error:
        raise NativeTypeError(f"{function.name}: {_in_one_line(error)}") from error
    (result,) = dispatcher.overloads.values()
    for name, kind in result.type_annotation.typemap.items():
        if not _is_native(kind):
            raise NativeTypeError(f"{function.name}: {name} became {kind}, and native code has only 64-bit integers")
    return result


def _entry_point(function: NativeFunction[Any], result: Any) -> ir.Module:
    """The C function for a native function: calls numba's form of it and drops numba's status.

    A last parameter named ``return_address`` is not C's: the entry point finds it out.
    """
    module = ir.Module(function.name)
    module.triple = llvm.get_process_triple()
    words = [I64] * (function.arity + function.wants_return_address)
    inner_type = ir.FunctionType(I32, [I64.as_pointer(), BYTES.as_pointer(), *words])
    inner = ir.Function(module, inner_type, result.fndesc.llvm_func_name)
    entry = ir.Function(module, ir.FunctionType(I64, [I64] * function.arity), function.name)
    builder = ir.IRBuilder(entry.append_basic_block())
    value, exception = builder.alloca(I64), builder.alloca(BYTES)
    args = list(entry.args)
    if function.wants_return_address:
        intrinsic = ir.Function(module, ir.FunctionType(BYTES, [I32]), "llvm.returnaddress")
        args.append(builder.ptrtoint(builder.call(intrinsic, [I32(0)]), I64))
    builder.call(inner, [value, exception, *args])
    builder.ret(builder.load(value))
    return module


def compile_functions(functions: list[NativeFunction[Any]], known: Iterable[NativeFunction[Any]]) -> Iterator[bytes]:
    """Compile ``functions``, which may call any of ``known``; yields the LLVM bitcode of each."""
    _declare(known)
    for function in functions:
        result = _compile(function)
        module = llvm.parse_bitcode(result.library._final_module.as_bitcode())
        module.link_in(llvm.parse_assembly(str(_entry_point(function, result))))
        for defined in list(module.functions):
            if not defined.is_declaration and defined.name != function.name:
                defined.linkage = "internal"
        yield module.as_bitcode()
