"""AT&T assembler for tests that execute code."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def assemble(source: str, bits: int = 64, origin: int = 0) -> bytes:
    """Machine code, for the address ``origin`` and those after it."""
    with tempfile.TemporaryDirectory() as directory:
        object_file, linked, binary = (str(Path(directory, name)) for name in ("code.o", "code", "code.bin"))
        width, emulation = (64, "elf_x86_64") if bits == 64 else (32, "elf_i386")
        _run(["as", f"--{width}", "-o", object_file, "-"], f"{source}\n")
        _run(["ld", "-m", emulation, "-Ttext", hex(origin), "-e", hex(origin), "-o", linked, object_file])
        _run(["objcopy", "-O", "binary", "-j", ".text", linked, binary])
        return Path(binary).read_bytes()


def _run(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"{done.stderr}{text}")
