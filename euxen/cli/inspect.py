"""``euxen inspect KERNEL``: what a kernel image is, and which kinds of guest it can be."""

from __future__ import annotations

import argparse

from euxen.cli.output import show
from euxen.toolstack.kernel.image import read_kernel
from euxen.toolstack.kernel.inspect import describe


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="tell what a kernel image is",
        description="Tell what a kernel image is, what its Xen ELF notes say, which kinds of guest it can be, "
        "and for each that it cannot be, what is missing.",
    )
    parser.add_argument("kernel", metavar="KERNEL", help="a bzImage (vmlinuz) or an ELF image (vmlinux)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    show(describe(read_kernel(arguments.kernel)))
    return 0
