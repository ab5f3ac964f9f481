"""`make demo`, as it is on a terminal and as it is elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import PATIENCE, ROOT, Terminal

from euxen.toolstack.debian import DebianGuest

DEMO = [sys.executable, str(ROOT / "scripts" / "demo.py")]

pytestmark = pytest.mark.usefixtures("native")


def test_elsewhere_a_script_runs_in_the_guest(debian_cloud: DebianGuest) -> None:
    done = subprocess.run(DEMO, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("$ euxen run --kernel ")
    assert "Booting kernel on Xen" in done.stdout
    assert "+ uname -a" in lines
    assert any(line.startswith(f"Linux debian {debian_cloud.version} ") for line in lines)
    # Every command of the script, in its order.
    shown = [line.removeprefix("+ ").split()[0] for line in lines if line.startswith("+ ")]
    script = (ROOT / "scripts" / "demo-guest.sh").read_text().splitlines()
    assert shown == [line.split()[0] for line in script if not line.startswith(("#", "set "))]


def test_nothing_is_left_behind(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run(
        DEMO, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, timeout=PATIENCE, check=True
    )
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_there_is_a_shell(debian_cloud: DebianGuest) -> None:
    with Terminal(DEMO) as terminal:
        terminal.expect("Ctrl-] to leave and destroy it.")
        terminal.expect("/root # ")
        terminal.press("cat /sys/hypervisor/type\r")
        terminal.expect("\r\nxen\r\n")
        terminal.press("exit\r")
        assert terminal.wait() == 0


def test_leaving_the_shell_is_no_failure(debian_cloud: DebianGuest) -> None:
    with Terminal(DEMO) as terminal:
        terminal.expect("/root # ")
        terminal.press("\x1d")
        assert terminal.wait() == 0


def test_before_anything_was_fetched(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(DEMO, stdin=subprocess.DEVNULL, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "demo: Debian's kernel is not here yet; run 'euxen fetch debian' first\n"
