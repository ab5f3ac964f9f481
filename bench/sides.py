"""The command that boots each side. Its standard output is the guest's console."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.artifacts import Artifacts
from euxen.toolstack.errors import UserError

GUEST_MIB = 256
"""What each guest has, in MiB."""

XEN_HOST_MIB = 1024
"""What Xen's machine has for itself and its Domain 0, in MiB."""


@dataclass(frozen=True)
class Side:
    """One of the things compared."""

    name: str
    title: str
    command: list[str]
    directory: Path
    """Where it runs: beside the files it boots, so that no path can hold what a command gives a meaning to."""


def pv(artifacts: Artifacts) -> Side:
    """A 64-bit PV guest in euxen."""
    return _euxen(artifacts, "pv", "euxen PV")


def pvh(artifacts: Artifacts) -> Side:
    """A PVH guest in euxen."""
    return _euxen(artifacts, "pvh", "euxen PVH")


def _euxen(artifacts: Artifacts, kind: str, title: str) -> Side:
    command = Path(sys.executable).with_name("euxen")
    return Side(
        kind,
        title,
        [
            *(str(command), "run", "--type", kind),
            *("--kernel", artifacts.vmlinux, "--ramdisk", artifacts.initramfs),
            *("--extra", "console=hvc0", "--memory", str(GUEST_MIB)),
        ],
        artifacts.directory,
    )


def xen(artifacts: Artifacts) -> Side:
    """Domain 0 of real Xen, itself under QEMU's software emulation.

    The CPU is qemu64 because the SMAP of QEMU 7.2's `max` crashes Domain 0.
    """
    domain0 = f"dom0_mem={GUEST_MIB}M,max:{GUEST_MIB}M dom0_max_vcpus=1"
    return Side(
        "xen",
        "Xen in QEMU",
        [
            *_qemu(XEN_HOST_MIB),
            *("-kernel", artifacts.xen, "-append", f"console=com1 com1=115200,8n1 {domain0} noreboot"),
            # QEMU hands over each file of the list as a multiboot module, with its command line.
            *("-initrd", f"{artifacts.vmlinux} console=hvc0,{artifacts.initramfs}"),
        ],
        artifacts.directory,
    )


def plain(artifacts: Artifacts) -> Side:
    """The same kernel on QEMU's emulated machine itself, which starts it by the same entry as a PVH guest."""
    return Side(
        "plain",
        "plain QEMU",
        [
            *_qemu(GUEST_MIB),
            *("-kernel", artifacts.vmlinux, "-initrd", artifacts.initramfs, "-append", "console=ttyS0"),
        ],
        artifacts.directory,
    )


SIDES = {"pv": pv, "xen": xen, "pvh": pvh, "plain": plain}


def _qemu(mib: int) -> list[str]:
    machine = ["-accel", "tcg", "-cpu", "qemu64", "-m", str(mib), "-smp", "1"]
    return [qemu(), *machine, "-nographic", "-no-reboot"]


def qemu() -> str:
    """The path of QEMU's PC emulator, installed now if it is not there and we may install it."""
    if shutil.which("qemu-system-x86_64") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing qemu-system-x86 ...", file=sys.stderr)
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "qemu-system-x86"]
        subprocess.run(install, stdout=subprocess.DEVNULL, check=False)
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise UserError(
            "qemu-system-x86_64 is not on this host; install Debian's package qemu-system-x86, "
            "or measure euxen alone with --only pv pvh"
        )
    return found
