"""One boot, with a shell standing in for the machine: what is read, what is refused, and what is left behind."""

import os
from pathlib import Path

import pytest

from bench.memory import Peak
from bench.run import run
from bench.sides import Side
from euxen.toolstack.errors import UserError

GUEST = """
echo BENCH ready
echo BENCH begin memset
echo BENCH memset 3150.5 MiB/s
echo BENCH end memset 1.25
echo BENCH done
"""


def machine(directory: Path, script: str) -> Side:
    return Side("stand-in", "the stand-in", ["/bin/sh", "-c", script], directory)


def refusal(directory: Path, side: Side, timeout: float = 60) -> str:
    with pytest.raises(UserError) as refused:
        run(side, timeout, directory / "console.log")
    return str(refused.value)


def test_a_run_is_read_from_the_console(tmp_path: Path) -> None:
    done = run(machine(tmp_path, GUEST), 60, tmp_path / "console.log")
    assert 0 < done.ready <= done.seconds
    assert done.transcript.results == {"memset": 3150.5}
    assert done.transcript.spans["memset"].guest == 1.25
    assert (tmp_path / "console.log").read_text() == GUEST.replace("echo ", "").lstrip()


def test_a_machine_that_goes_on_is_stopped(tmp_path: Path) -> None:
    run(machine(tmp_path, f"echo $$ > pid; {GUEST} exec sleep 1000"), 60, tmp_path / "console.log")
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_machine_that_ends_early_is_refused_with_its_last_words(tmp_path: Path) -> None:
    told = refusal(tmp_path, machine(tmp_path, "echo BENCH ready; echo 'Kernel panic' >&2; printf '\\n\\n'"))
    assert told.startswith("the stand-in ended before its workload did, saying 'Kernel panic'")


def test_last_words_need_no_end_of_line(tmp_path: Path) -> None:
    assert "saying 'no such kernel'" in refusal(tmp_path, machine(tmp_path, "printf 'no such kernel'"))


def test_a_machine_that_hangs_is_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, machine(tmp_path, "echo BENCH ready; exec sleep 1000"), timeout=0.5)
    assert told.startswith("the stand-in took longer than 0.5 s")


def test_a_failure_in_the_guest_is_told(tmp_path: Path) -> None:
    told = refusal(tmp_path, machine(tmp_path, "echo BENCH ready; echo BENCH failed fork: no memory; exec sleep 1000"))
    assert "the guest's benchmark failed: fork: no memory" in told


def test_a_workload_without_a_shell_before_it_is_refused(tmp_path: Path) -> None:
    assert "never said that its shell is ready" in refusal(tmp_path, machine(tmp_path, "echo BENCH done"))


def test_a_command_that_is_not_there_is_refused(tmp_path: Path) -> None:
    side = Side("euxen", "euxen", [str(tmp_path / "euxen"), "run"], tmp_path)
    assert refusal(tmp_path, side) == f"euxen: cannot start {tmp_path}/euxen: No such file or directory"


STATUS = "Name:\teuxen\nVmHWM:\t{peak:8} kB\nVmRSS:\t{now:8} kB\nRssAnon:\t 1 kB\nRssShmem:\t{shared:8} kB\n"


def test_guest_ram_is_not_counted_as_euxens_memory() -> None:
    memory = Peak()
    memory.feed(STATUS.format(peak=300, now=300, shared=10))  # reading the kernel image, say
    memory.feed(STATUS.format(peak=500, now=420, shared=260))
    assert memory.beside_ram == 290


def test_a_peak_between_two_samples_is_counted() -> None:
    memory = Peak()
    memory.feed(STATUS.format(peak=100, now=100, shared=50))
    memory.feed(STATUS.format(peak=900, now=400, shared=256))
    assert memory.beside_ram == 900 - 256


def test_a_process_that_has_gone_is_no_sample() -> None:
    memory = Peak()
    memory.feed("Name:\teuxen\nState:\tZ (zombie)\n")
    memory.sample(2**22 + 1)  # above any PID that Linux gives
    assert memory == Peak()


def test_a_running_process_is_sampled() -> None:
    memory = Peak()
    memory.sample(os.getpid())
    assert memory.resident >= memory.beside_ram > 0
