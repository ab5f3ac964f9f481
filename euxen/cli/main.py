"""The command ``euxen``: a verb, and what the verb takes.

Exit status: the verb's own; 1 after one sentence that says what is wrong; 2 for wrong usage; 128 and the signal's
number for a signal that ends the command, which cleans up first.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from euxen import __version__
from euxen.cli import fetch, inspect, run
from euxen.cli.output import open_closed_streams, tell
from euxen.toolstack.errors import UserError, printable

_VERBS = (
    fetch,
    inspect,
    run,
)
"""Modules that each have ``register(subparsers)``, which adds the verb and sets its function as ``run``."""


class _Parser(argparse.ArgumentParser):
    """Tells people what is wrong in one line, and takes no abbreviations, which new options would make ambiguous."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}; see '{self.prog} --help'\n")


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """A signal that asks us to end: leave by way of everything that has to be put back."""
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status. Wrong usage raises SystemExit(2), as argparse does."""
    open_closed_streams()
    parser = _Parser(
        prog="euxen",
        description="The Xen hypervisor as a Python program: runs kernels built for Xen, without root and without "
        "virtualization hardware.",
        epilog="'euxen VERB --help' tells what a verb takes.",
    )
    parser.add_argument("--version", action="version", version=f"euxen {__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for verb in _VERBS:
        verb.register(subparsers)
    arguments = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) has SIGHUP ignored
            signal.signal(number, _end)
    try:
        code: int = arguments.run(arguments)
    except UserError as error:
        for sentence in error.sentences:
            tell(sentence)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 1  # whoever read our output has enough
    return code
