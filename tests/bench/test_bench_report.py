"""Medians, ratios and the tables made of them."""

import json

from rich.console import Console

from bench.measures import COMPARISONS, MEASURES, medians
from bench.memory import Peak
from bench.report import Report
from bench.run import Run
from bench.transcript import Span, Transcript

TITLES = {"pv": "euxen PV", "xen": "Xen in QEMU", "pvh": "euxen PVH", "plain": "plain QEMU"}


def booted(start: float, span: Span | None = None, resident: int = 0, **results: float) -> Run:
    spans = {} if span is None else {"memset": span}
    return Run(start, start + 9, Transcript(ready=start, done=True, results=results, spans=spans), Peak(resident))


def compared() -> Report:
    report = Report(TITLES)
    for start, null_syscall in ((3.0, 900.0), (2.0, 1100.0), (100.0, 1000.0)):
        report.add("pv", booted(start, null_syscall=null_syscall, page_fault=62000.0, memset=2000.0))
        report.add("xen", booted(2 * start, null_syscall=20000.0, page_fault=15500.0, memset=3000.0))
    return report


def tables(report: Report) -> list[dict[str, list[str]]]:
    """The cells that a person sees on a terminal of the usual width, by the row's title, of each table."""
    found = []
    for table in report.tables():
        console = Console(width=80)
        with console.capture() as capture:
            console.print(table)
        lines = [line.rstrip() for line in capture.get().splitlines() if line.strip(" ─")]
        assert not any("…" in line for line in lines)
        found.append({line[:25].strip(): line[25:].split() for line in lines})
    return found


def test_the_median_is_not_moved_by_one_bad_round() -> None:
    assert medians([{"start": 3.0}, {"start": 2.0}, {"start": 100.0}]) == {"start": 3.0}


def test_a_result_that_a_round_lacks_has_no_median() -> None:
    assert medians([{"start": 3.0, "memset": 1.0}, {"start": 2.0}]) == {"start": 2.5}
    assert medians([]) == {}


def test_above_one_means_that_ours_is_faster() -> None:
    by_name = {each.name: each for each in MEASURES}
    # Rates grow with speed, and times shrink.
    for rate in ("page_fault", "fork_exit_wait", "pipe_round_trip", "memset"):
        assert by_name[rate].speedup(ours=300.0, theirs=100.0) == 3.0
    for time in ("start", "null_syscall", "integer", "float"):
        assert by_name[time].speedup(ours=100.0, theirs=300.0) == 3.0


def test_the_table_shows_medians_ratios_and_aims() -> None:
    (rows,) = tables(compared())
    assert rows["start to shell, s"] == ["3.00", "6.00", "2.00", "2", "met"]
    assert rows["null system call, ns"] == ["1,000", "20,000", "20.00", "15", "met"]
    assert rows["page faults, /s"] == ["62,000", "15,500", "4.00", "4", "met"]
    assert rows["memset of 64 MiB, MiB/s"] == ["2,000", "3,000", "0.67", "1", "missed"]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    (rows,) = tables(compared())
    assert rows["pipe round trips, /s"] == ["-", "-", "-", "2.5"]


def test_each_kind_of_guest_has_a_table() -> None:
    report = compared()
    report.add("pvh", booted(2.4, null_syscall=1000.0, float=0.2, memset=1234567.0))
    report.add("plain", booted(2.4, null_syscall=700.0, float=0.4, memset=1234568.0))
    pv, pvh = tables(report)
    assert pv["null system call, ns"] == ["1,000", "20,000", "20.00", "15", "met"]
    assert pvh["start to shell, s"] == ["2.40", "2.40", "1.00", "1", "met"]
    assert pvh["null system call, ns"] == ["1,000", "700", "0.70", "0.8", "missed"]
    assert pvh["5e7 multiply-adds, s"] == ["0.20", "0.40", "2.00", "-"]
    assert pvh["memset of 64 MiB, MiB/s"][:2] == ["1,234,567", "1,234,568"]


def test_a_side_without_the_other_has_no_ratio() -> None:
    report = compared()
    report.add("plain", booted(2.4, null_syscall=660.0))
    assert report.compared == [COMPARISONS[0]]
    assert tables(report)[1]["null system call, ns"] == ["660"]


def test_one_side_alone_has_no_ratio() -> None:
    report = Report(TITLES)
    report.add("plain", booted(2.4, null_syscall=660.0))
    assert report.compared == []
    (rows,) = tables(report)
    assert rows["null system call, ns"] == ["660"]
    assert report.memory_beside_ram() == {}


def test_a_clock_that_disagrees_is_named_with_both_times() -> None:
    report = compared()
    report.add("pv", booted(2.0, Span(host=2.0, guest=1.0)))
    report.add("xen", booted(2.0, Span(host=1.02, guest=1.0)))
    assert report.wrong_clocks() == [
        "euxen PV, round 4: memset took 2.00 s by the host's clock and 1.00 s by the guest's."
    ]


def test_the_record_holds_every_round_and_is_json() -> None:
    report = compared()
    report.add("pv", booted(2.5, Span(host=2.0, guest=1.0), resident=2048))
    record = json.loads(json.dumps(report.record()))
    assert [each["results"]["start"] for each in record["rounds"]["pv"]] == [3.0, 2.0, 100.0, 2.5]
    assert record["rounds"]["pv"][3]["seconds"] == {"memset": {"host": 2.0, "guest": 1.0}}
    assert record["medians"]["xen"]["null_syscall"] == 20000.0
    assert record["times_faster"]["pv:xen"]["pipe_round_trip"] is None
    assert record["times_faster"].keys() == {"pv:xen"}
    assert record["aims"]["pvh:plain"]["null_syscall"] == 0.8
    assert record["euxen_memory_beside_ram_kib"] == {"pv": 2048}
