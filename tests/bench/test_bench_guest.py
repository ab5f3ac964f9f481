"""The program that runs in the guest: it is an ordinary program, so the host can try it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.artifacts import GUEST, compile_static
from bench.measures import MEASURES, START
from bench.transcript import Transcript


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_program_measures_all_that_the_table_shows(tmp_path: Path) -> None:
    program = compile_static(GUEST / "bench.c", tmp_path / "bench")
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    transcript = Transcript()
    for line in printed.splitlines():
        transcript.feed(line, 0.0)
    names = {measure.name for measure in MEASURES} - {START}
    assert names <= transcript.results.keys()
    assert transcript.spans.keys() == names
    assert transcript.done
    units = {words[1]: words[3] for line in printed.splitlines() if len(words := line.split()) == 4}
    assert all(units[measure.name] == measure.unit for measure in MEASURES if measure.name != START)
