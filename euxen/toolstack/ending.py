"""How a domain's run ended, as people are told."""

from __future__ import annotations

import enum

from euxen.abi.sched import SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_suspend


class Ending(enum.Enum):
    """Of its own accord, or because we would not wait any longer."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    CRASH = "crash"
    SUSPEND = "suspend"
    TIMEOUT = "timeout"
    LEFT = "left"


def ending_of(code: int) -> Ending:
    """What a domain meant by its SHUTDOWN_*. Whatever is no proper end counts as a crash."""
    proper = {SHUTDOWN_poweroff: Ending.POWEROFF, SHUTDOWN_reboot: Ending.REBOOT, SHUTDOWN_suspend: Ending.SUSPEND}
    return proper.get(code, Ending.CRASH)
