"""What is measured, in which unit, who is compared with whom, and how fast euxen aims to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

START = "start"
"""The one measure that the host takes: from starting the process to the guest's shell, in seconds."""


@dataclass(frozen=True)
class Measure:
    """One row of a table. `name` is the guest program's name for it."""

    name: str
    title: str
    unit: str
    more_is_better: bool

    def speedup(self, ours: float, theirs: float) -> float:
        """How many times faster `ours` is than `theirs`, both in this measure's unit and above zero."""
        return ours / theirs if self.more_is_better else theirs / ours


MEASURES = (
    Measure(START, "start to shell", "s", more_is_better=False),
    Measure("null_syscall", "null system call", "ns", more_is_better=False),
    Measure("page_fault", "page faults", "/s", more_is_better=True),
    Measure("fork_exit_wait", "fork + exit + wait", "/s", more_is_better=True),
    Measure("pipe_round_trip", "pipe round trips", "/s", more_is_better=True),
    Measure("integer", "2e8 xorshift64 steps", "s", more_is_better=False),
    Measure("float", "5e7 multiply-adds", "s", more_is_better=False),
    Measure("memset", "memset of 64 MiB", "MiB/s", more_is_better=True),
)


@dataclass(frozen=True)
class Comparison:
    """One table: a kind of guest in euxen, beside how one runs the same kernel otherwise."""

    ours: str
    theirs: str
    aims: Mapping[str, float]
    """The speed aimed at, as a multiple of theirs, by the measures' names; what is not there has no aim."""


COMPARISONS = (
    Comparison(
        "pv",
        "xen",
        {
            START: 2.0,
            "null_syscall": 15.0,
            "page_fault": 4.0,
            "fork_exit_wait": 2.5,
            "pipe_round_trip": 2.5,
            "integer": 0.7,
            "float": 0.6,
            "memset": 1.0,
        },
    ),
    Comparison(
        "pvh",
        "plain",
        {
            START: 1.0,
            "null_syscall": 0.8,
            "page_fault": 1.0,
            "fork_exit_wait": 1.0,
            "pipe_round_trip": 1.0,
            "integer": 0.7,
            "memset": 1.0,
        },
    ),
)
OURS = tuple(comparison.ours for comparison in COMPARISONS)


def medians(runs: list[Mapping[str, float]]) -> dict[str, float]:
    """The median of each result over several runs of one side, leaving out what not every run measured."""
    if not runs:
        return {}
    names = set(runs[0]).intersection(*runs[1:])
    return {name: median(run[name] for run in runs) for name in runs[0] if name in names}
