"""A campaign: batches of random hypercalls, and after each a look at the hypervisor."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from euxen.hypervisor.audit import audit
from euxen.toolstack.fuzz.calls import Call
from euxen.toolstack.fuzz.guest import BATCH, MEMORY, FuzzGuest
from euxen.toolstack.fuzz.management import ManagementCalls
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
    while report.made < count and report.finding is None:
        _use_up_a_guest(host, report, count, privileged=False)
    return report


def run_privileged(seed: int, count: int) -> Report:
    """The same by guests that may manage domains. Each has a machine of its own, with which it may do what it likes."""
    report = Report(seed)
    while report.made < count and report.finding is None:
        _use_up_a_guest(make_host(), report, count, privileged=True)
    return report


def _use_up_a_guest(host: Host, report: Report, count: int, privileged: bool) -> None:
    """Use a guest for as long as it comes back, and look what is left when it is gone."""
    before = _known(host)
    guest = FuzzGuest(host, privileged)
    # The guests of a seed differ.
    calls = ManagementCalls(report.seed << 32 | report.guests, guest.surroundings)
    report.guests += 1
    last: list[Call] = []
    try:
        wrong = _exhaust(guest, host, calls, report, count, last)
        if not wrong and not host.hypervisor.domain0.is_dying:
            last.clear()
            if guest.victim is not None:
                guest.victim.run_for_a_moment()
            guest.close()
            lost = before - _known(host)
            wrong = audit(host.hypervisor) + ([f"{lost} frames are lost"] if lost else [])
    except Exception:
        wrong = traceback.format_exc().splitlines()
    if wrong:
        report.finding = Finding(wrong, last)


def _exhaust(
    guest: FuzzGuest, host: Host, calls: ManagementCalls, report: Report, count: int, last: list[Call]
) -> list[str]:
    """Use a guest for as long as it comes back; what was found. ``last`` is the batch that was made last."""
    batches = 0
    context = bytes(guest.victim.context) if guest.victim is not None else b""
    while report.made < count:
        last[:] = [calls.next(guest.slot(number)) for number in range(min(BATCH, count - report.made))]
        results = guest.make(last, calls.spoiled(context))
        report.made += len(last)
        batches += 1
        if results is None or batches % AUDIT_EVERY == 0:
            if wrong := audit(host.hypervisor):
                return wrong
        # A privileged guest that did away with Domain 0 is the end of its machine, and no more.
        if results is None or host.hypervisor.domain0.is_dying:
            break
        for number, (call, result) in enumerate(zip(last, results, strict=True)):
            calls.learn(guest.slot(number), call, result)
            report.succeeded += result < 1 << 63
    return []


def _known(host: Host) -> int:
    """How many frames are free or Domain 0's, which a privileged guest may have given it."""
    domain0 = host.hypervisor.domain0
    table = domain0.grant_table
    kept = domain0.record["tot_pages"] + len(table.frames) + len(table.status_frames)
    return int(host.machine.record["free_pages"] + kept)
