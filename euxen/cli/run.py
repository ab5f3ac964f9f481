"""``euxen run``: one domain in the foreground, without a daemon.

Exit status: 0 the guest powered off; 1 it could not be started; 2 wrong usage; 3 it asked for a reboot;
4 it crashed; 5 it suspended itself; 6 Ctrl-] was pressed; 124 the time limit passed; 128 and more, a signal ended us.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from euxen.cli.output import tell
from euxen.toolstack.config.model import MAX_MEMORY, DomainConfig
from euxen.toolstack.ending import Ending
from euxen.toolstack.errors import UserError
from euxen.toolstack.files import read_file
from euxen.toolstack.kernel.layout import GuestKind

if TYPE_CHECKING:
    from euxen.toolstack.machine import Host

EXIT_STATUS = {
    Ending.POWEROFF: 0,
    Ending.REBOOT: 3,
    Ending.CRASH: 4,
    Ending.SUSPEND: 5,
    Ending.LEFT: 6,
    Ending.TIMEOUT: 124,
}
DEFAULT_MEMORY = 256
LONGEST_NAME = 255
LARGEST_CONFIG = 1 << 20
LOG_LINES = 200
"""How much of Xen's log is kept to be shown after a crash."""
LOG_LINE = 4096


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "run",
        help="run a domain in the foreground",
        description="Run one PV or PVH domain in the foreground, its console on this terminal. "
        "Ctrl-] leaves and destroys it.",
        epilog="Exit status: 0 poweroff, 1 could not be started, 2 wrong usage, 3 reboot, 4 crash, 5 suspend, "
        "6 left with Ctrl-], 124 timeout, 128 and the signal's number if a signal ended it.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a configuration as of xl.cfg(5)")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that count more than CONFIG's")
    parser.add_argument("--kernel", metavar="FILE", help="the guest's kernel: bzImage or ELF")
    parser.add_argument("--ramdisk", metavar="FILE", help="an initial RAM disk for it")
    parser.add_argument("--extra", metavar="STRING", help="its command line")
    parser.add_argument("--root", metavar="STRING", help="root= for its command line")
    parser.add_argument("--type", type=_kind, metavar="pv|pvh", help="which kind of guest (default pv, as xl's)")
    parser.add_argument("--memory", type=_memory, metavar="MIB", help=f"memory in MiB (default {DEFAULT_MEMORY})")
    parser.add_argument("--name", help="the domain's name (default: the kernel's file name)")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="destroy the domain after this time")
    parser.add_argument("--log", action="store_true", help="show the hypervisor's own log on standard error")
    parser.add_argument(
        "--forward",
        action="append",
        default=[],
        metavar="tcp:PORT:PORT",
        help="let connections to a port of the host reach one of the guest's, by its first interface on xenbr0",
    )
    parser.add_argument(
        "--pcap",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="capture what passes a bridge or an interface (default: xenbr0; the guest's first one is vif1.0)",
    )
    parser.add_argument("--xenstored-path", metavar="SOCKET", help="a socket for xenstore-ls and its like")
    parser.set_defaults(run=run, wrong_usage=parser.error)


def _kind(text: str) -> GuestKind:
    try:
        return GuestKind(text)
    except ValueError:
        kinds = " or ".join(GuestKind)
        raise argparse.ArgumentTypeError(f"{text!r} is no kind of guest that there is; it has to be {kinds}") from None


