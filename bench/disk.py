"""`python -m bench.disk`: how fast a disk on a raw file is in a guest of euxen.

There is nothing to compare with here: the other side's guest of `python -m bench` is Domain 0 itself, which has no back
end below it.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench.artifacts import GUEST, cache, compile_static
from bench.run import run
from bench.sides import Side
from euxen.toolstack.debian import DebianGuest, fetch_debian
from euxen.toolstack.errors import UserError
from euxen.toolstack.initramfs import INIT, build_initramfs

DISK_MIB = 256
"""Less than what the host has memory for, so that its own disk is not what is measured."""
TITLES = {
    "disk_write": "sequential write of 1 MiB, 4 at a time, MiB/s",
    "disk_read": "sequential read of 1 MiB, 4 at a time, MiB/s",
    "disk_random_write": "random write of 4 KiB, 32 at a time, /s",
    "disk_random_read": "random read of 4 KiB, 32 at a time, /s",
}
SCRIPT = b'#!/bin/sh\necho "BENCH ready"\ndmesg -n 1\n/bin/disk /dev/xvda\n'


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.disk", description="Measure a guest's disk in euxen.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="boots (default 3)")
    parser.add_argument("--extra", default="", help="more for the guest's command line")
    arguments = parser.parse_args()
    try:
        measured = _measure(arguments.rounds, arguments.extra)
    except (UserError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for name, title in TITLES.items():
        print(f"{title:50} {statistics.median(results[name] for results in measured):10,.0f}")
    return 0


def _measure(rounds: int, extra: str) -> list[dict[str, float]]:
    directory = cache()
    directory.mkdir(parents=True, exist_ok=True)
    debian = fetch_debian()
    initramfs = directory / "disk.cpio"
    initramfs.write_bytes(_initramfs(debian, compile_static(GUEST / "disk.c", directory / "disk")))
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        image, config = Path(scratch) / "disk.img", Path(scratch) / "guest.cfg"
        image.write_bytes(bytes(DISK_MIB << 20))
        config.write_text(
            f"name='disk'\nkernel='{debian.kernel}'\nramdisk='{initramfs}'\nextra='console=hvc0 {extra}'\nmemory=256\n"
            f"disk=['{image},raw,xvda,w']\n"
        )
        command = [str(Path(sys.executable).with_name("euxen")), "run", str(config)]
        side = Side("disk", "euxen", command, directory)
        return [run(side, 180, directory / "console-disk.log").transcript.results for _number in range(rounds)]


def _initramfs(debian: DebianGuest, program: Path) -> bytes:
    files = [*debian.modules, *(debian.kernel.parent / name for name in ("modules.dep", "modules.alias"))]
    modules: dict[str, bytes | Path] = {f"lib/modules/{debian.version}/{path.name}": path for path in files}
    return build_initramfs(debian.busybox, {"init": INIT.encode(), "script": SCRIPT, "bin/disk": program, **modules})


if __name__ == "__main__":
    sys.exit(main())
