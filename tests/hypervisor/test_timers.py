"""Timers of a vCPU that waits, where others disturb it."""

from __future__ import annotations

import pytest
from kernels import boot

from euxen.hypervisor import pcpu


def test_the_periodic_timer_stands_still(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether a vCPU may run again does not make its periodic timer tick."""
    monkeypatch.setattr(pcpu, "LONGEST_SLEEP", 1_000_000)
    boot("time", "periodic_timer_wakes_nobody").check_passed()