def _memory(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_MEMORY:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of MiB from 1 to {MAX_MEMORY}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _check_name(name: str) -> None:
    if not name.isprintable() or not 1 <= len(name) <= LONGEST_NAME:
        raise UserError(f"{name!r} is no name for a domain: it has to be 1 to {LONGEST_NAME} printable characters")


def run(arguments: argparse.Namespace) -> int:
    """Run the domain and return how it ended."""
    config = (_config_of_file if arguments.config else _config_of_options)(arguments).within(max_vcpus=1)
    _check_name(config.name)

    # Only now, because this loads the engine.
    from euxen.dom0.net.nat import MISSING
    from euxen.dom0.net.networks import DEFAULT_BRIDGE
    from euxen.toolstack.create import create, destroy
    from euxen.toolstack.foreground import Foreground, Wakeup
    from euxen.toolstack.machine import Host, memory_for
    from euxen.toolstack.nics import with_forwards
    from euxen.toolstack.request import request_for

    request = request_for(config)
    request = replace(request, devices=with_forwards(request.devices, arguments.forward))
    for warning in config.warnings:
        tell(warning)
    if any(nic.bridge in (None, DEFAULT_BRIDGE) for nic in config.nics) and shutil.which("passt") is None:
        tell(MISSING.format(bridge=DEFAULT_BRIDGE))
    host = Host(memory_for(request.allowed_memory, len(config.nics)), _progress())
    log: deque[str] = deque(maxlen=LOG_LINES)
    listen = _log_to_stderr if arguments.log else log.append
    host.machine.console.listener = listen
    host.hypervisor.domain0.console_write = _console_log(listen, 0)
    with (
        Wakeup() as wakeup,
        _xenstored_socket(host, arguments.xenstored_path),
        _captures(host, arguments.pcap),
    ):
        running = create(host, request, wakeup.wake)
        domain = host.hypervisor.find(running.domid)
        assert domain is not None
        domain.console_write = _console_log(listen, running.domid)
        try:
            ending = Foreground(host, running, wakeup, arguments.timeout).run()
            _tell(ending, config.name, arguments.timeout, domain.crash_reason, log)
        finally:
            destroy(host, running.domid)
    return EXIT_STATUS[ending]


def _xenstored_socket(host: Host, path: str | None) -> contextlib.AbstractContextManager[object]:
    """xenstored's socket, where one is wanted. Raises UserError."""
    if path is None:
        return contextlib.nullcontext()
    try:
        return host.services.xenstored_socket(Path(path))
    except OSError as error:
        raise UserError(f"xenstored cannot listen at {path} ({error.strerror}); name another path") from error


@contextlib.contextmanager
def _captures(host: Host, wanted: list[str]) -> Iterator[None]:
    """Captures of bridges and interfaces. Raises UserError."""
    from euxen.dom0.net.networks import DEFAULT_BRIDGE

    with contextlib.ExitStack() as stack:
        for text in wanted:
            name, equals, path = text.rpartition("=")
            try:
                stack.enter_context(host.services.networks.capture(name if equals else DEFAULT_BRIDGE, Path(path)))
            except OSError as error:
                raise UserError(f"{path} cannot be written ({error.strerror}); name another file") from error
        yield


def _config_of_file(arguments: argparse.Namespace) -> DomainConfig:
    for option in ("kernel", "ramdisk", "extra", "root", "type", "memory", "name"):
        if getattr(arguments, option) is not None:
            arguments.wrong_usage(f"argument --{option}: not allowed with CONFIG; say {option}=... behind it")
    path = arguments.config
    advice = "name a kernel with --kernel"
    content = read_file(path, "a configuration file", LARGEST_CONFIG, f"which no configuration file has; {advice}")
    if b"\0" in content:
        raise UserError(f"{path} is no configuration file, because it is no text; {advice}")
    return DomainConfig.from_text(os.fsdecode(content), path, arguments.settings)


def _config_of_options(arguments: argparse.Namespace) -> DomainConfig:
    if not arguments.kernel:
        raise UserError("no kernel is given: name one with --kernel FILE, or a configuration file")
    kernel = Path(arguments.kernel)
    words = [f"root={arguments.root}" if arguments.root else "", arguments.extra or ""]
    return DomainConfig(
        name=_default_name(kernel) if arguments.name is None else arguments.name,
        type=arguments.type or GuestKind.PV,
        kernel=kernel,
        ramdisk=Path(arguments.ramdisk) if arguments.ramdisk else None,
        cmdline=" ".join(filter(None, words)),
        memory=arguments.memory or DEFAULT_MEMORY,
    )


def _default_name(kernel: Path) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in kernel.name)
    return printable[:LONGEST_NAME] or "guest"


def _progress() -> Callable[[int, int], None]:
    """Say that native code is being compiled, which happens once."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rCompiling the native runtime (once): {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show


def _log_to_stderr(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"(XEN) {line}", file=sys.stderr, flush=True)


def _console_log(log: Callable[[str], None], domid: int) -> Callable[[bytes], None]:
    """A guest's writes to Xen's console, line by line and without what is not printable, as Xen takes them."""
    pending = bytearray()

    def write(data: bytes) -> None:
        pending.extend(data)
        *lines, rest = bytes(pending).split(b"\n")
        if len(rest) > LOG_LINE:
            lines, rest = [*lines, rest], b""
        pending[:] = rest
        for line in lines:
            text = "".join(chr(byte) for byte in line if byte == 0x09 or 0x20 <= byte < 0x7F)
            log(f"(d{domid}) {text}")

    return write


def _tell(ending: Ending, name: str, timeout: float | None, crash: str | None, log: deque[str]) -> None:
    """Say how it ended, if it did not end well."""
    if ending is Ending.CRASH and crash is not None:
        for line in log:
            _log_to_stderr(line)
        tell(f"{name} crashed. {crash}")
    elif ending is Ending.CRASH:
        tell(f"{name} gave up and reported a crash; its console may say why, and --log shows Xen's log.")
    elif ending is Ending.REBOOT:
        tell(f"{name} asked for a reboot.")
    elif ending is Ending.SUSPEND:
        tell(f"{name} suspended itself, and was destroyed.")
    elif ending is Ending.LEFT:
        print(file=sys.stderr)  # the guest's line is not at its end
        tell(f"{name} was left with Ctrl-], and was destroyed.")
    elif ending is Ending.TIMEOUT:
        tell(f"{name} was destroyed after {timeout:g} s.")
