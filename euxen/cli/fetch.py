"""``euxen fetch debian``: bring a kernel and a RAM disk to start guests with."""

from __future__ import annotations

import argparse

from euxen.cli.output import show
from euxen.toolstack.debian import DebianGuest, Flavour, fetch_debian


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
    """Fetch with a progress bar on a terminal, and quietly elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(f"Looking for {flavour}", total=1.0)
        return fetch_debian(flavour, lambda what, done: bars.update(bar, description=what, completed=done))
