"""Guests whose long operations are interrupted, again and again, and guests that end in the middle of one."""

from __future__ import annotations

import pytest
from kernels import boot, kernel_tests

from euxen.abi.sched import SHUTDOWN_poweroff

MEMORY = 64 << 20


@pytest.mark.parametrize("test", kernel_tests("preemption"))
def test_operation(test: str) -> None:
    boot("preemption", test, memory=MEMORY).check_passed()


@pytest.mark.parametrize("guest", ["ends_in_a_pin", "ends_in_an_unpin", "ends_in_an_update"])
def test_end(guest: str) -> None:
    outcome = boot("preemption", guest, memory=MEMORY)
    assert outcome.console == ""
    assert outcome.shutdown_code == SHUTDOWN_poweroff
    assert outcome.frames_lost == 0
