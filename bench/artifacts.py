"""What every side boots: Debian's kernel, one RAM disk with the benchmark in it, and Xen.

All of it lies in `$XDG_CACHE_HOME/euxen/bench`; nothing gets installed.
"""

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from euxen.toolstack import apt
from euxen.toolstack.debian import Flavour, fetch_debian
from euxen.toolstack.errors import UserError
from euxen.toolstack.initramfs import build_initramfs
from euxen.toolstack.kernel.image import read_kernel

XEN = "xen-hypervisor-4.17-amd64"

GUEST = Path(__file__).parent / "guest"
"""What runs in the guest: the program in C, and /init."""


@dataclass(frozen=True)
class Artifacts:
    """The files that the sides boot, by their names in `directory`."""

    directory: Path
    vmlinux: str
    """Uncompressed, so that no side's start is the time that it takes to unpack a kernel."""
    initramfs: str
    xen: str
    """Empty where it was not asked for."""
    versions: dict[str, str]


def cache() -> Path:
    """Where everything that was fetched, made and logged is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "euxen" / "bench"


def prepare(with_xen: bool) -> Artifacts:
    """Fetch and make what is not there yet. Raises UserError where something that this needs is missing."""
    directory = cache()
    directory.mkdir(parents=True, exist_ok=True)

    # The full kernel: the one for clouds cannot be Domain 0.
    debian = fetch_debian(Flavour.FULL, _Progress())
    kernel = debian.kernel.parent.name
    vmlinux = _made(directory / f"vmlinux-{kernel}", lambda: read_kernel(debian.kernel).elf_bytes)

    initramfs = directory / "initramfs.cpio"
    program = compile_static(GUEST / "bench.c", directory / "bench")
    initramfs.write_bytes(build_initramfs(debian.busybox, {"init": GUEST / "init", "bin/bench": program}))

    versions, xen = {"kernel": kernel}, ""
    if with_xen:
        versions["xen"] = apt.candidate(XEN).version
        xen = _made(directory / f"xen-{versions['xen']}", _fetch_xen)
    return Artifacts(directory, vmlinux, initramfs.name, xen, versions)


def _fetch_xen() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        deb = apt.download([XEN], Path(scratch), _Progress())[XEN]
        (compressed,) = apt.read_files(deb, ["./boot/xen-4.17-amd64.gz"])
    return gzip.decompress(compressed)


def _made(path: Path, make: Callable[[], bytes | memoryview]) -> str:
    """The name of a file that is made once, and is either whole or not there."""
    if not path.exists():
        partial = path.with_name(f".{path.name}")
        partial.write_bytes(make())
        partial.rename(path)
    return path.name


def compile_static(source: Path, program: Path) -> Path:
    """Compile what runs in the guest: static, because its RAM disk has no libraries. Raises UserError."""
    command = ["gcc", "-O2", "-static", "-Wall", "-o", str(program), str(source)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError("gcc is not on this host; install Debian's packages gcc and libc6-dev") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{source} cannot be compiled: {error.stderr.strip()}") from None
    return program


class _Progress:
    """Tells a person each thing that is fetched, once."""

    def __init__(self) -> None:
        self._told = ""

    def __call__(self, what: str, done: float) -> None:
        if what != self._told and done < 1:
            print(f"{what} ...", file=sys.stderr)
            self._told = what
