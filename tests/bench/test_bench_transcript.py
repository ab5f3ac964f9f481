"""What a guest's console says is read as it was meant, whatever else is printed around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.transcript import Span, Transcript


def read(*lines: str) -> Transcript:
    """The transcript of a guest that prints one line a second, the first after one second."""
    transcript = Transcript()
    for at, line in enumerate(lines, 1):
        transcript.feed(line, float(at))
    return transcript


def test_a_whole_run() -> None:
    transcript = read(
        "[    0.000000] Linux version 6.1.0",
        "BENCH ready",
        "BENCH begin null_syscall",
        "BENCH null_syscall 19800.250 ns",
        "BENCH null_syscall_rate 50504.4 /s",
        "BENCH end null_syscall 3.05",
        "BENCH begin integer",
        "BENCH integer 0.39 s",
        "integer: 71bc53e1937d3d53",
        "BENCH end integer 2.0",
        "BENCH done",
    )
    assert transcript.ready == 2
    assert transcript.results == {"null_syscall": 19800.25, "null_syscall_rate": 50504.4, "integer": 0.39}
    assert transcript.spans == {"null_syscall": Span(3.0, 3.05), "integer": Span(3.0, 2.0)}
    assert transcript.done and transcript.finished and transcript.failure is None


def test_nothing_is_finished_before_the_guest_says_so() -> None:
    transcript = read("BENCH ready", "BENCH begin memset", "BENCH memset 3150.0 MiB/s")
    assert not transcript.finished
    assert transcript.spans == {}


def test_a_line_may_begin_with_what_firmware_left_unfinished() -> None:
    assert read("\x1b[0mBooting from ROM..(XEN) BENCH ready\r").ready == 1


def test_a_failure_in_the_guest_ends_the_run_with_its_reason() -> None:
    transcript = read("BENCH ready", "BENCH begin page_fault", "BENCH failed mmap: Cannot allocate memory")
    assert transcript.finished and not transcript.done
    assert transcript.failure == "mmap: Cannot allocate memory"


@pytest.mark.parametrize(
    "line",
    [
        "BENCH integer 0.[    9.1] random: crng init done",
        "BENCH integer nan s",
        "BENCH integer inf s",
        "BENCH integer -1 s",
        "BENCH integer 0 s",
        "BENCH integer 0.39",
        "BENCHMARK integer 0.39 s",
        "BENCH end integer 0.39",
    ],
)
def test_a_broken_line_gives_no_result(line: str) -> None:
    transcript = read(line)
    assert transcript.results == {} and transcript.spans == {} and not transcript.finished


def test_clocks_agree_within_a_tenth_of_the_hosts_time() -> None:
    assert Span(host=1.0, guest=1.09).clocks_agree
    assert Span(host=1.0, guest=0.91).clocks_agree
    assert not Span(host=1.0, guest=1.11).clocks_agree
    assert not Span(host=1.0, guest=0.89).clocks_agree


@given(st.lists(st.text(st.characters(exclude_characters="\n")).map(lambda text: "BENCH " + text)))
def test_no_console_can_break_the_reader(lines: list[str]) -> None:
    assert all(0 < value < float("inf") for value in read(*lines).results.values())
