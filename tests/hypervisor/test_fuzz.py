"""Hypercalls at random: whatever a guest asks for, only the guest suffers, and all its memory comes back."""

from __future__ import annotations

import kernels
import pytest

from euxen.abi.sched import SHUTDOWN_crash, SHUTDOWN_poweroff

COUNT = 2000
REQUESTS = 400
SPARE = 16 << 20
PATIENCE = 3.0
"""Seconds for a guest that has spoiled itself and goes round in a circle."""


@pytest.mark.parametrize("seed", range(48))
def test_random_hypercalls(native: None, seed: int) -> None:
    outcome = kernels.boot("fuzz", "hypercalls", argument=f"{seed} {COUNT}", patience=PATIENCE)
    assert outcome.shutdown_code in (SHUTDOWN_poweroff, SHUTDOWN_crash, None)
    assert outcome.frames_lost == 0


@pytest.mark.parametrize("seed", range(8))
def test_random_grants(native: None, seed: int) -> None:
    outcome = kernels.boot("fuzz", "grants", argument=f"{seed} {10 * COUNT}", patience=PATIENCE)
    assert outcome.shutdown_code in (SHUTDOWN_poweroff, SHUTDOWN_crash, None)
    assert outcome.frames_lost == 0


@pytest.mark.parametrize("seed", range(8))
def test_random_management(native: None, seed: int) -> None:
    arguments = f"{seed} {REQUESTS}"
    outcome = kernels.boot("fuzz", "management", argument=arguments, patience=PATIENCE, privileged=True, spare=SPARE)
    assert outcome.shutdown_code in (SHUTDOWN_poweroff, SHUTDOWN_crash, None)
    assert outcome.crash is None or "Xen itself" not in outcome.crash
    assert outcome.frames_lost == 0
