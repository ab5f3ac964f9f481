"""docs/differences.md says which operations of the hypercalls there are: a guest that tries all of them agrees."""

from __future__ import annotations

import functools

import pytest
from kernels import boot

from euxen.abi.errno import XEN_ENOSYS
from euxen.hypervisor.hypercalls.events import EVTCHNOP_reset_cont
from scripts.suboperations import FAMILIES, Family, suboperations

SPARE = 4 << 20


@functools.cache
def results() -> dict[tuple[str, int], int]:
    """What a guest was answered, by hypercall and command."""
    outcomes = (
        (10, boot("operations", "every_command")),
        (10, boot("operations", "every_management_command", privileged=True, spare=SPARE)),
        (16, boot("operations", "every_command", mode="64")),
    )
    told = {}
    for base, outcome in outcomes:
        outcome.check_passed()
        for line in outcome.console.splitlines()[:-1]:
            hypercall, command, result = line.split()
            told[hypercall, int(command, base)] = int(result, base)
    return told


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.hypercall)
def test_documented_operations(family: Family) -> None:
    answers = suboperations(family)
    for name, number in family.numbers.items():
        result = results().get((family.hypercall, number))
        if result is None:
            assert name in (
                "SCHEDOP_shutdown",
                "SCHEDOP_block",
                "SCHEDOP_poll",
                "SCHEDOP_watchdog",
                "VCPUOP_down",
                "VCPUOP_send_nmi",
            )
        elif name in answers["-ENOSYS"]:
            assert result == -XEN_ENOSYS, name
        elif name in answers["refused"]:
            assert result < 0, name
        else:
            # The guest uses the two-level ABI, in which ports have no priorities.
            # What a CPU pool's operation is, its structure says.
            assert result != -XEN_ENOSYS or name in ("EVTCHNOP_set_priority", "XEN_SYSCTL_cpupool_op"), name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.hypercall)
def test_what_nobody_knows(family: Family) -> None:
    known = set(family.numbers.values())
    if family.hypercall == "event_channel_op":
        known.add(EVTCHNOP_reset_cont)
    others = {number: result for (name, number), result in results().items() if name == family.hypercall}
    assert {number: result for number, result in others.items() if number not in known and result != -XEN_ENOSYS} == {}
