"""Debian as a guest: its kernel, and busybox in a RAM disk, fetched through apt and kept in a cache.

Everything lies in ``$XDG_CACHE_HOME/euxen/debian``, in one directory for each version, which appears only when it is
complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from euxen.cpu.native.cache import write_whole
from euxen.toolstack import apt
from euxen.toolstack.errors import UserError
from euxen.toolstack.initramfs import INIT, build_initramfs
from euxen.toolstack.kernel.decompress import compression_of, decompress
from euxen.toolstack.modules import module_name, modules_alias, modules_dep, with_dependencies

_BUSYBOX = "busybox-static"
_FRONT_ENDS = ("xen-blkfront", "xen-netfront")
_FURTHER_MODULES = ("ext4", "crc32c_generic", "isofs")
"""What guests need to use a disk, where it is not in the kernel itself."""
_INDEX, _ALIASES = "modules.dep", "modules.alias"


class Flavour(StrEnum):
    """Which of Debian's kernels."""

    CLOUD = "linux-image-cloud-amd64"
    """Small, for guests; it cannot be Domain 0."""
    FULL = "linux-image-amd64"
    """With all drivers, and for Domain 0, too."""


@dataclass(frozen=True, slots=True)
class DebianGuest:
    """All that a Debian guest is started with."""

    version: str
    """Of the kernel, as uname -r says it: "6.1.0-9-cloud-amd64"."""
    kernel: Path
    """A bzImage."""
    busybox: Path
    """Statically linked."""
    modules: tuple[Path, ...]
    """The front ends, which Debian builds as modules, and file systems, with all that they need."""
    initramfs: Path
    """With busybox, the modules, which modprobe finds, and a shell on the console."""


def cached_debian(flavour: Flavour = Flavour.CLOUD) -> DebianGuest | None:
    """The newest of the fetched versions, or None where there is none. Asks neither apt nor the network.

    Raises UserError where the cache cannot be used.
    """
    try:
        versions = [path for path in _cache().iterdir() if _flavour(path.name) is flavour]
    except OSError:
        return None
    for directory in sorted(versions, key=lambda path: _natural(path.name), reverse=True):
        if guest := _guest(directory):
            return guest
    return None


def fetch_debian(flavour: Flavour = Flavour.CLOUD, progress: apt.Progress = lambda what, done: None) -> DebianGuest:
    """Fetch the version that apt would install, unless the cache has it already.

    Raises UserError without apt, without the network, or where the cache cannot be written.
    """
    image = _image_package(flavour)
    busybox = apt.candidate(_BUSYBOX)
    name = f"{image.package.removeprefix('linux-image-')}_{image.version}"
    directory = _cache() / name
    if guest := _guest(directory):
        return guest
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=directory.parent) as scratch:
            debs = apt.download([image.package, busybox.package], Path(scratch), progress)
            complete = Path(scratch) / name
            complete.mkdir()
            _unpack(debs[image.package], debs[busybox.package], complete, progress)
            _install(complete, directory)
    except OSError as error:
        raise UserError(f"{directory.parent} cannot be written ({error.strerror}); set XDG_CACHE_HOME") from None
    guest = _guest(directory)
    assert guest is not None
    return guest


def _image_package(flavour: Flavour) -> apt.Candidate:
    """What the metapackage stands for today."""
    for dependency in apt.candidate(flavour).depends:
        if dependency.startswith("linux-image-"):
            return apt.candidate(dependency)
    raise UserError(f"Debian's package {flavour} names no kernel; run 'apt-get update' as root and try again")


def _unpack(image: Path, busybox: Path, directory: Path, progress: apt.Progress) -> None:
    progress(f"Unpacking {image.name.partition('_')[0]}", 0)
    (kernel,) = apt.read_files(image, ["*/boot/vmlinuz-*"])  # since usr-merge it may be below /usr
    (directory / "vmlinuz").write_bytes(kernel)
    wanted = {name.replace("-", "_") for name in (*_FRONT_ENDS, *_FURTHER_MODULES)}
    modules = with_dependencies(wanted, lambda names: _modules(image, names))
    for name in _FRONT_ENDS:
        if f"{name}.ko" not in modules:
            raise UserError(f"package {image.name} has no module {name}; fetch it again")
    for file, content in modules.items():
        (directory / file).write_bytes(content)
    (directory / _INDEX).write_text(modules_dep(modules))
    (directory / _ALIASES).write_text(modules_alias(modules))
    progress(f"Unpacking {busybox.name.partition('_')[0]}", 0.9)
    (program,) = apt.read_files(busybox, ["*/bin/busybox"])
    (directory / "busybox").write_bytes(program)
    (directory / "busybox").chmod(0o755)
    progress("Unpacked", 1)


def _modules(image: Path, names: set[str]) -> dict[str, bytes]:
    """Modules of a kernel's package, by the names of their files; newer kernels have them compressed."""

    def key_of(path: str) -> str | None:
        name = PurePosixPath(path).name
        return name.partition(".ko")[0] + ".ko" if "/lib/modules/" in path and module_name(path) in names else None

    modules = apt.read_keyed(image, key_of, len(names))
    for file, content in modules.items():
        if compression := compression_of(memoryview(content)):
            modules[file] = decompress(memoryview(content), compression)
    return modules


def _install(complete: Path, directory: Path) -> None:
    """Give a complete directory its name; where somebody was faster, theirs is as good."""
    if _guest(directory) is None:
        shutil.rmtree(directory, ignore_errors=True)  # of an older euxen, which needed less
    try:
        complete.rename(directory)
    except OSError:
        if _guest(directory) is None:
            raise


def _guest(directory: Path) -> DebianGuest | None:
    """What a directory of the cache holds, or None where that is not all of it."""
    kernel, busybox = directory / "vmlinuz", directory / "busybox"
    index, aliases = directory / _INDEX, directory / _ALIASES
    if not all(path.is_file() for path in (kernel, busybox, index, aliases)):
        return None
    modules = tuple(directory / line.partition(":")[0] for line in index.read_text().splitlines())
    if not all(path.is_file() for path in modules):
        return None
    version = directory.name.partition("_")[0]
    # Named after what it depends on, so that an euxen with another /init makes another one.
    digest = hashlib.sha256(INIT.encode()).hexdigest()[:12]
    initramfs = directory / f"initramfs-{digest}.cpio"
    if not initramfs.is_file():
        content = build_initramfs(
            busybox, {f"lib/modules/{version}/{path.name}": path for path in (*modules, index, aliases)}
        )
        _write_atomically(initramfs, content)
    return DebianGuest(version, kernel, busybox, modules, initramfs)


def _write_atomically(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror}); set XDG_CACHE_HOME") from None


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "euxen" / "debian"
    except RuntimeError:
        raise UserError("there is no home directory to keep Debian's kernels in; set XDG_CACHE_HOME") from None


def _flavour(directory: str) -> Flavour | None:
    """The flavour of the kernel in a directory of the cache, whose name is the kernel's and the package's version."""
    release, separator, _ = directory.partition("_")
    if not separator or not release[0].isdigit():
        return None
    return Flavour.CLOUD if release.endswith("-cloud-amd64") else Flavour.FULL


def _natural(name: str) -> list[int]:
    """A key that sorts 6.1.0-10 behind 6.1.0-9."""
    return [int(number) for number in re.findall(r"\d+", name)]
