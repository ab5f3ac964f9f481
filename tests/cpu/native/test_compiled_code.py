"""Native functions from source to machine code, and the cache between: nothing twice, and nothing that is stale."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from compiled import compile_into, native_function

from euxen.abi.structure import Structure, u64
from euxen.cpu.native.cache import UNUSED_SECONDS
from euxen.cpu.native.compiler import NativeTypeError
from euxen.cpu.native.language import load64
from euxen.cpu.native.memory import Memory, Record

DAY = 86400


def objects(cache: Path) -> list[Path]:
    return sorted(cache.glob("functions-*.o"))


def bitcode(cache: Path) -> list[Path]:
    return sorted(cache.glob("functions/*.bc"))


# ---- The cache ----


def test_nothing_is_compiled_twice(tmp_path: Path) -> None:
    for compiled in (1, 0):
        function = native_function("f", "return a + 1", "a")
        assert compile_into(tmp_path, function) == compiled
        assert function(4) == 5
    assert (len(objects(tmp_path)), len(bitcode(tmp_path))) == (1, 1)


def test_only_what_changed_is_compiled(tmp_path: Path) -> None:
    """And those that call it call what it is now, although they are inlined."""
    for constant, compiled in ((1, 2), (2, 1), (1, 0)):
        inner = native_function("inner", f"return a + {constant}", "a")
        outer = native_function("outer", "return inner(a) * 10", "a", inner=inner)
        assert compile_into(tmp_path, inner, outer) == compiled
        assert outer(4) == (4 + constant) * 10


class First(Structure):
    one: int = u64()
    two: int = u64()


class Second(Structure):
    two: int = u64()
    one: int = u64()


def module(value: int) -> ModuleType:
    constants = ModuleType("constants")
    vars(constants)["VALUE"] = value
    return constants


@pytest.mark.parametrize(
    ("body", "old", "new", "results"),
    [
        ("return X", 1, 2, (1, 2)),
        ("return X.VALUE", module(3), module(4), (3, 4)),
        ("return X.two", First, Second, (8, 0)),
    ],
    ids=["constant", "constant of a module", "field"],
)
def test_what_a_function_names_counts(
    body: str, old: object, new: object, results: tuple[int, int], tmp_path: Path
) -> None:
    for value, result in zip((old, new), results, strict=True):
        function = native_function("f", body, X=value)
        assert compile_into(tmp_path, function) == 1
        assert function() == result


def test_words_about_a_function_do_not_count(tmp_path: Path) -> None:
    assert compile_into(tmp_path, native_function("f", '"""One."""\nreturn a', "a")) == 1
    assert compile_into(tmp_path, native_function("f", '"""Another."""\n\n# and\nreturn a', "a")) == 0


def damages() -> list[Callable[[bytes], bytes]]:
    return [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: bytes(len(data)),
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: data + b"\0",
    ]


@pytest.mark.parametrize("damage", damages(), ids=["empty", "short", "zeroes", "one bit", "long"])
def test_damaged_files_are_made_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert compile_into(tmp_path, native_function("f", "return a + 1", "a")) == 1
    for files, compiled in ((objects, 0), (lambda cache: objects(cache) + bitcode(cache), 1)):
        for path in files(tmp_path):
            path.write_bytes(damage(path.read_bytes()))
        function = native_function("f", "return a + 1", "a")
        assert compile_into(tmp_path, function) == compiled
        assert function(4) == 5


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    for _ in range(2):
        function = native_function("f", "return a + 1", "a")
        assert compile_into(occupied / "cache", function) == 1
        assert function(4) == 5


SCRIPT = """
import sys
from pathlib import Path
from compiled import compile_into, native_function
functions = [native_function(f"f{n}", f"return a + {n}", "a") for n in range(5)]
compile_into(Path(sys.argv[1]), *functions)
print([function(10) for function in functions])
"""


def test_two_processes_may_fill_it_at_once(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in processes] == ["[10, 11, 12, 13, 14]\n"] * 2
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "functions", *objects(tmp_path)])
    assert (len(objects(tmp_path)), len(list((tmp_path / "functions").iterdir()))) == (1, 5)


def test_what_nobody_has_used_for_long_goes(tmp_path: Path) -> None:
    """When something is added; what was used lately stays, whenever it was made."""
    compile_into(tmp_path, native_function("f", "return 1"))
    compile_into(tmp_path, native_function("f", "return 2"))
    long_ago = time.time() - UNUSED_SECONDS - DAY
    for path in (*objects(tmp_path), *bitcode(tmp_path)):
        os.utime(path, (long_ago, long_ago))
    assert compile_into(tmp_path, native_function("f", "return 2")) == 0
    (used,) = (path for path in objects(tmp_path) if path.stat().st_mtime > long_ago + 1)
    assert compile_into(tmp_path, native_function("f", "return 3")) == 1
    assert used in objects(tmp_path)
    assert (len(objects(tmp_path)), len(bitcode(tmp_path))) == (2, 1)


# ---- What cannot be native ----


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return a / 2", "float64"),
        ("return a + 0x8000_0000_0000_0000", "9223372036854775808"),
        ("return (1, 2)[a]", ""),
        ("return a if a else None", ""),
        ("return a + 0.5", "float64"),
        ("return unknown", "unknown"),
        ("return len(str(a))", ""),
        ("return [a]", ""),
        ("return load64()", ""),
        ("return load64(a, a)", ""),
        ("return print", ""),
        ("import os\nreturn os.getpid()", ""),
        ("raise ValueError(a)", ""),
    ],
)
def test_the_function_and_the_reason_are_named(body: str, reason: str, tmp_path: Path) -> None:
    function = native_function("culprit", body, "a", load64=load64)
    with pytest.raises(NativeTypeError) as refused:
        compile_into(tmp_path, function)
    told = str(refused.value)
    assert told.startswith("tests.culprit: ")
    assert "\n" not in told
    assert reason in told
    assert not function.is_bound


def test_a_function_is_of_no_use_before_it_is_loaded() -> None:
    function = native_function("f", "return 1")
    told = r"^tests\.f: the native library is not loaded$"
    with pytest.raises(RuntimeError, match=told):
        function()
    with pytest.raises(RuntimeError, match=told):
        _ = function.address


# ---- Calls ----


def test_native_functions_call_each_other(tmp_path: Path) -> None:
    """In any order, and themselves."""
    other = native_function("other", "return a - 1", "a")
    factorial = native_function("factorial", "return a * factorial(other(a)) if a > 1 else 1", "a", other=other)
    factorial.function.__globals__["factorial"] = factorial
    compile_into(tmp_path, factorial, other)
    assert factorial(10) == 3_628_800


def test_the_return_address_is_in_code(tmp_path: Path) -> None:
    function = native_function("f", "return return_address if a == 3 else 0", "a, return_address")
    compile_into(tmp_path, function)
    assert function.arity == 1
    address = function(3)
    with Path("/proc/self/maps").open() as maps:
        (rights,) = (
            line.split()[1]
            for line in maps
            if int(line.split("-")[0], 16) <= address < int(line.split("-")[1].split()[0], 16)
        )
    assert "x" in rights


# ---- Memory ----


def test_memory_is_zero_and_stays_where_it_is(tmp_path: Path) -> None:
    function = native_function("f", "return load64(a)", "a", load64=load64)
    compile_into(tmp_path, function)
    memory = Memory(20)
    assert bytes(memory.view[:20]) == bytes(20)
    assert len(memory.words()) == 2
    memory.words()[1] = 7
    assert function(memory.address + 8) == 7
    assert Memory(0).size == 0


def test_a_record_has_its_fields_by_name() -> None:
    memory = Memory(48)
    record = Record(Second, memory, 16)
    record["one"] = -1
    assert record["one"] == (1 << 64) - 1
    assert record["two"] == 0
    assert list(memory.words()) == [0, 0, 0, (1 << 64) - 1, 0, 0]
    assert record.address == memory.address + 16
    with pytest.raises(AttributeError, match=r"^Second has no field 'three'$"):
        record["three"]
