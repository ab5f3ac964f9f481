"""Files out of Debian's packages that tests boot, run or compare with. Nothing of them gets installed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from euxen.hypervisor.machine import cache_directory
from euxen.toolstack import apt
from euxen.toolstack.errors import UserError

T = TypeVar("T")


def need(fetch: Callable[[], T]) -> T:
    """What ``fetch`` brings. Where it cannot, the test fails: it is left out only by who says EUXEN_OFFLINE=1."""
    try:
        return fetch()
    except UserError as error:
        if os.environ.get("EUXEN_OFFLINE"):
            pytest.skip(str(error))
        pytest.fail(f"{error} (or set EUXEN_OFFLINE=1 to leave out what needs it)", pytrace=False)


def package_files(package: str, *patterns: str) -> list[Path]:
    """One file of a package for each pattern, kept in euxen's cache. Raises UserError."""
    version = apt.candidate(package).version
    directory = cache_directory() / "tests" / f"{package}_{version}"
    paths = [directory / pattern.rpartition("/")[2] for pattern in patterns]
    if not all(path.exists() for path in paths):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            deb = apt.download([package], Path(scratch), lambda what, done: None)[package]
            for path, content in zip(paths, apt.read_files(deb, patterns), strict=True):
                whole = Path(scratch) / path.name
                whole.write_bytes(content)
                whole.chmod(0o755)
                whole.replace(path)
    return paths
