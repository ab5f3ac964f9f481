"""``euxen fetch debian``: bring a kernel and a RAM disk to start guests with."""

from __future__ import annotations

import argparse
import sys

from euxen.cli.output import show
from euxen.toolstack.debian import DebianGuest, Flavour, cached_debian, fetch_debian
from euxen.toolstack.errors import UserError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "fetch",
        help="bring a kernel and a RAM disk",
        description="Bring Debian's kernel for guests and busybox through apt, unpack them into "
        "$XDG_CACHE_HOME/euxen/debian, and make a RAM disk with a shell. Nothing is installed on this host.",
    )
    parser.add_argument("what", choices=["debian"], metavar="debian")
    parser.add_argument("--full", action="store_true", help="bring Debian's full kernel, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    flavours = [Flavour.CLOUD, Flavour.FULL] if arguments.full else [Flavour.CLOUD]
    for flavour in flavours:
        guest = _fetch(flavour)
        show([f"kernel  {guest.kernel}", f"ramdisk {guest.initramfs}"])
    return 0


def _fetch(flavour: Flavour) -> DebianGuest:
    """Fetch with a progress bar on a terminal, and quietly elsewhere; or make do with what is there."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task(f"Looking for {flavour}", total=1.0)
            return fetch_debian(flavour, lambda what, done: bars.update(bar, description=what, completed=done))
    except UserError as error:
        guest = cached_debian(flavour)
        if guest is None:
            raise
        print(f"euxen: {error}; {guest.version}, which was fetched before, will do", file=sys.stderr)
        return guest
