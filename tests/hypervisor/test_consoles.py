"""What guests write to their console and to Xen's, and what they are typed."""

from __future__ import annotations

from uuid import UUID

from kernels import boot

from euxen.abi.sched import SHUTDOWN_poweroff

PASTE = "0123456789abcdefghijklmnopqrstuvwxyz"


def test_nothing_of_a_long_output_is_lost() -> None:
    outcome = boot("console", "long_output")
    assert outcome.console == "".join(f"line {number} {PASTE[number % 36 :]}\n" for number in range(2000))
    assert outcome.shutdown_code == SHUTDOWN_poweroff


def test_what_is_typed_arrives() -> None:
    text = PASTE * 200
    outcome = boot("console", "echo", keyboard=f"{text}.and more".encode())
    assert outcome.console == text


def test_absurd_indices_harm_nobody() -> None:
    outcome = boot("console", "absurd_indices")
    assert (outcome.console, outcome.shutdown_code) == ("before\nafter\n", SHUTDOWN_poweroff)


def test_a_guest_may_take_its_ring_away() -> None:
    outcome = boot("console", "no_ring")
    assert (outcome.console, outcome.shutdown_code) == ("before\n", SHUTDOWN_poweroff)


def test_xens_own_console() -> None:
    outcome = boot("hypercalls", "console_io")
    outcome.check_passed()
    assert outcome.xen_console == "Hello, Xen.\n"


def test_the_guest_knows_its_uuid() -> None:
    uuid = UUID("01020304-0506-0708-090a-0b0c0d0e0ff0")
    outcome = boot("hypercalls", "guest_handle", uuid=uuid)
    assert outcome.console.startswith(" ".join(map(str, uuid.bytes)))
