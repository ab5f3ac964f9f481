"""Guests of our own: the C files of tests/kernels, built with gcc, and booted as any kernel is.

A file is a kernel with many tests, of which the command line chooses one; runtime/kernel.h is what they are written
with. Notes and addresses of the image are chosen when it is built, by macros.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.hypervisor.audit import audit
from euxen.hypervisor.control import DEFAULT_MAX_EVTCHN_PORT
from euxen.hypervisor.domain import Domain
from euxen.toolstack.create import Request, create, destroy
from euxen.toolstack.devices import Device
from euxen.toolstack.kernel.image import KernelImage, read_kernel
from euxen.toolstack.machine import Host, memory_for

SOURCES = Path(__file__).parents[1] / "kernels"
RUNTIME = SOURCES / "runtime"
FLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    *("-ffreestanding", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone", "-mgeneral-regs-only"),
    f"-fmacro-prefix-map={SOURCES}/=",
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
    *("-nostdlib", "-static", "-no-pie", "-T", str(RUNTIME / "kernel.lds")),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"),
)
NEEDS = "These tests need a C compiler and the headers of Xen 4.17: on Debian 12, install gcc and libxen-dev."
DEFAULT_MEMORY = 16 << 20
PATIENCE = 30.0
"""Seconds after which a guest that does not end is stopped, and its test fails."""
TEST = re.compile(r"^TEST\((\w+)\)", re.MULTILINE)


class BuildError(Exception):
    """gcc does not take a test kernel; its message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a guest, and all that it said."""

    test: str
    console: str
    xen_console: str
    """What it wrote to Xen's own console."""
    log: tuple[str, ...]
    """What Xen logged."""
    shutdown_code: int | None
    """SHUTDOWN_*, or None for a guest that had to be stopped."""
    crash: str | None
    """The sentence that says why Xen crashed it."""
    frames_lost: int
    """How many of the machine's frames did not come back when it was destroyed."""
    domain0: str = ""
    """What Domain 0 said on Xen's console."""

    def check_passed(self) -> None:
        """It found all as it should be, and said so before it powered off."""
        told = "\n".join((self.console, *self.log))
        assert self.console.splitlines()[-1:] == [f"PASS {self.test}"], told
        assert self.shutdown_code == SHUTDOWN_poweroff, told
        assert self.frames_lost == 0, told


def kernel_tests(source: str) -> list[str]:
    """The tests of a kernel's source that end with PASS or FAIL."""
    return TEST.findall((SOURCES / f"{source}.c").read_text())


@functools.cache
def _directory() -> Path:
    """Where the images are, for as long as the tests run."""
    directory = tempfile.TemporaryDirectory(prefix="euxen-kernels-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


@functools.cache
def build(source: str, *macros: str) -> KernelImage:
    """The kernel of a source file, with ``NAME=VALUE`` macros. Raises BuildError."""
    if shutil.which("gcc") is None:
        raise BuildError(NEEDS)
    base = next((macro for macro in macros if macro.startswith("KERNEL_BASE=")), "KERNEL_BASE=0")
    target = _directory() / "-".join([source, *macros])
    parts = [SOURCES / f"{source}.c", *RUNTIME.glob("*.c"), *RUNTIME.glob("*.S")]
    defines = [f"-D{macro}" for macro in {base, *macros}]
    command = ["gcc", *FLAGS, *defines, f"-Wl,--defsym={base}", "-o", str(target), *map(str, parts)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{done.stderr}{NEEDS}")
    return read_kernel(target)


def boot(
    source: str,
    test: str,
    *macros: str,
    argument: str = "",
    ramdisk: bytes = b"",
    memory: int = DEFAULT_MEMORY,
    keyboard: bytes = b"",
    uuid: UUID | None = None,
    max_event_channels: int = DEFAULT_MAX_EVTCHN_PORT,
    patience: float = PATIENCE,
    privileged: bool = False,
    spare: int = 0,
    host: Host | None = None,
    devices: tuple[Device, ...] = (),
) -> Outcome:
    """Run a test in a guest, on a machine of its own unless there is a ``host``, and tell what came of it.

    ``macros`` are for ``build``; ``argument`` follows the test's name in the command line; ``memory`` is in bytes;
    ``keyboard`` is what waits for the guest on its console. A ``privileged`` guest may manage other domains, for which
    the machine has ``spare`` bytes more. ``devices`` are what it has beside its console.
    """
    alone = host is None
    if host is None:
        host = Host(memory_for(memory + spare))
    others = {domain.domid for domain in host.hypervisor.domains}
    log: list[str] = []
    console, xen_console, domain0 = bytearray(), bytearray(), bytearray()
    host.hypervisor.domain0.console_write = domain0.extend
    host.machine.console.listener = log.append
    command_line = f"{test} {argument}" if argument else test
    image, name = build(source, *macros), f"{source}-{test}"
    request = Request(
        name, image, ramdisk, command_line, memory, uuid or uuid4(), 0, max_event_channels, devices=devices
    )

    def receive() -> None:
        for domid, ring in host.services.consoles.items():
            if domid not in others:
                console.extend(ring.receive())

    free_before = host.machine.record["free_pages"]
    running = create(host, request, receive)
    domain = host.hypervisor.find(running.domid)
    assert domain is not None
    domain.record["is_privileged"] = int(privileged)
    domain.console_write = xen_console.extend
    try:
        with host.machine.lock:
            running.console.send(keyboard)
        run(host, domain, patience)
        with host.machine.lock:
            receive()  # what the guest said last may not have been noticed yet
        said = _text(console), _text(xen_console), tuple(log)
        assert not alone or not (wrong := audit(host.hypervisor)), "\n".join(wrong)
    finally:
        for made in reversed(host.hypervisor.domains):  # a privileged one may have made others
            if made.domid not in others:
                destroy(host, made.domid)
    frames_lost = free_before - host.machine.record["free_pages"]
    shutdown_code = domain.shutdown_code if domain.is_shut_down else None
    return Outcome(test, *said, shutdown_code, domain.crash_reason, frames_lost, _text(domain0))


def run(host: Host, domain: Domain, patience: float) -> None:
    """Run a domain until it ends, but not for ever."""
    ended = threading.Event()
    tell = domain.on_exit

    def on_exit() -> None:
        tell()
        ended.set()

    domain.on_exit = on_exit
    host.control.unpause_domain(domain.domid)
    ended.wait(patience)
    host.control.pause_domain(domain.domid)


def _text(data: bytearray) -> str:
    return data.decode(errors="backslashreplace")
