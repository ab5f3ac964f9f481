"""Timers of a vCPU that waits, where others disturb it."""

from __future__ import annotations

import os
import time

import pytest
from kernels import boot

from euxen.hypervisor.pcpu import Pcpu
from euxen.hypervisor.vcpu import Vcpu


def test_the_periodic_timer_stands_still(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether a vCPU may run again does not make its periodic timer tick."""
    sleep = Pcpu._sleep

    def wake_for_nothing(pcpu: Pcpu, vcpu: Vcpu) -> None:
        os.eventfd_write(vcpu.sleeper.record["eventfd"], 1)
        sleep(pcpu, vcpu)
        time.sleep(0.001)

    monkeypatch.setattr(Pcpu, "_sleep", wake_for_nothing)
    boot("time", "periodic_timer_wakes_nobody").check_passed()
