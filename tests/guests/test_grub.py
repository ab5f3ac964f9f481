"""GRUB for Xen, as each kind of guest: a kernel that is not Linux; as PV with page tables of its own making."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import EUXEN, Terminal

PROMPT = "grub> "


PLATFORMS = {"pv": "x86_64-xen", "pvh": "i386-xen_pvh"}


@pytest.fixture(params=PLATFORMS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of guest."""
    return str(request.param)


@pytest.fixture(params=["16", "64", "500"])
def grub(request: pytest.FixtureRequest, kind: str, native: None, grub_xen: dict[str, Path]) -> Iterator[Terminal]:
    """GRUB at its prompt, in so many MiB."""
    kernel = str(grub_xen[PLATFORMS[kind]])
    command = [EUXEN, "run", "--type", kind, "--kernel", kernel, "--memory", request.param, "--name", "grub"]
    with Terminal(command) as terminal:
        assert b"GNU GRUB  version 2." in terminal.expect(PROMPT)
        yield terminal


def test_commands(grub: Terminal) -> None:
    grub.press("ls\r")
    assert b"(memdisk)" in grub.expect(PROMPT)
    grub.press("cat (memdisk)/grub.cfg\r")
    assert b"configfile /grub/grub.cfg" in grub.expect(PROMPT)
    grub.press("halt\r")
    assert grub.wait() == 0
    assert not grub.raw


def test_reboot(grub: Terminal) -> None:
    grub.press("reboot\r")
    assert grub.wait() == 3
    assert grub.seen.endswith(b"euxen: grub asked for a reboot.\r\n")
