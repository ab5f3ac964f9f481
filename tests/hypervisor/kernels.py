"""Guests of our own: the C files of tests/kernels, built with gcc, and booted as any kernel is.

A file is a kernel with many tests, of which the command line chooses one; runtime/kernel.h is what they are written
with. Notes and addresses of the image are chosen when it is built, by macros.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.hypervisor.pcpu import Pcpu
from euxen.toolstack.create import Request, create, destroy
from euxen.toolstack.kernel.image import KernelImage, read_kernel
from euxen.toolstack.machine import Host, memory_for

SOURCES = Path(__file__).parents[1] / "kernels"
RUNTIME = SOURCES / "runtime"
FLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    *("-ffreestanding", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
    *("-nostdlib", "-static", "-no-pie", "-T", str(RUNTIME / "kernel.lds")),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"),
)
DEFAULT_MEMORY = 16 << 20
PATIENCE = 30.0
"""Seconds after which a guest that does not end is stopped, and its test fails."""
TEST = re.compile(r"^TEST\((\w+)\)", re.MULTILINE)


class BuildError(Exception):
    """gcc does not take a test kernel; its message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a guest, and all that it said."""

    console: str
    xen_console: str
    """What it wrote to Xen's own console."""
    log: tuple[str, ...]
    """What Xen logged."""
    shutdown_code: int | None
    """SHUTDOWN_*, or None for a guest that had to be stopped."""
    crash: str | None
    """The sentence that says why Xen crashed it."""

    def check_passed(self) -> None:
        """It found all as it should be, and said so before it powered off."""
        told = "\n".join((self.console, *self.log))
        assert self.console.splitlines()[-1:] == [f"PASS {self.test}"], told
        assert self.shutdown_code == SHUTDOWN_poweroff, told

    test: str = ""


def kernel_tests(source: str) -> list[str]:
    """The tests of a kernel's source that end with PASS or FAIL."""
    return TEST.findall((SOURCES / f"{source}.c").read_text())


class Kernels:
    """Builds kernels, each once, and boots them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._built: dict[tuple[str, tuple[tuple[str, str], ...]], KernelImage] = {}

    def build(self, source: str, macros: Mapping[str, str]) -> KernelImage:
        """The kernel of a source file. Raises BuildError."""
        key = (source, tuple(macros.items()))
        if key not in self._built:
            self._built[key] = self._compile(source, {"KERNEL_BASE": "0", **macros})
        return self._built[key]

    def _compile(self, source: str, macros: Mapping[str, str]) -> KernelImage:
        target = self._directory / f"{source}-{len(self._built)}"
        parts = [SOURCES / f"{source}.c", *RUNTIME.glob("*.c"), *RUNTIME.glob("*.S")]
        defines = [f"-D{name}={value}" for name, value in macros.items()]
        base = f"-Wl,--defsym=KERNEL_BASE={macros['KERNEL_BASE']}"
        command = ["gcc", *FLAGS, *defines, base, "-o", str(target), *map(str, parts)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(done.stderr)
        return read_kernel(target)

    def boot(
        self,
        source: str,
        test: str,
        *,
        macros: Mapping[str, str] | None = None,
        arguments: str = "",
        ramdisk: bytes = b"",
        memory: int = DEFAULT_MEMORY,
        keyboard: bytes = b"",
        uuid: UUID = UUID(int=0),
        patience: float = PATIENCE,
    ) -> Outcome:
        """Run a test in a guest on a machine of its own, and tell what came of it.

        ``keyboard`` is what waits for it on its console.
        """
        image = self.build(source, macros or {})
        host = Host(memory_for(memory))
        log: list[str] = []
        console, xen_console = bytearray(), bytearray()
        host.machine.log = log.append
        command_line = f"{test} {arguments}" if arguments else test
        request = Request(f"{source}-{test}", image, ramdisk, command_line, memory, uuid)
        running = create(host, request, console.extend)
        domain = running.domain
        domain.console_write = xen_console.extend
        try:
            running.console.send(keyboard)
            pcpu = Pcpu(domain)
            watch = threading.Timer(patience, pcpu.stop)
            watch.start()
            try:
                pcpu.run()
            finally:
                watch.cancel()
            return Outcome(
                console.decode(errors="replace").replace("\r\n", "\n"),
                xen_console.decode(errors="replace"),
                tuple(log),
                domain.shutdown_code,
                domain.crash_reason,
                test,
            )
        finally:
            destroy(host, domain.domid)
