"""`euxen run` on a terminal: every key is the guest's, and the terminal is as it was afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from terminal import EUXEN, Terminal

from euxen.toolstack.debian import DebianGuest

PROMPT = "/root # "


@pytest.fixture
def terminal(native: None, debian_cloud: DebianGuest) -> Iterator[Terminal]:
    """A guest that shows its shell's prompt."""
    files = ["--kernel", str(debian_cloud.kernel), "--ramdisk", str(debian_cloud.initramfs)]
    with Terminal([EUXEN, "run", *files, "--extra", "console=hvc0 quiet", "--name", "guest"]) as terminal:
        assert not terminal.raw
        terminal.expect(PROMPT)
        assert terminal.raw
        yield terminal


def test_keys_reach_the_guest_and_poweroff_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.press("sh -c 'echo cat is \"\"here; exec cat'\r")
    terminal.expect("cat is here\r\n")
    terminal.press("hello\r")
    terminal.expect("hello\r\nhello\r\n")  # the guest's terminal echoes it, and cat says it again
    terminal.press("\x03")
    terminal.expect(PROMPT)
    terminal.press("echo status $?\r")
    terminal.expect("status 130\r\n")
    terminal.press("poweroff -f\r")
    assert terminal.wait() == 0
    assert not terminal.raw


def test_leaving(terminal: Terminal) -> None:
    terminal.press("echo never\x1d run\r")
    assert terminal.wait() == 6
    assert terminal.seen.endswith(b"\r\neuxen: guest was left with Ctrl-], and was destroyed.\r\n")
    assert b"never" not in terminal.seen
    assert not terminal.raw


def test_much_output_comes_whole(terminal: Terminal) -> None:
    terminal.press("seq 1 5000\r")
    terminal.expect("seq 1 5000\r\n")
    assert terminal.expect(PROMPT).decode().split() == [str(number) for number in range(1, 5001)]


def test_a_signal_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 128 + signal.SIGTERM
    assert not terminal.raw


def test_a_crash_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.press("echo c > /proc/sysrq-trigger\r")
    assert terminal.wait() == 4
    assert b"euxen: guest gave up and reported a crash; " in terminal.seen
    assert not terminal.raw


def test_reboot(terminal: Terminal) -> None:
    terminal.press("reboot -f\r")
    assert terminal.wait() == 3
    assert terminal.seen.endswith(b"euxen: guest asked for a reboot.\r\n")
    assert not terminal.raw
