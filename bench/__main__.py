"""`python -m bench`: boot the sides by turns and print how they compare."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from bench.artifacts import Artifacts, cache, prepare
from bench.measures import OURS
from bench.report import Report
from bench.run import run
from bench.sides import SIDES, qemu
from euxen.toolstack.errors import UserError


def main() -> int:
    arguments = _arguments()
    names = [name for name in SIDES if name in (arguments.only or SIDES)]
    try:
        artifacts = prepare(with_xen="xen" in names)
        before = {"machine": _machine(), "versions": _versions(artifacts, names)}
        report = _compare(names, artifacts, arguments.rounds, arguments.timeout)
        _show(report)
        if arguments.json:
            arguments.json.write_text(json.dumps(before | report.record(), indent=2) + "\n")
    except (UserError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare euxen with QEMU's software emulation, PV guests with real Xen in it and PVH guests with "
        "the kernel itself: same kernel, RAM disk and machine.",
    )
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="boots of each side (default 3)")
    parser.add_argument(
        "--only", choices=SIDES, nargs="+", metavar="SIDE", help=f"measure only these: {', '.join(SIDES)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--timeout", type=_count, default=180, metavar="S", help="seconds for one boot (default 180)")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def _compare(names: list[str], artifacts: Artifacts, rounds: int, timeout: float) -> Report:
    """Boot every side once, then every side again: what else the machine does then slows all of them alike."""
    sides = [SIDES[name](artifacts) for name in names]
    report = Report({side.name: side.title for side in sides})
    for number in range(1, rounds + 1):
        for side in sides:
            print(f"round {number} of {rounds}: {side.title} ...", end=" ", flush=True, file=sys.stderr)
            try:
                done = run(side, timeout, cache() / f"console-{side.name}.log")
            except BaseException:
                print(file=sys.stderr)
                raise
            print(f"shell after {done.ready:.2f} s, {done.seconds:.1f} s in all", file=sys.stderr)
            report.add(side.name, done)
    return report


def _show(report: Report) -> None:
    console = Console()
    for table in report.tables():
        console.print(table)
    if report.compared:
        console.print("ratio: how many times faster euxen is")
    for side, memory in report.memory_beside_ram().items():
        console.print(f"{report.titles[side]}'s own memory, beside the guest's: {memory / 1024:.0f} MiB at most")
    for line in report.wrong_clocks():
        console.print(f"clocks disagree: {line}")


def _machine() -> dict[str, object]:
    """What the figures were measured on, and how busy it was with other things."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def _versions(artifacts: Artifacts, names: list[str]) -> dict[str, str]:
    versions = dict(artifacts.versions)
    if not set(names) <= set(OURS):
        told = subprocess.run([qemu(), "--version"], capture_output=True, text=True, check=True).stdout
        versions["qemu"] = told.splitlines()[0].removeprefix("QEMU emulator version ")
    return versions


if __name__ == "__main__":
    sys.exit(main())
