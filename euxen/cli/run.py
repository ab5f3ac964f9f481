"""``euxen run``: one domain in the foreground, without a daemon.

Exit status: 0 the guest powered off; 1 it could not be started; 2 wrong usage; 3 it asked for a reboot;
4 it crashed; 5 it suspended itself; 6 Ctrl-] was pressed; 124 the time limit passed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from euxen.toolstack.errors import UserError
from euxen.toolstack.foreground import Ending, Foreground, Output
from euxen.toolstack.kernel.image import read_kernel

EXIT_STATUS = {
    Ending.POWEROFF: 0,
    Ending.REBOOT: 3,
    Ending.CRASH: 4,
    Ending.SUSPEND: 5,
    Ending.LEFT: 6,
    Ending.TIMEOUT: 124,
}
DEFAULT_MEMORY = 256
SMALLEST_MEMORY = 1
LARGEST_MEMORY = 1 << 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "run",
        help="run a domain in the foreground",
        description="Run one PV domain in the foreground, its console on this terminal. Ctrl-] leaves and destroys it.",
        epilog="Exit status: 0 poweroff, 1 could not be started, 2 wrong usage, 3 reboot, 4 crash, 5 suspend, "
        "6 left with Ctrl-], 124 timeout.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a configuration file as of xl.cfg(5)")
    parser.add_argument("--kernel", metavar="FILE", help="the guest's kernel: bzImage or ELF")
    parser.add_argument("--ramdisk", metavar="FILE", help="an initial RAM disk for it")
    parser.add_argument("--extra", metavar="STRING", help="its command line")
    parser.add_argument("--root", metavar="STRING", help="root= for its command line")
    parser.add_argument("--memory", type=_memory, metavar="MIB", help=f"memory in MiB (default {DEFAULT_MEMORY})")
    parser.add_argument("--name", help="the domain's name (default: the kernel's file name)")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="destroy the domain after this time")
    parser.add_argument("--log", action="store_true", help="show the hypervisor's own log on standard error")
    parser.set_defaults(run=run)


def _memory(text: str) -> int:
    value = int(text)
    if not SMALLEST_MEMORY <= value <= LARGEST_MEMORY:
        raise argparse.ArgumentTypeError(f"{text} MiB: from {SMALLEST_MEMORY} to {LARGEST_MEMORY} are possible")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} seconds: more than 0 are needed")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the domain and return how it ended."""
    if not arguments.kernel:
        raise UserError("No kernel is given: name one with --kernel FILE, or a configuration file.")
    image = read_kernel(arguments.kernel)
    ramdisk = _read(arguments.ramdisk) if arguments.ramdisk else b""
    from euxen.toolstack.create import Request, create, destroy
    from euxen.toolstack.machine import Host, memory_for

    memory = (arguments.memory or DEFAULT_MEMORY) << 20
    command_line = " ".join(filter(None, [f"root={arguments.root}" if arguments.root else "", arguments.extra or ""]))
    host = Host(memory_for(memory), _progress())
    log: list[str] = []
    host.machine.log = _log_to_stderr if arguments.log else log.append
    name = arguments.name or Path(arguments.kernel).name
    output = Output()
    running = create(host, Request(name, image, ramdisk, command_line, memory, uuid4()), output.write)
    running.domain.console_write = _console_log(host.machine.log, running.domain.domid)
    try:
        ending = Foreground(host, running, output, arguments.timeout).run()
        _tell(ending, name, arguments.timeout, running.domain.crash_reason, log)
    finally:
        destroy(host, running.domain.domid)
        output.close()
    return EXIT_STATUS[ending]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"The ramdisk {path} can't be read: {error.strerror}.") from error


def _progress() -> Callable[[int, int], None]:
    """Say that native code is being compiled, which happens once."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rCompiling the native runtime (once): {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show


def _log_to_stderr(line: str) -> None:
    print(f"(XEN) {line}", file=sys.stderr, flush=True)


def _console_log(log: Callable[[str], None], domid: int) -> Callable[[bytes], None]:
    """A guest's writes to Xen's console, line by line."""
    pending = bytearray()

    def write(data: bytes) -> None:
        pending.extend(data)
        *lines, rest = bytes(pending).split(b"\n")
        pending[:] = rest
        for line in lines:
            log(f"(d{domid}) {line.decode(errors='replace').rstrip()}")

    return write


def _tell(ending: Ending, name: str, timeout: float | None, crash: str | None, log: list[str]) -> None:
    """Say how it ended, if it did not end well."""
    if ending is Ending.CRASH:
        for line in log:
            _log_to_stderr(line)
        print(f"euxen: {name} crashed. {crash or 'It says so itself.'}", file=sys.stderr)
    elif ending is Ending.REBOOT:
        print(f"euxen: {name} asked for a reboot.", file=sys.stderr)
    elif ending is Ending.TIMEOUT:
        print(f"euxen: {name} was destroyed after {timeout:g} s.", file=sys.stderr)
