"""What the commands print: results on standard output, sentences for people on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable

from euxen.toolstack.errors import UserError, printable


def show(lines: Iterable[str]) -> None:
    """Print lines on standard output.

    Raises BrokenPipeError where whoever reads has enough, and UserError where they cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except OSError as error:
        # Python, flushing at its end, must not meet the same again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"standard output cannot be written ({error.strerror})") from None


def tell(sentence: str) -> None:
    """Print a sentence on standard error, or nowhere if that cannot be written."""
    with contextlib.suppress(OSError):
        print(f"euxen: {printable(sentence)}", file=sys.stderr, flush=True)


def open_closed_streams() -> None:
    """Have something behind each standard stream that was closed: no file of ours may get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 for good
