"""One boot of one side: start its command, read its console, stop it when the guest has said all."""

import os
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.memory import Peak
from bench.sides import Side
from bench.transcript import Transcript
from euxen.toolstack.errors import UserError

SAMPLE_EVERY = 0.1  # seconds
STOP_WITHIN = 10.0  # seconds


@dataclass(frozen=True)
class Run:
    """What one boot showed."""

    ready: float
    """From starting the process to the guest's shell, in seconds."""
    seconds: float
    """From starting the process to the end of the workload."""
    transcript: Transcript
    memory: Peak


def run(side: Side, timeout: float, log: Path) -> Run:
    """Boot `side` once and watch it to the end of its workload.

    The whole console is kept in `log`. Raises UserError where the command cannot be started, ends before the workload
    does, or takes longer than `timeout` seconds.
    """
    transcript, memory = Transcript(), Peak()
    at, last = 0.0, ""
    with log.open("wb") as console:
        started = time.monotonic()
        process = _start(side)
        try:
            for at, line in _lines(process, memory, console, started, started + timeout):
                transcript.feed(line, at)
                last = line or last
                if transcript.finished:
                    break
        except TimeoutError as error:
            raise UserError(f"{side.title} took longer than {timeout:g} s; see {log}") from error
        finally:
            _stop(process)
    if transcript.failure is not None:
        raise UserError(f"{side.title}: the guest's benchmark failed: {transcript.failure}; see {log}")
    if not transcript.done:
        raise UserError(f"{side.title} ended before its workload did, saying {last!r}; see {log}")
    if transcript.ready is None:
        raise UserError(f"{side.title} never said that its shell is ready; see {log}")
    return Run(transcript.ready, at, transcript, memory)


def _start(side: Side) -> subprocess.Popen[bytes]:
    pipe = (
        subprocess.PIPE
    )  # for standard input too: it stays open and silent, as its end would mean something to a console
    try:
        return subprocess.Popen(side.command, cwd=side.directory, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
    except OSError as error:
        raise UserError(f"{side.title}: cannot start {side.command[0]}: {error.strerror}") from error


def _lines(
    process: subprocess.Popen[bytes], memory: Peak, log: BinaryIO, started: float, deadline: float
) -> Iterator[tuple[float, str]]:
    """Each line of the console with the seconds since `started`, until its end; the memory is sampled on the way.

    Raises TimeoutError at `deadline`, which like `started` is a reading of the monotonic clock.
    """
    assert process.stdout is not None
    descriptor, rest, sampled = process.stdout.fileno(), b"", started
    while True:
        readable = select.select([descriptor], [], [], SAMPLE_EVERY)[0]
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError
        if now - sampled >= SAMPLE_EVERY:
            memory.sample(process.pid)
            sampled = now
        if not readable:
            continue
        chunk = os.read(descriptor, 65536)
        log.write(chunk)
        *lines, rest = (rest + (chunk or b"\n")).split(b"\n")
        for line in lines:
            yield now - started, line.decode(errors="replace").strip()
        if not chunk:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
