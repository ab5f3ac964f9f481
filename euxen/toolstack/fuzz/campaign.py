"""A campaign: batches of random hypercalls, and after each a look at the hypervisor."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from euxen.hypervisor.audit import audit
from euxen.toolstack.fuzz.calls import Call, Calls
from euxen.toolstack.fuzz.guest import BATCH, MEMORY, FuzzGuest
from euxen.toolstack.machine import Host, memory_for

SPARE = 4 << 20
"""Bytes of the machine's memory that are nobody's."""
AUDIT_EVERY = 8
"""Batches."""


@dataclass
class Finding:
    """Something that must not happen."""

    what: list[str]
    calls: list[Call] = field(repr=False)
    """The batch before it."""


@dataclass
class Report:
    """What came of a seed."""

    seed: int
    made: int = 0
    """Hypercalls."""
    succeeded: int = 0
    guests: int = 0
    """How many guests it took: one that spoils itself is replaced."""
    finding: Finding | None = None


def make_host() -> Host:
    """A machine for campaigns. Its domains run when a campaign runs them."""
    return Host(memory_for(MEMORY) + SPARE, run=lambda domain: None)


def run(host: Host, seed: int, count: int) -> Report:
    """Make ``count`` hypercalls. Ends at the first finding, and leaves no domain behind where there is none."""
    report = Report(seed)
    free = host.machine.record["free_pages"]
    while report.made < count and report.finding is None:
        guest = FuzzGuest(host)
        # The guests of a seed differ.
        calls = Calls(seed << 32 | report.guests, guest.surroundings)
        report.guests += 1
        _exhaust(guest, host, calls, report, count)
        if report.finding is not None:
            break
        guest.close()
        lost = free - host.machine.record["free_pages"]
        wrong = _audit(host) + ([f"{lost} frames are lost"] if lost else [])
        if wrong:
            report.finding = Finding(wrong, [])
    return report


def _exhaust(guest: FuzzGuest, host: Host, calls: Calls, report: Report, count: int) -> None:
    """Use a guest for as long as it comes back."""
    batches = 0
    while report.made < count:
        batch = [calls.next(guest.slot(number)) for number in range(min(BATCH, count - report.made))]
        try:
            results = guest.make(batch)
        except Exception:
            report.finding = Finding(traceback.format_exc().splitlines(), batch)
            return
        report.made += len(batch)
        batches += 1
        if results is None or batches % AUDIT_EVERY == 0:
            if wrong := _audit(host):
                report.finding = Finding(wrong, batch)
                return
        if results is None:
            return
        for number, (call, result) in enumerate(zip(batch, results, strict=True)):
            calls.learn(guest.slot(number), call, result)
            report.succeeded += result < 1 << 63


def _audit(host: Host) -> list[str]:
    return audit(host.hypervisor)
