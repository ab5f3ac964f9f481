"""How domains end: by themselves, for each reason that there is, and by a watchdog."""

from __future__ import annotations

import pytest
from kernels import boot

from euxen.abi import sched as abi

REASONS = {
    "poweroff": abi.SHUTDOWN_poweroff,
    "reboot": abi.SHUTDOWN_reboot,
    "suspend": abi.SHUTDOWN_suspend,
    "crash": abi.SHUTDOWN_crash,
    "watchdog": abi.SHUTDOWN_watchdog,
    "soft_reset": abi.SHUTDOWN_soft_reset,
    "unknown": 9,
}


@pytest.mark.parametrize("guest", ["shut_down", "shut_down_by_the_old_call"])
@pytest.mark.parametrize("reason", REASONS)
def test_shutdown(reason: str, guest: str) -> None:
    outcome = boot("sched", guest, argument=str(REASONS[reason]))
    assert outcome.shutdown_code == REASONS[reason]
    assert outcome.crash is None


def test_the_code_that_was_said_first_counts() -> None:
    assert boot("sched", "shut_down_with_another_code").shutdown_code == abi.SHUTDOWN_crash


def test_the_last_vcpu_takes_the_domain_with_it() -> None:
    outcome = boot("sched", "last_vcpu_down")
    assert (outcome.console, outcome.shutdown_code) == ("", abi.SHUTDOWN_poweroff)


@pytest.mark.parametrize("guest", ["watchdog_fires", "watchdog_fires_while_blocked"])
def test_watchdog(guest: str) -> None:
    outcome = boot("sched", guest)
    assert (outcome.console, outcome.shutdown_code) == ("waiting\n", abi.SHUTDOWN_watchdog)
    assert outcome.log == ("Watchdog timer fired for domain 1",)
