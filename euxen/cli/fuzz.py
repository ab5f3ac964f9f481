"""``euxen fuzz``: random hypercalls, in search of one with which a guest harms more than itself.

Exit status: 0 nothing was found; 1 something was, or the machine could not be started; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import time

from euxen.cli.output import show

DEFAULT_COUNT = 10_000


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "fuzz",
        help="make random hypercalls from a guest",
        description="Make random and mutated hypercalls from a PV guest, and look whether the hypervisor's books "
        "still add up. The same seed makes the same calls.",
        epilog="Exit status: 0 nothing was found, 1 something was, 2 wrong usage.",
    )
    parser.add_argument("--seed", type=_number, default=0, metavar="N", help="where to begin (default 0)")
    parser.add_argument("--seeds", type=_number, default=1, metavar="N", help="how many seeds, one after the other")
    parser.add_argument(
        "--count", type=_number, default=DEFAULT_COUNT, metavar="N", help=f"hypercalls a seed (default {DEFAULT_COUNT})"
    )
    parser.add_argument(
        "--privileged", action="store_true", help="from a guest that may manage domains, with one to play with"
    )
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {(1 << 32) - 1}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Make the calls; 1 where something was found."""
    from euxen.toolstack.fuzz import campaign

    host = campaign.make_host()
    option = " --privileged" if arguments.privileged else ""
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        start = time.monotonic()
        if arguments.privileged:
            report = campaign.run_privileged(seed, arguments.count)
        else:
            report = campaign.run(host, seed, arguments.count)
        told = [
            f"seed {seed}: {report.made} hypercalls, {report.succeeded} of them successful, "
            f"{report.guests} guests, {time.monotonic() - start:.1f} s"
        ]
        if report.finding is not None:
            told += [f"  {line}" for line in report.finding.what]
            told.append(f"  'euxen fuzz{option} --seed {seed} --count {report.made}' comes here again. The last batch:")
            told += [f"    {call}" for call in report.finding.calls]
        show(told)
        if report.finding is not None:
            return 1
    return 0
