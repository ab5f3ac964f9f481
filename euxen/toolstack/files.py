"""Reading the files that people name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from euxen.toolstack.errors import UserError


def read_file(path: str | os.PathLike[str], what: str, limit: int, too_large: str) -> bytes:
    """The contents of a regular file. ``what`` it should be is for messages: "a kernel image".

    Raises UserError where it cannot be read, or has more than ``limit`` bytes, which ``too_large`` then explains.
    """
    name = os.fspath(path)
    try:
        # Before it is opened: opening a pipe waits for somebody to write.
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{name} is no regular file; give the path of {what}")
        if status.st_size > limit:
            raise UserError(f"{name} has {status.st_size} bytes, {too_large}")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be read ({reason}); give the path of {what}") from None
