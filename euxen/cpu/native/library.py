"""Keeps the compiled native runtime in a cache and loads it into the process.

The cache's key is what the machine code depends on: the byte code and constants of every native
function, the versions of the compilers, and the host's CPU. Comments and docstrings do not count.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import llvmlite.binding as llvm

from euxen.abi.structure import StructureType
from euxen.cpu.native.language import Intrinsic, NativeFunction

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


def cache_key() -> str:
    """A hash over everything that the compiled library depends on."""
    compiler = Path(__file__).with_name("compiler.py").read_bytes()
    digest = hashlib.sha256(compiler)
    versions = [sys.version, *(importlib.metadata.version(name) for name in ("numba", "llvmlite"))]
    for text in (*versions, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()):
        digest.update(text.encode())
    for name in sorted(NativeFunction.registry):
        digest.update(_fingerprint(NativeFunction.registry[name]).encode())
    return digest.hexdigest()[:32]


def load(cache: Path, progress: Progress = lambda done, total: None) -> None:
    """Make every native function that was imported so far callable, compiling only what no cache holds.

    ``cache`` is a directory, made if it is absent; a cache that can't be written costs time and
    nothing else.
    """
    path = cache / f"native-{cache_key()}.o"
    try:
        data = path.read_bytes()
    except OSError:
        from euxen.cpu.native import compiler

        data = compiler.compile_object(NativeFunction.registry.values(), progress)
        _keep(path, data)
    _bind(data)


def _keep(path: Path, data: bytes) -> None:
    """Write the cache file whole or not at all."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)


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
