"""The back end's side of a ring against a model of the front end's, and against nonsense."""

from __future__ import annotations

import pytest
from front_ring import U32, Front
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from euxen.dom0.backends.ring import BackRing, RingError


class RingMachine(RuleBasedStateMachine):
    """Requests and responses in any interleaving: nothing is lost, and nobody waits for an event that never comes."""

    @initialize(
        pages=st.sampled_from([1, 2, 4, 16]), entry=st.sampled_from([108, 112, 12]), start=st.sampled_from([0, U32 - 3])
    )
    def begin(self, pages: int, entry: int, start: int) -> None:
        self.front = Front(pages, entry, start)
        self.back = BackRing(self.front.pages, entry)
        self.entry = entry
        assert self.back.size == self.front.size
        self.sent: list[bytes] = []
        self.waiting: list[bytes] = []
        self.answered: list[bytes] = []
        self.seen: list[bytes] = []
        self.number = 0
        self.back_asleep = self.front_asleep = True

    @property
    def room(self) -> int:
        return self.front.size - (self.front.req_prod_pvt - self.front.rsp_cons) % U32

    @precondition(lambda self: self.room > 0)
    @rule(count=st.integers(1, 40))
    def send(self, count: int) -> None:
        for _ in range(min(count, self.room)):
            self.number += 1
            request = (self.number.to_bytes(4, "little") * 28)[: self.entry]
            self.front.put(request)
            self.sent.append(request)
        if self.front.push():
            self.back_asleep = False

    @rule(most=st.integers(1, 300))
    def take(self, most: int) -> None:
        taken = self.back.take(most)
        assert taken == self.sent[: len(taken)]
        assert len(taken) == min(most, len(self.sent))
        del self.sent[: len(taken)]
        self.waiting += taken
        if not self.back.has_more():
            assert not self.sent
            self.back_asleep = True

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, len(self.waiting)))):
            request = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            self.back.put(request[:12])
            self.answered.append(request[:12])
        if self.back.push():
            self.front_asleep = False

    @rule()
    def receive(self) -> None:
        while (response := self.front.take(12)) is not None:
            self.seen.append(response)
        self.front.set_index("rsp_event", self.front.rsp_cons + 1)
        assert self.seen == self.answered
        self.front_asleep = True

    @invariant()
    def nobody_sleeps_with_work(self) -> None:
        if hasattr(self, "front"):
            assert not (
                self.sent and self.back_asleep and self.front.index("req_event") == self.front.index("req_prod") + 1
            )
            assert self.back.unanswered == len(self.waiting)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(0, U32 - 1), st.integers(0, U32 - 1), st.integers(0, 5))
def test_no_index_harms(req_prod: int, rsp_prod: int, answers: int) -> None:
    """Any producer index is taken for what it is, or refused; never more than a ring of requests comes of it."""
    front = Front(1, 112)
    back = BackRing(front.pages, 112)
    for _ in range(answers):
        front.put(b"x" * 112)
    front.push()
    assert len(back.take(32)) == answers
    front.set_index("req_prod", req_prod)
    front.set_index("rsp_prod", rsp_prod)
    try:
        taken = back.take(32)
    except RingError:
        assert req_prod > 32 or req_prod < answers
    else:
        assert len(taken) == req_prod - answers <= 32
    for _ in range(answers):
        back.put(b"y" * 16)
    back.push()
    assert front.index("rsp_prod") == answers


def test_an_entry_is_copied_once() -> None:
    front = Front(1, 112)
    back = BackRing(front.pages, 112)
    front.put(b"a" * 112)
    front.push()
    (request,) = back.take(1)
    front.memory[64:176] = b"b" * 112
    assert request == b"a" * 112


def test_requests_that_were_taken_back() -> None:
    front = Front(1, 112)
    back = BackRing(front.pages, 112)
    for _ in range(4):
        front.put(b"a" * 112)
    front.push()
    back.take(4)
    front.set_index("req_prod", 2)
    with pytest.raises(RingError, match="took back"):
        back.take(32)


def test_a_new_back_end_goes_on_where_the_last_one_stopped() -> None:
    front = Front(1, 112, start=1000)
    back = BackRing(front.pages, 112)
    assert back.take(32) == []
    front.put(b"q" * 112)
    front.push()
    assert len(back.take(32)) == 1
