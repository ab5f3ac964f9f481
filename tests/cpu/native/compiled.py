"""Native functions of the tests' own, compiled apart from euxen's, and not known to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from euxen.cpu.native import library
from euxen.cpu.native.language import NativeFunction


@contextmanager
def only_these() -> Iterator[dict[str, NativeFunction[Any]]]:
    """What is marked as native here is all there is to be compiled."""
    registry: dict[str, NativeFunction[Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeFunction, "registry", registry)
        yield registry


def native_function(name: str, body: str, parameters: str = "", **scope: object) -> NativeFunction[Any]:
    """A native function out of text. ``scope`` is what it may name."""
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    exec(f"def {name}({parameters}):\n{lines}", scope)
    function: Any = scope[name]
    function.__module__ = "tests"
    with only_these():
        return NativeFunction(function)


def compile_into(cache: Path, *functions: NativeFunction[Any]) -> int:
    """Compile and load functions; returns how many the compiler was needed for."""
    compiled = []
    with only_these() as registry:
        registry.update({function.name: function for function in functions})
        library.load(cache, lambda done, total: compiled.append(done))
    return len(compiled)
