"""The network back end, tested from inside a guest: tests/kernels/net.c has honest front ends, and others."""

from __future__ import annotations

import re

import pytest
from kernels import Outcome, boot, kernel_tests

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.toolstack.config.nic import parse_nic
from euxen.toolstack.nics import nic_device

INTERFACES = 3
LOG = {
    "bogus_producer": [
        r"Impossible number of requests on the transmit ring: 257",
        r"Impossible number of requests on the transmit ring: 4294967295",
        r"Impossible number of requests on the receive ring: \d+",
    ],
    "very_many_slots": ["Malicious frontend using 20 slots, threshold 20"],
    "cross_page": ["Cross page boundary: a part of a packet ends 4097 bytes into its page"],
    "bad_extras": [
        "Invalid extra type: 0",
        "Invalid extra type: 5",
        "Invalid extra type: 255",
        "GSO size must not be zero.",
        "Bad GSO type 99.",
        "Missing extra info",
    ],
    "bad_nodes": [
        r"mapping shared-frames 400/21 failed: ",
        "/rx-ring-ref is 'x', and has to be a number up to 4294967295",
        r"mapping tx/rx port 4000 failed: EINVAL",
        "/event-channel-rx is '', and has to be a number",
        "the front end does not take copies",
        r"guest requested 9 queues, exceeding the maximum of 8\.",
        "/feature-sg is 'perhaps'",
        r"mapping shared-frame 4000000 port \d+ failed: ",
    ],
    "control": [r"front end provided bogus ring requests \(\d+ - \d+ = \d+ of 128\)"],
}
"""What Domain 0 has to say of the first interface, in this order."""


def boot_with_interfaces(test: str) -> Outcome:
    devices = tuple(nic_device(parse_nic("bridge=br1", number, lambda warning: None)) for number in range(INTERFACES))
    return boot("net", test, devices=devices, patience=120.0)


@pytest.mark.parametrize("test", [test for test in kernel_tests("net") if test != "ends_in_the_middle"])
def test_front_end(test: str) -> None:
    outcome = boot_with_interfaces(test)
    outcome.check_passed()
    lines = outcome.domain0.splitlines()
    expected = LOG.get(test, [])
    assert len(lines) == len(expected), outcome.domain0
    for line, pattern in zip(lines, expected, strict=True):
        assert line.startswith("vif 1-0: ") and re.search(pattern, line), line


def test_a_guest_that_ends_with_packets_on_their_way() -> None:
    outcome = boot_with_interfaces("ends_in_the_middle")
    assert outcome.shutdown_code == SHUTDOWN_poweroff
    assert outcome.frames_lost == 0
