"""Xen's own xl and libxlutil, reading configurations beside a pretend hypervisor, for tests that compare with them.

xl comes out of Debian's package xen-utils-4.17; the libraries are those of libxen-dev.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packages import need, package_files


def compile_c(source: Path, output: Path, *options: str) -> None:
    """Compile, or skip the test."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/libxlutil.h").exists():
        pytest.skip("Xen's libraries cannot be asked here: on Debian 12, install gcc and libxen-dev")
    subprocess.run([compiler, "-o", output, source, *options], check=True)


@dataclass(frozen=True)
class DryRun:
    """What ``xl create -n`` did."""

    code: int
    config: dict[str, Any]
    messages: str


class RealXl:
    """Real xl."""

    def __init__(self, directory: Path) -> None:
        (self._xl,) = need(lambda: package_files("xen-utils-4.17", "*/lib/xen-4.17/bin/xl"))
        self._file = directory / "f"
        self._library = directory / "pretend_dom0.so"
        compile_c(Path(__file__).with_name("pretend_dom0.c"), self._library, "-shared", "-fPIC")

    def dry_run(self, text: str, *overrides: str) -> DryRun:
        """Let xl read a configuration and print what it understood."""
        self._file.write_bytes(text.encode(errors="surrogateescape"))
        command = [str(self._xl), "create", "-n", str(self._file), *overrides]
        done = subprocess.run(command, env={"LD_PRELOAD": str(self._library)}, capture_output=True)
        messages = done.stderr.decode(errors="surrogateescape").replace(str(self._file), "f")
        messages = messages.removeprefix("Failed to read config file: /etc/xen/xl.conf: No such file or directory\n")
        config = json.loads(done.stdout) if done.returncode == 0 else {}
        return DryRun(done.returncode, config, messages.removeprefix("Parsing config from f\n"))
