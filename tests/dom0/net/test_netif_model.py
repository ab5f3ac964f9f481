"""Random traffic between interfaces, compared with queues of what was sent.

Packets of any shape come out as they went in, in their order, natively or through Python, at once or when there is
room; every request is answered; no reference to a page is left.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from frames import TCP, ethernet, ipv4, tcp
from grant_guest import new_hypervisor
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from netfront import EVERYTHING, NULL, OKAY, RX_PAGES, TX_PAGES, NetFront, Received, gso_extra

from euxen.abi.io.netif import (
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETTXF_csum_blank,
    NETTXF_data_validated,
)
from euxen.dom0.net.lan import Lan
from euxen.hypervisor.control import Control

pytestmark = pytest.mark.usefixtures("native")

BROADCAST = b"\xff" * 6
MSS = 1448
GUESTS = 3


def mac(number: int) -> bytes:
    return bytes([0, 0x16, 0x3E, 0, 0, number])


@dataclass
class Sent:
    """A packet on its way."""

    data: bytes
    flags: int
    gso: tuple[int, int]


@dataclass
class Guest:
    """A front end, and what should come of what it does."""

    front: NetFront
    free: deque[int] = field(default_factory=lambda: deque(range(RX_PAGES)))
    offered: deque[int] = field(default_factory=deque)
    expected: deque[Sent] = field(default_factory=deque)
    unsent: list[tuple[int, Sent]] = field(default_factory=list)
    answers: list[tuple[int, int]] = field(default_factory=list)
    pages: int = 0
    """Of the transmit pages, those with packets that were not answered."""
    number: int = 0


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hypervisor = new_hypervisor()
        self.free = self.hypervisor.machine.record["free_pages"]
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.guests: list[Guest] = []
        self.known: set[int] = set()
        """Those whose addresses the bridge has seen."""

    @initialize(start=st.sampled_from([0, 0xFFFF_FFF0]))
    def begin(self, start: int) -> None:
        self.lan = Lan(self.control, "xenbr0")
        for number in range(GUESTS):
            guest = Guest(NetFront(self.hypervisor, self.control, self.lan, EVERYTHING, f"vif{number}"))
            self._begin_at(guest.front, start)
            self.guests.append(guest)

    @staticmethod
    def _begin_at(front: NetFront, start: int) -> None:
        """Indices go round: begin shortly before they do."""
        for ring in (front.tx_ring, front.rx_ring):
            for at, value in ((0, start), (4, start + 1), (8, start), (12, start + 1)):
                ring[at : at + 4] = (value & 0xFFFF_FFFF).to_bytes(4, "little")
        front.tx_prod = front.rx_prod = front.tx_cons = front.rx_cons = start
        front.link.transmitter.record["req_cons"] = front.link.transmitter.record["rsp_prod_pvt"] = start
        front.link.receiver.record["req_cons"] = front.link.receiver.record["pushed"] = start

    @rule(
        data=st.data(),
        sender=st.integers(0, GUESTS - 1),
        to=st.integers(0, GUESTS),
        size=st.sampled_from([1, 40, 1400, 4000, 4096, 9000, 30000]),
        flags=st.sampled_from([0, NETTXF_data_validated, NETTXF_csum_blank]),
    )
    def queue(self, data: st.DataObject, sender: int, to: int, size: int, flags: int) -> None:
        guest = self.guests[sender]
        destination = BROADCAST if to == GUESTS else mac(to)
        body = bytes([guest.number & 0xFF]) * size
        frame = ethernet(ipv4(TCP, tcp(body)), destination, mac(sender))
        smallest = -(-len(frame) // 4096) - 1
        cuts = data.draw(st.sets(st.integers(14, len(frame) - 1), min_size=smallest, max_size=min(smallest + 3, 17)))
        ends = sorted({*cuts, *range(14 + 4000, len(frame), 4000)})
        if len(ends) + 1 + guest.pages > TX_PAGES or len(ends) > 17:
            return
        gso = (XEN_NETIF_GSO_TYPE_TCPV4, MSS) if size > MSS and flags & NETTXF_csum_blank else (0, 0)
        extras = (gso_extra(*gso),) if gso[0] else ()
        pages = guest.front.queue(frame, tuple(ends), flags, extras, guest.number * 32 & 0x7FFF, guest.pages)
        guest.pages += pages
        ids = [(guest.number * 32 & 0x7FFF) + n for n in range(pages)]
        guest.answers += [(ids[0], OKAY), *[(0, NULL)] * len(extras), *[(number, OKAY) for number in ids[1:]]]
        guest.unsent.append((to, Sent(frame, flags, gso)))
        guest.number += 1

    @rule(sender=st.integers(0, GUESTS - 1), natively=st.booleans())
    def kick(self, sender: int, natively: bool) -> None:
        guest = self.guests[sender]
        guest.front.kick(natively)
        if guest.unsent:
            self.known.add(sender)
        for to, packet in guest.unsent:
            for number, other in enumerate(self.guests):
                if number != sender and (to in (number, GUESTS) or (to != GUESTS and to not in self.known)):
                    other.expected.append(packet)
        guest.unsent.clear()
        answers = guest.front.answers()
        assert [status for _number, status in answers] == [status for _number, status in guest.answers]
        for (number, _status), (expected, _expected) in zip(answers, guest.answers, strict=True):
            assert number == expected
        guest.answers.clear()
        guest.pages = 0
        assert guest.front.wants_kick()

    @rule(to=st.integers(0, GUESTS - 1), count=st.integers(1, RX_PAGES), natively=st.booleans())
    def offer(self, to: int, count: int, natively: bool) -> None:
        guest = self.guests[to]
        pages = [guest.free.popleft() for _ in range(min(count, len(guest.free)))]
        guest.offered.extend(pages)
        guest.front.post(pages)
        guest.front.kick_receiver(natively)

    @rule(to=st.integers(0, GUESTS - 1))
    def receive(self, to: int) -> None:
        guest = self.guests[to]
        before = guest.front.rx_cons
        for packet in guest.front.received():
            self._compare(packet, guest.expected.popleft())
        guest.free.extend(guest.offered.popleft() for _ in range(guest.front.rx_cons - before))

    @staticmethod
    def _compare(packet: Received, sent: Sent) -> None:
        assert packet.data == sent.data
        assert packet.gso == sent.gso
        assert all(status > 0 for status in packet.statuses)
        assert all(status == 4096 for status in packet.statuses[:-1])
        valid = NETRXF_data_validated if sent.flags else 0
        blank = NETRXF_csum_blank if sent.flags & NETTXF_csum_blank else 0
        assert packet.flags & (NETRXF_csum_blank | NETRXF_data_validated) == valid | blank

    @invariant()
    def nothing_is_pinned_but_the_rings(self) -> None:
        for guest in self.guests:
            assert sum(guest.front.guest.domain.grant_table.pins().values()) == 2
            assert guest.front.link.lost == 0

    def teardown(self) -> None:
        for guest in self.guests:
            guest.front.close()
        if self.guests:
            self.lan.close()
        assert self.hypervisor.machine.record["free_pages"] == self.free


def test_random_traffic() -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Traffic, settings=settings(max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=checks)
    )
