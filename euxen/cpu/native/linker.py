"""Makes one object file of the bitcode of all native functions, with calls between them inlined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir

ENTRY_VARIABLE = "euxen.entry."
"""Prefix of the variables through which native functions call each other."""


def _entries(functions: Iterable[tuple[str, int]]) -> str:
    """LLVM assembly that gives each such variable its constant value."""
    module = ir.Module("entries")
    module.triple = llvm.get_process_triple()
    word = ir.IntType(64)
    for name, arity in functions:
        entry = ir.Function(module, ir.FunctionType(word, [word] * arity), name)
        variable = ir.GlobalVariable(module, word, ENTRY_VARIABLE + name)
        variable.initializer = entry.ptrtoint(word)
        variable.global_constant = True
    return str(module)


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def link(functions: Iterable[tuple[str, int]], bitcode: Iterable[bytes]) -> bytes:
    """Link, optimize and emit. ``functions`` are the names and the numbers of arguments of all of them."""
    machine = _target_machine()
    module = llvm.parse_assembly(_entries(functions))
    for code in bitcode:
        module.link_in(llvm.parse_bitcode(code))
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))
