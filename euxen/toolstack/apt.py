"""Debian's packages through apt: which there are, and files out of them. Nothing gets installed.

apt checks the signatures of all that it downloads; apt-get(8), apt-cache(8), dpkg-deb(1).
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from euxen.toolstack.errors import UserError

Progress = Callable[[str, float], None]
"""Is told what is being done, and how much of it is done, from 0 to 1."""

_MAX_FILE = 1 << 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """The version of a package that apt would take."""

    package: str
    version: str
    depends: tuple[str, ...]
    """Names only; of alternatives the first."""


def candidate(package: str) -> Candidate:
    """Look a package up in apt's lists. Raises UserError where apt or the package is not there.

    Uses no network, unless the lists lack the package and we are root: then they are brought up to date.
    """
    fields = _show(package)
    if "Version" not in fields and os.geteuid() == 0:
        _update()
        fields = _show(package)
    if "Version" not in fields:
        raise UserError(
            f"apt knows no package {package}; run 'apt-get update' as root, and if that does not help, "
            "use a host whose apt sources have Debian's archive for amd64"
        )
    depends = (re.match(r"[^\s:(|]+", item.strip()) for item in fields.get("Depends", "").split(","))
    return Candidate(package, fields["Version"], tuple(match[0] for match in depends if match))


def _show(package: str) -> dict[str, str]:
    """The fields of a package's candidate; none where apt does not know the package."""
    shown = _run(["apt-cache", "show", "--no-all-versions", package])
    return dict(re.findall(r"^([A-Za-z-]+): (.*)$", shown, re.MULTILINE))


def download(packages: Sequence[str], directory: Path, progress: Progress) -> dict[str, Path]:
    """Download packages into a directory: each one's .deb file by its name. Raises UserError where that fails."""
    trouble = _download(packages, directory, progress)
    if trouble and os.geteuid() == 0:
        _update()  # the archive drops old versions, which old lists still name
        trouble = _download(packages, directory, progress)
    if trouble:
        if os.strerror(errno.ENOSPC) in trouble:
            advice = "make room, or set XDG_CACHE_HOME"
        else:
            advice = "check the network" if os.geteuid() == 0 else "check the network and run 'apt-get update' as root"
        raise UserError(f"apt-get cannot download {' and '.join(packages)} ({trouble}); {advice}")
    return {package: next(directory.glob(f"{package}_*.deb")) for package in packages}


def _download(packages: Sequence[str], directory: Path, progress: Progress) -> str | None:
    """None, or what went wrong."""
    reading, writing = os.pipe()
    command = ["apt-get", "download", "-q", "-o", f"APT::Status-Fd={writing}", *packages]
    with os.fdopen(reading, encoding="utf-8", errors="replace") as status:
        try:
            process = _start(command, stdout=subprocess.DEVNULL, cwd=directory, pass_fds=[writing])
        finally:
            os.close(writing)
        for line in status:
            # "dlstatus:1:43.2145:Retrieving file 1 of 2": README.progress-reporting of apt
            kind, _, rest = line.partition(":")
            percent = rest.split(":")[1:2]
            if kind == "dlstatus" and percent:
                progress(f"Downloading {packages[0]}", float(percent[0]) / 100)
    _, errors = process.communicate()
    if process.returncode == 0:
        return None
    said = [line.removeprefix("E: ") for line in errors.decode(errors="replace").splitlines() if line.startswith("E: ")]
    return said[0].strip() if said else f"exit code {process.returncode}"


def read_files(deb: Path, patterns: Sequence[str]) -> list[bytes]:
    """The contents of files in a package, one for each pattern (``*/boot/vmlinuz-*``).

    Raises UserError where the package is damaged or lacks one.
    """
    found: dict[str, bytes] = {}

    def key_of(name: str) -> str | None:
        return next((pattern for pattern in patterns if pattern not in found and fnmatchcase(name, pattern)), None)

    _read(deb, key_of, found, len(patterns))
    for pattern in patterns:
        if pattern not in found:
            raise UserError(f"package {deb.name} has no file {pattern}; fetch it again")
    return [found[pattern] for pattern in patterns]


def read_keyed(deb: Path, key_of: Callable[[str], str | None], most: int) -> dict[str, bytes]:
    """The contents of up to ``most`` files in a package, by the keys that ``key_of`` gives their names; None for no.

    Raises UserError where the package is damaged.
    """
    found: dict[str, bytes] = {}
    _read(deb, key_of, found, most)
    return found


def _read(deb: Path, key_of: Callable[[str], str | None], found: dict[str, bytes], most: int) -> None:
    # Leaving the block closes the pipe, which stops dpkg-deb where all was found before the end.
    with _start(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    key = key_of(member.name) if member.isreg() else None
                    if key is not None:
                        content = archive.extractfile(member)
                        assert content is not None
                        found[key] = content.read(_MAX_FILE)
                        if len(found) == most:
                            return
        except tarfile.TarError as error:
            raise UserError(f"package {deb.name} cannot be unpacked ({error}); fetch it again") from None


def _update() -> None:
    """apt-get update; what fails here shows again, and better, when the package is asked for."""
    _run(["apt-get", "update", "-q"])


def _run(command: list[str]) -> str:
    output, _ = _start(command, stdout=subprocess.PIPE).communicate()
    return output.decode(errors="replace")


def _start(
    command: list[str], stdout: int, cwd: Path | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd,
            pass_fds=pass_fds,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on this host; Debian's kernels can be fetched on Debian and its descendants only, "
            "elsewhere give a kernel and a RAM disk of your own"
        ) from None
