"""A guest that is privileged: whatever Domain 0 may, it may."""

from __future__ import annotations

import pytest
from kernels import boot, kernel_tests

SPARE = 16 << 20


@pytest.mark.parametrize("test", kernel_tests("privileged"))
def test_privileged(test: str) -> None:
    boot("privileged", test, privileged=True, spare=SPARE).check_passed()


@pytest.mark.parametrize("test", kernel_tests("xsa_domctl"))
def test_what_xen_once_got_wrong(test: str) -> None:
    boot("xsa_domctl", test, privileged=True, spare=SPARE).check_passed()
