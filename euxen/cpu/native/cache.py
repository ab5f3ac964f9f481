"""Files that are made once and kept between runs: written whole or not at all, and told from damaged ones.

The time of a file's last change is that of its last use, so what nobody wants any more can be told and goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

_SEAL = hashlib.sha256().digest_size
UNUSED_SECONDS = 30 * 86400
"""For how long something is kept that is not used."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that nobody ever sees a part of. Raises OSError, with nothing left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, scratch = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink()
        raise


def keep(path: Path, data: bytes) -> None:
    """Keep data under a seal, if they can be written: a cache that cannot costs time and nothing else."""
    with contextlib.suppress(OSError):
        write_whole(path, hashlib.sha256(data).digest() + data)


def kept(path: Path) -> bytes | None:
    """What was kept, or None where there is nothing, or something else than was written: a host may have crashed."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    seal, data = content[:_SEAL], content[_SEAL:]
    if hashlib.sha256(data).digest() != seal:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return data


def forget_unused(directory: Path, pattern: str) -> None:
    """Remove what nobody has used for long."""
    for path in directory.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                path.unlink()
