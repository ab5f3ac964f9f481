"""Anything at random: whatever an HVM guest does, only the guest suffers, and all its memory comes back."""

from __future__ import annotations

import pytest
from kernels import HVM_MODES, Outcome, boot

from euxen.abi.sched import SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot

COUNT = 3000
PATIENCE = 3.0
"""Seconds for a guest that has spoiled itself and goes round in a circle."""


INSTRUCTIONS = 0x1000
SHORT_PATIENCE = 0.5
"""The same for one that has no way out of what it executed."""


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize("seed", range(12))
def test_anything(native: None, mode: str, seed: int) -> None:
    check(boot("fuzz", "anything", mode=mode, argument=f"{seed:x} {COUNT:x}", patience=PATIENCE))


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize("seed", range(4))
def test_any_instructions(native: None, mode: str, seed: int) -> None:
    argument = f"{seed:x} {INSTRUCTIONS:x}"
    check(boot("instructions", "anything", mode=mode, argument=argument, patience=SHORT_PATIENCE))


def check(outcome: Outcome) -> None:
    """It may have come to any end but one that is Xen's fault."""
    assert outcome.shutdown_code in (SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_crash, None)
    assert outcome.crash is None or "Xen itself" not in outcome.crash
    assert outcome.frames_lost == 0
