"""The command ``euxen``: a verb, and what the verb takes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from euxen import __version__
from euxen.cli import fetch, inspect, run
from euxen.toolstack.errors import UserError

_VERBS = (
    fetch,
    inspect,
    run,
)
"""Modules that each have ``register(subparsers)``, which adds the verb and sets its function as ``run``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: its own, or 1 after one sentence that says what is wrong.

    Wrong usage raises SystemExit(2), as argparse does.
    """
    parser = argparse.ArgumentParser(prog="euxen", description="The Xen hypervisor as a Python program.")
    parser.add_argument("--version", action="version", version=f"euxen {__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for verb in _VERBS:
        verb.register(subparsers)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"euxen: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; and Python, flushing at its end, must not find the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
