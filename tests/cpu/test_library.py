"""Only the one version of libunicorn is accepted whose insides are known, and people are told so in one sentence."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from terminal import EUXEN, PATIENCE
from toolstack.kernel.elf_writer import Elf, Load, pv_notes

from euxen.cpu import state
from euxen.cpu.unicorn import layout, library
from euxen.cpu.unicorn.engine import UnicornEngine, replacements
from euxen.cpu.unicorn.library import Library, LibraryError

ANOTHER = "is not the library of unicorn 2.1.4; install that version with pip"


def refusal(cache: Path) -> str:
    """Why the library is not loaded."""
    with pytest.raises(LibraryError) as refused:
        Library(cache, {})
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BUILD_ID", layout.BUILD_ID[::-1])
    told = refusal(tmp_path)
    assert told.endswith(f"libunicorn.so.2 {ANOTHER}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF" + bytes(100), bytes(range(256)) * 64], ids=len)
def test_no_library_at_all(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "libunicorn.so.2"
    file.write_bytes(content)
    monkeypatch.setattr(library, "_installed", lambda: file)
    assert refusal(tmp_path / "cache") == f"{file} {ANOTHER}"


def test_a_symbol_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SUFFIX", "_x86_65")
    assert refusal(tmp_path).endswith("_x86_65; install unicorn 2.1.4 with pip")


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal(tmp_path) == "the Python package unicorn is not installed here as a wheel for Linux on x86-64"


def test_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnicornEngine, "library", None)
    with pytest.raises(LibraryError, match=r"^UnicornEngine\.prepare has to be called first$"):
        UnicornEngine(0, 0)


@pytest.mark.parametrize("shift", [8, -8, 1 << 20, 1 << 62])
@pytest.mark.parametrize(
    ("where", "name"),
    [(layout, "UC_CPU"), (layout, "CPU_ENV"), (layout, "CPU_UC"), (layout, "ENV_TO_CPU"),
     (state, "RAX"), (state, "R15"), (state, "EFLAGS")],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_something_is_elsewhere(
    native: None, where: object, name: str, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out before anything is written there."""
    monkeypatch.setattr(where, name, getattr(where, name) + shift)
    memory = mmap.mmap(-1, 1 << 20)
    with pytest.raises(LibraryError, match=r"^libunicorn.* not .*; install .* with pip$"):
        UnicornEngine(ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory) >> 12)


def test_every_replaced_function_is_called_through_a_slot(native: None) -> None:
    """A replacement that no call goes through would replace nothing."""
    assert UnicornEngine.library is not None
    slots = UnicornEngine.library._slots
    assert [name for name in replacements() if not slots[name]] == []


def test_people_are_told(native: None, tmp_path: Path) -> None:
    """By a package with another library, in front of the one that is installed."""
    package = tmp_path / "unicorn" / "lib"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    other = package / "libunicorn.so.2"
    shutil.copy("/proc/self/exe", other)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(Elf(loads=[Load(0x10_0000, b"\xf4")], notes=pv_notes()).build())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [EUXEN, "run", "--kernel", kernel],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (1, "", f"euxen: {other} {ANOTHER}\n")
