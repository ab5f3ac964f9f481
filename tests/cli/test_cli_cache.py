"""The cache of compiled code, when it is damaged, and when there is no room for it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from terminal import EUXEN, PATIENCE

from euxen.abi import sched
from euxen.hypervisor.machine import cache_directory


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A guest that powers off."""
    return tiny.kernel(tmp_path / "guest", tiny.SHUTDOWN.format(reason=sched.SHUTDOWN_poweroff))


def run(kernel: Path, home: Path, prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [EUXEN, "run", "--memory", "16", "--kernel", kernel],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(home)},
        preexec_fn=prepare,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(len(data))]
)
def test_damaged_files_are_made_again(
    damage: Callable[[bytes], bytes], kernel: Path, tmp_path: Path, native: None
) -> None:
    """As a host leaves them that crashed."""
    cache = tmp_path / "cache" / "euxen"
    shutil.copytree(cache_directory(), cache, ignore=shutil.ignore_patterns("debian"))
    for files in (cache.glob("*.o"), sorted(cache.glob("*/*.bc"))[:3], cache.glob("*.json")):
        damaged = [path.write_bytes(damage(path.read_bytes())) for path in files]
        assert damaged
    done = run(kernel, tmp_path / "cache")
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_room(kernel: Path, tmp_path: Path, native: None) -> None:
    """It is told, and what was begun is taken away."""
    cache = tmp_path / "cache" / "euxen"
    shutil.copytree(cache_directory(), cache, ignore=shutil.ignore_patterns("debian", "libunicorn*"))
    before = set(cache.iterdir())
    done = run(kernel, tmp_path / "cache", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20)))
    assert done.stderr == b"euxen: the cache for compiled code cannot be used (File too large); set XDG_CACHE_HOME\n"
    assert done.returncode == 1
    assert {path.name for path in set(cache.iterdir()) - before if path.suffix != ".o"} == set()
