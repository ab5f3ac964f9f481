"""What every side boots: Debian's kernel, one ramdisk with the benchmark in it, and Xen.

Debian's packages come by apt, which checks their signatures, and are unpacked into a directory of ours: nothing is
installed for it. All is kept in $XDG_CACHE_HOME/euxen/bench.
"""

import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError

KERNEL = "linux-image-amd64"
XEN = "xen-hypervisor-4.17-amd64"
BUSYBOX = "busybox-static"

_GUEST = Path(__file__).parent / "guest"


@dataclass(frozen=True)
class Artifacts:
    """The files that the sides boot, all in `directory`, and the versions of the Debian packages they are from."""

    directory: Path
    versions: dict[str, str]
    vmlinux: str = "vmlinux"
    initramfs: str = "initramfs.cpio.gz"
    xen: str = "xen"


def cache() -> Path:
    """Where everything that was fetched and made is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "euxen" / "bench"


def prepare(with_xen: bool) -> Artifacts:
    """Fetch and build what is not there yet. Raises BenchError where something that this needs is missing."""
    directory = cache() / "boot"
    directory.mkdir(parents=True, exist_ok=True)
    versions: dict[str, str] = {}
    artifacts = Artifacts(directory, versions)

    image = _dependency(KERNEL, r"linux-image-[0-9.]+-[0-9]+-amd64")
    tree, versions[image] = _unpacked(image)
    (directory / artifacts.vmlinux).write_bytes(_vmlinux(tree / "boot" / image.replace("linux-image", "vmlinuz")))

    tree, versions[BUSYBOX] = _unpacked(BUSYBOX)
    program = _compile(_GUEST / "bench.c", cache() / "bench")
    (directory / artifacts.initramfs).write_bytes(_initramfs(tree / "bin/busybox", program))

    if with_xen:
        tree, versions[XEN] = _unpacked(XEN)
        (directory / artifacts.xen).write_bytes(gzip.decompress((tree / "boot/xen-4.17-amd64.gz").read_bytes()))
    return artifacts


def _unpacked(package: str) -> tuple[Path, str]:
    """The tree of files of a Debian package, and its version."""
    shown = _output(["apt-cache", "show", "--no-all-versions", package], f"apt knows no package {package}")
    version = _one(r"^Version: (\S+)$", shown, f"apt tells no version of {package}")
    tree = cache() / f"{package}_{version}"
    if not tree.exists():
        partial = tree.with_name(f".{tree.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _output(["apt-get", "download", "-q", package], f"cannot download {package}", partial)
        archive = next(partial.glob("*.deb"))
        _output(["dpkg-deb", "-x", archive.name, "."], f"cannot unpack {package}", partial)
        archive.unlink()
        partial.rename(tree)
    return tree, version


def _dependency(package: str, pattern: str) -> str:
    """The package that a metapackage stands for."""
    shown = _output(["apt-cache", "depends", package], f"apt knows no package {package}")
    return _one(rf"Depends: ({pattern})$", shown, f"{package} depends on no {pattern}")


def _vmlinux(bzimage: Path) -> bytes:
    """The uncompressed kernel in a bzImage (Linux, Documentation/x86/boot.rst: payload_offset and payload_length)."""
    data = bzimage.read_bytes()
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] + 1) * 512 + offset
    return lzma.LZMADecompressor().decompress(data[start : start + length])


def _compile(source: Path, program: Path) -> Path:
    command = ["gcc", "-O2", "-static", "-Wall", "-o", str(program), str(source)]
    _output(command, f"cannot compile {source.name}")
    return program


def _initramfs(busybox: Path, program: Path) -> bytes:
    """A ramdisk for Linux: a cpio archive in the format "newc", gzipped."""
    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        ("bin", 0o040755, b"", (0, 0)),
        ("bin/busybox", 0o100755, busybox.read_bytes(), (0, 0)),
        ("bin/sh", 0o120777, b"busybox", (0, 0)),
        ("bin/poweroff", 0o120777, b"busybox", (0, 0)),
        ("bin/bench", 0o100755, program.read_bytes(), (0, 0)),
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("init", 0o100755, (_GUEST / "init").read_bytes(), (0, 0)),
        ("TRAILER!!!", 0, b"", (0, 0)),
    ]
    archive = bytearray()
    for inode, (name, mode, data, device) in enumerate(entries, 1):
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % number for number in fields) + path
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return gzip.compress(archive, mtime=0)


def _output(command: list[str], trouble: str, directory: Path | None = None) -> str:
    """What a command prints. Raises BenchError with `trouble` and the command's last words if it fails."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchError(f"{trouble}: {command[0]} is not installed.") from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchError(f"{trouble}: {words[-1]}")
    return done.stdout


def _one(pattern: str, text: str, trouble: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise BenchError(f"{trouble}.")
    return found[1]
