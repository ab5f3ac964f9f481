"""How HVM guests end that do not say so: by faults that nothing handles, by hypercalls, by what Xen does not bear."""

from __future__ import annotations

import re

import pytest
from kernels import HVM, HVM_MODES, Outcome, boot

from euxen.abi.sched import SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot

GUESTS = re.findall(r"^GUEST\((\w+)\)", (HVM / "endings.c").read_text(), re.MULTILINE)
TRIPLE_FAULTS = [name for name in GUESTS if name.startswith(("triple_fault", "page_tables"))]
FAULTS_FOR_EVER = ["a_stack_that_is_none", "gives_everything_away"]
A_WHILE = 2.0
"""After so many seconds a guest that can only go on for ever is stopped."""


def end(test: str, mode: str, argument: str = "", patience: float = 30.0) -> Outcome:
    """What becomes of a guest, which takes nothing with it."""
    outcome = boot("endings", test, mode=mode, argument=argument, patience=patience)
    assert outcome.frames_lost == 0
    return outcome


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize("test", TRIPLE_FAULTS)
def test_triple_faults_reboot(test: str, mode: str) -> None:
    outcome = end(test, mode)
    assert outcome.shutdown_code == SHUTDOWN_reboot and outcome.crash is None
    assert any("Triple fault - invoking HVM shutdown action 1" in line for line in outcome.log)


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize("test", FAULTS_FOR_EVER)
def test_what_cannot_go_on(test: str, mode: str) -> None:
    """It faults until it is stopped, or has a triple fault."""
    assert end(test, mode, patience=A_WHILE).shutdown_code in (None, SHUTDOWN_reboot)


@pytest.mark.parametrize("mode", HVM_MODES)
def test_halt_without_interrupts(mode: str) -> None:
    outcome = end("halt_for_ever", mode)
    assert outcome.shutdown_code == SHUTDOWN_poweroff and outcome.console == ""
    assert any("All CPUs offline -- powering off." in line for line in outcome.log)


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize("reason", range(6))
def test_shutdown(reason: int, mode: str) -> None:
    assert end("shutdowns", mode, str(reason)).shutdown_code == reason


@pytest.mark.parametrize("mode", HVM_MODES)
@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        ("memory_over_a_grant", "The guest puts memory where it has mapped what is lent to it"),
        ("code_in_a_grant", "The guest executes what is only lent to it, at 0xd0000000."),
    ],
)
def test_crashes(test: str, sentence: str, mode: str) -> None:
    outcome = end(test, mode)
    assert outcome.shutdown_code == SHUTDOWN_crash
    assert outcome.crash is not None and outcome.crash.startswith(sentence)
    assert any("CONTEXT: hvm guest (d1v0)" in line for line in outcome.log)


@pytest.mark.parametrize("mode", HVM_MODES)
def test_the_pool_of_the_p2m_ends(mode: str) -> None:
    """Who asks for more gets an error, and goes on."""
    end("uses_up_the_pool", mode).check_passed()
