"""Keeps the compiled native runtime in a cache and loads it into the process.

The cache's key is what the machine code depends on: the byte code and constants of every native
function, the versions of the compilers, and the host's CPU. Comments and docstrings do not count.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import llvmlite.binding as llvm

from euxen.abi.structure import StructureType
from euxen.cpu.native.cache import forget_unused, keep, kept
from euxen.cpu.native.language import SLOTS, Intrinsic, NativeFunction

Progress = Callable[[int, int], None]

_engines: list[Any] = []
"""Keeps the loaded code in memory for as long as the process lives."""


def _fingerprint(function: NativeFunction[Any]) -> str:
    """What one function's machine code depends on, as text."""
    code: CodeType = function.function.__code__
    scope = function.function.__globals__
    doc = function.__doc__
    words = [function.name, code.co_code.hex(), repr([c for c in code.co_consts if c != doc]), repr(code.co_varnames)]
    for name in code.co_names:
        value = scope.get(name)
        if isinstance(value, ModuleType | StructureType):
            attributes = {n: vars(value)[n] for n in code.co_names if isinstance(vars(value).get(n), int)}
            words.append(f"{name}={sorted(attributes.items())}")
        elif isinstance(value, NativeFunction | Intrinsic):
            words.append(f"{name}->{value.name}")
        else:
            words.append(f"{name}={value!r}" if isinstance(value, int) else name)
    return "\n".join(words)


def _toolchain() -> str:
    """What all machine code depends on: the compilers, and the CPU that it is for."""
    ours = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("compiler.py", "linker.py"))
    versions = [sys.version, *(importlib.metadata.version(name) for name in ("numba", "llvmlite"))]
    cpu = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    return "\n".join((hashlib.sha256(ours).hexdigest(), str(SLOTS), *versions, *cpu))


def load(cache: Path, progress: Progress = lambda done, total: None) -> None:
    """Make every native function that was imported so far callable, compiling only what no cache holds.

    ``cache`` is a directory, made if it is absent; a cache that can't be written costs time and
    nothing else. Where all are callable already, nothing happens: another copy would have slots of
    its own, without what was put into those in use.
    """
    if all(function.is_bound for function in NativeFunction.registry.values()):
        return
    functions = [NativeFunction.registry[name] for name in sorted(NativeFunction.registry)]
    toolchain = _toolchain()
    prints = [_hash(toolchain, _fingerprint(function)) for function in functions]
    path = cache / f"functions-{_hash(*prints)}.o"
    data = kept(path)
    if data is None:
        data = _build(functions, prints, cache / "functions", progress)
        keep(path, data)
        forget_unused(cache, "functions-*.o")
        forget_unused(cache / "functions", "*.bc")
    _bind(data)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _build(functions: list[NativeFunction[Any]], prints: list[str], cache: Path, progress: Progress) -> bytes:
    """Compile what changed and link it with what did not."""
    code: dict[str, bytes] = {}
    missing: list[NativeFunction[Any]] = []
    for function, fingerprint in zip(functions, prints, strict=True):
        bitcode = kept(cache / f"{fingerprint}.bc")
        if bitcode is None:
            missing.append(function)
        else:
            code[function.name] = bitcode
    if missing:
        from euxen.cpu.native import compiler

        fingerprint_of = dict(zip((function.name for function in functions), prints, strict=True))
        compiled = compiler.compile_functions(missing, functions)
        for done, (function, bitcode) in enumerate(zip(missing, compiled, strict=True), start=1):
            code[function.name] = bitcode
            keep(cache / f"{fingerprint_of[function.name]}.bc", bitcode)
            progress(done, len(missing))
    from euxen.cpu.native import linker

    return linker.link([(function.name, function.arity) for function in functions], code.values())


def _bind(data: bytes) -> None:
    """Load an object file and give every native function its address."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    _engines.append(engine)
    for function in NativeFunction.registry.values():
        address = engine.get_function_address(function.name)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * function.arity)
        function.bind(address, prototype(address))
