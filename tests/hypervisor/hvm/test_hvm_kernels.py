"""What an HVM guest gets from Xen, tested from inside, in every mode: each TEST of tests/kernels/hvm has to pass."""

from __future__ import annotations

import pytest
from kernels import HVM, HVM_MODES, boot, kernel_tests

NOT_ALONE = {"endings", "fuzz", "lent"}
"""Those for which another module has company, or knows how they end."""
TESTS = [
    (path.stem, test)
    for path in sorted(HVM.glob("*.c"))
    if path.stem not in NOT_ALONE
    for test in kernel_tests(f"hvm/{path.stem}")
]


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize(("source", "test"), TESTS)
def test_hvm_kernel(source: str, test: str, mode: str) -> None:
    boot(source, test, mode=mode).check_passed()
