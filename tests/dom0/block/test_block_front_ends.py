"""The block back end, tested from inside a guest: tests/kernels/block.c has honest front ends, and others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernels import Outcome, boot, kernel_tests

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.dom0.storage import open_storage
from euxen.toolstack.config.disk import parse_disk
from euxen.toolstack.disks import disk_device

MIB = 1 << 20
LOG = {
    "bogus_producer": r"qdisk 1-51712: front end provided bogus ring requests \(\d+ - \d+ = \d+ of 32\)",
    "double_bind": r"qdisk 1-51744: binding to event channel \d+ failed: EINVAL",
    "bad_nodes": r"qdisk 1-51712: mapping the ring \(grants \[400\]\) failed: ",
}
"""What Domain 0 has to say about some of them."""


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Three disks."""
    paths = {name: tmp_path / f"{name}.img" for name in ("xvda", "xvdb", "xvdc")}
    for name, path in paths.items():
        path.write_bytes((b"r" if name == "xvdb" else b"\0") * MIB)
    return paths


def boot_with(images: dict[str, Path], test: str) -> Outcome:
    devices = tuple(
        disk_device(parse_disk(f"{path},raw,{name},{'ro' if name == 'xvdb' else 'rw'}"))
        for name, path in images.items()
    )
    outcome = boot("block", test, devices=devices)
    for path in images.values():
        open_storage("aio", str(path), True).close()  # nobody has it any more
    assert images["xvdb"].read_bytes() == b"r" * MIB
    return outcome


@pytest.mark.parametrize("test", [test for test in kernel_tests("block") if test != "ends_in_the_middle"])
def test_front_end(images: dict[str, Path], test: str) -> None:
    outcome = boot_with(images, test)
    outcome.check_passed()
    if test in LOG:
        assert re.search(LOG[test], outcome.domain0), outcome.domain0
    else:
        assert outcome.domain0 == ""


def test_a_guest_that_ends_with_requests_under_way(images: dict[str, Path]) -> None:
    outcome = boot_with(images, "ends_in_the_middle")
    assert outcome.shutdown_code == SHUTDOWN_poweroff
    assert outcome.frames_lost == 0
