"""The tables of medians and ratios, and the same as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from bench.measures import COMPARISONS, MEASURES, OURS, START, Comparison, Measure, medians
from bench.run import Run


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
    def compared(self) -> list[Comparison]:
        """Those of which both sides were measured, so that there are ratios."""
        return [each for each in COMPARISONS if each.ours in self.runs and each.theirs in self.runs]

    def speedup(self, comparison: Comparison, measure: Measure) -> float | None:
        """How many times faster ours is than theirs, or None where not both were measured."""
        ours = self.medians(comparison.ours).get(measure.name)
        theirs = self.medians(comparison.theirs).get(measure.name)
        return None if ours is None or theirs is None else measure.speedup(ours, theirs)

    def memory_beside_ram(self) -> dict[str, int]:
        """The most that a run of euxen had resident beside its guest's RAM, in KiB, for each kind of guest."""
        return {side: max(run.memory.beside_ram for run in runs) for side, runs in self.runs.items() if side in OURS}

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

    def tables(self) -> list[Table]:
        """One for each comparison, and one for the sides that are in none."""
        compared = self.compared
        left = [side for side in self.runs if not any(side in (each.ours, each.theirs) for each in compared)]
        return [self._comparison(each) for each in compared] + ([self._medians(left)] if left else [])

    def _comparison(self, comparison: Comparison) -> Table:
        """A row per measure: both medians, how many times faster ours is, and the aim."""
        sides = [comparison.ours, comparison.theirs]
        table = self._table([*(self.titles[side] for side in sides), "ratio", "aim", ""])
        for measure in MEASURES:
            speedup, aim = self.speedup(comparison, measure), comparison.aims.get(measure.name)
            verdict = "" if speedup is None or aim is None else "met" if speedup >= aim else "missed"
            ratio = "-" if speedup is None else f"{speedup:.2f}"
            cells = [_number(self.medians(side).get(measure.name)) for side in sides]
            table.add_row(_heading(measure), *cells, ratio, "-" if aim is None else f"{aim:g}", verdict)
        return table

    def _medians(self, sides: list[str]) -> Table:
        table = self._table([self.titles[side] for side in sides])
        for measure in MEASURES:
            table.add_row(_heading(measure), *(_number(self.medians(side).get(measure.name)) for side in sides))
        return table

    @staticmethod
    def _table(headings: list[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("median", no_wrap=True)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        return table

    def record(self) -> dict[str, object]:
        """Everything that was measured, as JSON can hold it."""
        return {
            "rounds": {side: [_round(run) for run in runs] for side, runs in self.runs.items()},
            "medians": {side: self.medians(side) for side in self.runs},
            "times_faster": {
                f"{each.ours}:{each.theirs}": {measure.name: self.speedup(each, measure) for measure in MEASURES}
                for each in self.compared
            },
            "aims": {f"{each.ours}:{each.theirs}": dict(each.aims) for each in COMPARISONS},
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


def _heading(measure: Measure) -> str:
    return f"{measure.title}, {measure.unit}"


def _number(value: float | None) -> str:
    """Three digits or all before the point, whichever are more."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
