"""What is measured, in which unit, and how much faster than real Xen in QEMU euxen aims to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

START = "start"
"""The one measure that the host takes: from starting the process to the guest's shell, in seconds."""


@dataclass(frozen=True)
class Measure:
    """One row of the table. `name` is the guest program's name for it."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    target: float
    """The speed aimed at, as a multiple of real Xen's in QEMU."""

    def speedup(self, ours: float, theirs: float) -> float:
        """How many times faster `ours` is than `theirs`, both in this measure's unit and above zero."""
        return ours / theirs if self.more_is_better else theirs / ours


MEASURES = (
    Measure(START, "start to shell", "s", more_is_better=False, target=2.0),
    Measure("null_syscall", "null system call", "ns", more_is_better=False, target=15.0),
    Measure("page_fault", "page faults", "/s", more_is_better=True, target=4.0),
    Measure("fork_exit_wait", "fork + exit + wait", "/s", more_is_better=True, target=2.5),
    Measure("pipe_round_trip", "pipe round trips", "/s", more_is_better=True, target=2.5),
    Measure("integer", "2e8 xorshift64 steps", "s", more_is_better=False, target=0.7),
    Measure("float", "5e7 multiply-adds", "s", more_is_better=False, target=0.6),
    Measure("memset", "memset of 64 MiB", "MiB/s", more_is_better=True, target=1.0),
)


def medians(runs: list[Mapping[str, float]]) -> dict[str, float]:
    """The median of each result over several runs of one side, leaving out what not every run measured."""
    if not runs:
        return {}
    names = set(runs[0]).intersection(*runs[1:])
    return {name: median(run[name] for run in runs) for name in runs[0] if name in names}
