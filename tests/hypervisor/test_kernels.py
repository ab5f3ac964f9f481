"""What a PV guest gets from Xen, tested from inside: every TEST of tests/kernels has to pass in a guest of its own."""

from __future__ import annotations

import pytest
from kernels import SOURCES, boot, kernel_tests

NOT_ALONE = {"block", "net", "pair", "preemption", "privileged", "start_of_day", "xsa_domctl"}
"""Those for which another module chooses images, or what else they are given."""
TESTS = [
    (path.stem, test)
    for path in sorted(SOURCES.glob("*.c"))
    if path.stem not in NOT_ALONE
    for test in kernel_tests(path.stem)
]


@pytest.mark.parametrize(("source", "test"), TESTS)
def test_kernel(source: str, test: str) -> None:
    boot(source, test).check_passed()
