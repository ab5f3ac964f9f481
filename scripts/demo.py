"""`make demo`: boot Debian as a PV guest. On a terminal a shell follows; elsewhere a script runs in the guest.

Takes what `euxen fetch debian` has fetched, and starts the guest with the command that it prints.
"""

from __future__ import annotations

import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from euxen.cli.run import EXIT_STATUS
from euxen.toolstack.debian import DebianGuest, cached_debian
from euxen.toolstack.ending import Ending
from euxen.toolstack.errors import UserError
from euxen.toolstack.initramfs import Entry, newc

SCRIPT = Path(__file__).with_name("demo-guest.sh")
MEMORY_MIB = 256
TIMEOUT_S = 300


def main() -> int:
    """Boot it; the exit status of ``euxen run``, or 1 after a sentence."""
    try:
        guest = cached_debian()
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if guest is None:
        print("demo: Debian's kernel is not here yet; run 'euxen fetch debian' first", file=sys.stderr)
        return 1
    if sys.stdin.isatty():
        return _shell(guest)
    return _script(guest)


def _shell(guest: DebianGuest) -> int:
    print("A shell in the guest follows. Type 'exit' to power it off, or Ctrl-] to leave and destroy it.\n")
    status = _run(guest, guest.initramfs, [], None)
    # Who leaves with Ctrl-] has done nothing wrong, and make need not say so.
    return 0 if status == EXIT_STATUS[Ending.LEFT] else status


def _script(guest: DebianGuest) -> int:
    with tempfile.TemporaryDirectory(prefix="euxen-demo-") as directory:
        ramdisk = Path(directory) / "initramfs.cpio"
        ramdisk.write_bytes(guest.initramfs.read_bytes() + script_archive(SCRIPT.read_bytes()))
        return _run(guest, ramdisk, ["--timeout", str(TIMEOUT_S)], subprocess.DEVNULL)


def script_archive(script: bytes) -> bytes:
    """What makes a RAM disk run a script: Linux unpacks archives that follow each other one over the other."""
    return newc([Entry("script", stat.S_IFREG | 0o755, script)])


def _run(guest: DebianGuest, ramdisk: Path, options: list[str], stdin: int | None) -> int:
    files = ["--kernel", str(guest.kernel), "--ramdisk", str(ramdisk)]
    machine = ["--extra", "console=hvc0 quiet", "--memory", str(MEMORY_MIB), "--name", "debian"]
    command = [str(Path(sys.executable).with_name("euxen")), "run", *files, *machine, *options]
    print(f"$ {shlex.join(['euxen', *command[1:]])}", flush=True)
    return subprocess.run(command, stdin=stdin, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
