"""The table of medians and ratios, and the same as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from bench.measures import MEASURES, START, Measure, medians
from bench.run import Run

OURS = "euxen"
THEIRS = "xen"


@dataclass(frozen=True)
class Report:
    """The runs of each side in the order in which the sides are shown, and the sides' titles."""

    titles: dict[str, str]
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def add(self, side: str, run: Run) -> None:
        self.runs.setdefault(side, []).append(run)

    def medians(self, side: str) -> dict[str, float]:
        """The median of each result of one side; empty where it was not run."""
        return medians([results(run) for run in self.runs.get(side, [])])

    @property
    def compared(self) -> bool:
        """Whether both euxen and real Xen were measured, so that there is a ratio."""
        return OURS in self.runs and THEIRS in self.runs

    def speedup(self, measure: Measure) -> float | None:
        """How many times faster euxen is than real Xen in QEMU, or None where not both were measured."""
        ours, theirs = self.medians(OURS).get(measure.name), self.medians(THEIRS).get(measure.name)
        return None if ours is None or theirs is None else measure.speedup(ours, theirs)

    def memory_beside_ram(self) -> int | None:
        """The most that a run of euxen had resident beside its guest's RAM, in KiB, or None where it was not run."""
        return max((run.memory.beside_ram for run in self.runs.get(OURS, [])), default=None)

    def wrong_clocks(self) -> list[str]:
        """A line for each workload in which the guest's clock and the host's told different times."""
        return [
            f"{self.titles[side]}, round {number}: {name} took {span.host:.2f} s by the host's clock "
            f"and {span.guest:.2f} s by the guest's."
            for side, runs in self.runs.items()
            for number, run in enumerate(runs, 1)
            for name, span in run.transcript.spans.items()
            if not span.clocks_agree
        ]

    def table(self) -> Table:
        """A row per measure: each side's median, how many times faster euxen is than real Xen, and the aim."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        headings = [self.titles[side] for side in self.runs] + (["ratio", "aim", ""] if self.compared else [])
        table.add_column("median", no_wrap=True)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        columns = {side: self.medians(side) for side in self.runs}
        for measure in MEASURES:
            cells = [_number(column.get(measure.name)) for column in columns.values()]
            if self.compared:
                speedup = self.speedup(measure)
                verdict = "" if speedup is None else "met" if speedup >= measure.target else "missed"
                cells += ["-" if speedup is None else f"{speedup:.2f}", f"{measure.target:g}", verdict]
            table.add_row(f"{measure.title}, {measure.unit}", *cells)
        return table

    def record(self) -> dict[str, object]:
        """Everything that was measured, as JSON can hold it."""
        return {
            "rounds": {side: [_round(run) for run in runs] for side, runs in self.runs.items()},
            "medians": {side: self.medians(side) for side in self.runs},
            "times_faster": {measure.name: self.speedup(measure) for measure in MEASURES},
            "aims": {measure.name: measure.target for measure in MEASURES},
            "euxen_memory_beside_ram_kib": self.memory_beside_ram(),
        }


def results(run: Run) -> Mapping[str, float]:
    """What the guest measured together with what the host did."""
    return {START: run.ready, **run.transcript.results}


def _round(run: Run) -> dict[str, object]:
    return {
        "results": results(run),
        "seconds": {name: {"host": span.host, "guest": span.guest} for name, span in run.transcript.spans.items()},
        "memory_kib": {"peak": run.memory.resident, "shared": run.memory.shared},
    }


def _number(value: float | None) -> str:
    """Three digits or all before the point, whichever are more."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
