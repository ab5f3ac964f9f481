"""The ring, used well and used badly; what one domain does with its ring never touches another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenstore_client import Guest, Machine

from euxen.abi.io.xs_wire import (
    XENSTORE_CONNECTED,
    XENSTORE_ERROR_NONE,
    XENSTORE_ERROR_PROTO,
    XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT,
    XENSTORE_RING_SIZE,
    XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION,
    XS_READ,
    XS_TRANSACTION_START,
    XS_WATCH,
    XS_WATCH_EVENT,
    XS_WRITE,
    XsdSockmsg,
)
from euxen.dom0.xenstore import Packet, Quota, receive

WORDS = ("req_cons", "req_prod", "rsp_cons", "rsp_prod", "server_features", "connection", "error")


class TwoGuests:
    """Domains 1 and 2, each with a place of its own that the other can read."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.machine = Machine(quota)
        self.store = self.machine.store
        self.guests = {}
        for domid in (1, 2):
            self.machine.ask(0, Packet(8, b"%d\x001\x001\0" % domid))
            self.machine.ask(0, Packet(XS_WRITE, b"/local/domain/%d/data\0" % domid))
            self.machine.ask(0, Packet(14, b"/local/domain/%d/data\0r%d\0" % (domid, domid)))
            self.guests[domid] = Guest(self.store, self.machine.connection(domid))
        self.one, self.two = self.guests[1], self.guests[2]

    def flush(self) -> None:
        """What whoever embeds xenstored does after anything happened."""
        for connection in self.store.take_ready():
            for guest in self.guests.values():
                if guest.ring.connection is connection:
                    guest.ring.flush()


def write(path: bytes, value: bytes = b"", req_id: int = 1) -> Packet:
    return Packet(XS_WRITE, path + b"\0" + value, req_id)


def read(path: bytes, req_id: int = 1) -> Packet:
    return Packet(XS_READ, path + b"\0", req_id)


def watch(path: bytes, token: bytes = b"token") -> Packet:
    return Packet(XS_WATCH, path + b"\0" + token + b"\0", 1)


def test_features_are_offered_before_anything_moves() -> None:
    guest = TwoGuests().one
    assert guest.field("server_features") & XENSTORE_SERVER_FEATURE_RECONNECTION
    assert guest.field("server_features") & XENSTORE_SERVER_FEATURE_ERROR
    assert guest.field("connection") == XENSTORE_CONNECTED
    assert guest.signals == 0


def test_a_request_and_its_reply() -> None:
    guest = TwoGuests().one
    assert guest.talk(write(b"data/a", b"hello")) == [Packet(XS_WRITE, b"OK\0", 1)]
    assert guest.talk(read(b"data/a")) == [Packet(XS_READ, b"hello", 1)]
    assert guest.signals == 2


def test_a_request_that_comes_while_another_is_served() -> None:
    """The domain sees that it is being served, and does not signal."""
    guest = TwoGuests().one
    guest.meanwhile.append(write(b"data/b", b"second", 2))
    guest.put(write(b"data/a", b"first").encode())
    assert guest.ring.service()
    assert guest.take() == [Packet(XS_WRITE, b"OK\0", 1)]
    assert not guest.ring.service()
    assert guest.take() == [Packet(XS_WRITE, b"OK\0", 2)]
    assert not guest.ring.service()


def test_room_that_comes_while_replies_are_sent() -> None:
    guest = TwoGuests().one
    value = b"x" * 900
    guest.talk(write(b"data/a", value))
    requests = [read(b"data/a", number) for number in range(3)]
    guest.put(b"".join(request.encode() for request in requests))
    replies: list[Packet] = []
    guest.when_signalled = lambda: replies.extend(guest.take())
    while guest.ring.service():
        pass
    assert replies == [Packet(XS_READ, value, number) for number in range(3)]


@pytest.mark.parametrize("start", [0, 1000, 1023, 0xFFFFFFF0])
def test_the_queues_may_start_anywhere_and_wrap(start: int) -> None:
    world = TwoGuests()
    guest = Guest(world.store, world.machine.connection(1))
    for word in ("req_cons", "req_prod", "rsp_cons", "rsp_prod"):
        guest.set_field(word, start)
    guest.ring.close()
    guest.ring = type(guest.ring)(world.store, world.machine.connection(1), memoryview(guest.page), guest._signalled)
    for size in (0, 100, 900, 2000):
        value = bytes(range(256)) * 8
        assert guest.talk(write(b"data/a", value[:size]))[0].payload == b"OK\0"
        assert guest.talk(read(b"data/a")) == [Packet(XS_READ, value[:size], 1)]


@given(st.lists(st.binary(max_size=300), max_size=12), st.data())
@settings(deadline=None, max_examples=60)
def test_requests_in_any_pieces(values: list[bytes], data: st.DataObject) -> None:
    world = TwoGuests()
    stream = b"".join(write(b"data/%d" % i, value, i).encode() for i, value in enumerate(values))
    answers = []
    while stream:
        piece = data.draw(st.integers(1, min(len(stream), XENSTORE_RING_SIZE)))
        stream = stream[world.one.put(stream[:piece]) :]
        if data.draw(st.booleans()) or world.one.field("req_prod") - world.one.field("req_cons") == XENSTORE_RING_SIZE:
            world.one.ring.service()
            answers += world.one.take()
    world.one.ring.service()
    answers += world.one.take()
    assert answers == [Packet(XS_WRITE, b"OK\0", i) for i in range(len(values))]


def test_an_event_comes_without_being_asked_for() -> None:
    world = TwoGuests()
    world.one.talk(watch(b"/local/domain/2/data"))
    signals = world.one.signals
    world.two.talk(write(b"data/x"))
    assert world.one.take() == []
    world.flush()
    assert world.one.take() == [Packet(XS_WATCH_EVENT, b"/local/domain/2/data/x\0token\0")]
    assert world.one.signals == signals + 1
    world.flush()
    assert world.one.signals == signals + 1


def test_nothing_new_is_no_signal() -> None:
    guest = TwoGuests().one
    guest.ring.service()
    guest.ring.flush()
    assert guest.signals == 0


@pytest.mark.parametrize("distance", [XENSTORE_RING_SIZE + 1, 1 << 31, -1])
@pytest.mark.parametrize("word", ["req_prod", "rsp_cons"])
def test_an_impossible_index_ends_that_connection_only(word: str, distance: int) -> None:
    world = TwoGuests()
    world.one.talk(watch(b"data"), Packet(XS_TRANSACTION_START, b"\0", 2))
    world.two.talk(watch(b"data"))
    world.one.put(read(b"data").encode())
    own = {"req_prod": "req_cons", "rsp_cons": "rsp_prod"}[word]
    world.one.set_field(word, world.one.field(own) + (distance if word == "req_prod" else -distance))
    signals = world.one.signals
    world.one.ring.service()
    assert world.one.field("error") == XENSTORE_ERROR_RINGIDX
    assert world.one.signals == signals + 1
    assert not world.machine.connection(1).watches
    assert not world.machine.connection(1).transactions
    assert [line for line in world.machine.lines if line.startswith("D1 is disconnected: ring indices")]
    # It gets nothing any more, and does nothing any more.
    world.one.set_field("req_prod", world.one.field("req_cons"))
    world.one.put(write(b"data/late").encode())
    world.one.ring.service()
    assert world.two.talk(read(b"/local/domain/1/data/late"))[0].payload == b"ENOENT\0"
    # The other one goes on.
    assert [packet.payload for packet in world.two.talk(write(b"data", b"x"))] == [b"OK\0", b"data\0token\0"]


def test_too_long_a_payload_ends_the_connection() -> None:
    world = TwoGuests()
    world.one.put(write(b"data/a", b"1").encode() + bytes(XsdSockmsg(type=XS_READ, len=4097)))
    world.one.ring.service()
    assert world.one.field("error") == XENSTORE_ERROR_PROTO
    # What came before it was done, though the reply is lost.
    assert world.two.talk(read(b"/local/domain/1/data/a")) == [Packet(XS_READ, b"1", 1)]
    assert world.machine.lines == ["D1 is disconnected: payload of 4097 bytes; at most 4096 are allowed"]


@pytest.mark.parametrize("broken", [False, True])
def test_reconnection(broken: bool) -> None:
    world = TwoGuests()
    world.one.talk(watch(b"data"), Packet(XS_TRANSACTION_START, b"\0", 2))
    world.one.put(read(b"data").encode()[:7])  # in the middle of a packet
    world.one.ring.service()
    world.two.talk(write(b"data/x"))
    if broken:
        world.one.set_field("req_prod", world.one.field("req_cons") + 5000)
        world.one.ring.service()
        assert world.one.field("error") == XENSTORE_ERROR_RINGIDX
    world.one.set_field("connection", XENSTORE_RECONNECT)
    signals = world.one.signals
    world.one.ring.service()
    assert world.one.signals == signals + 1
    assert {word: world.one.field(word) for word in WORDS if word != "server_features"} == {
        "req_cons": 0,
        "req_prod": 0,
        "rsp_cons": 0,
        "rsp_prod": 0,
        "connection": XENSTORE_CONNECTED,
        "error": XENSTORE_ERROR_NONE,
    }
    assert not world.machine.connection(1).watches
    assert not world.machine.connection(1).transactions
    assert world.one.talk(write(b"data/a", b"x")) == [Packet(XS_WRITE, b"OK\0", 1)]


def test_who_breaks_the_protocol_again_and_again_does_not_fill_the_log() -> None:
    world = TwoGuests()
    for _ in range(20):
        world.one.set_field("req_prod", world.one.field("req_cons") + 5000)
        world.one.ring.service()
        assert world.one.field("error") == XENSTORE_ERROR_RINGIDX
        world.one.set_field("connection", XENSTORE_RECONNECT)
        world.one.ring.service()
    assert len(world.machine.lines) == 1


def test_a_domain_that_does_not_read_cannot_send_for_ever() -> None:
    world = TwoGuests(Quota(outstanding=8))
    request = write(b"data/a", b"x")
    accepted = 0
    for _ in range(1000):
        accepted += world.one.put(request.encode())
        world.one.ring.service()
    # Its replies fill the ring, then the queue, then its requests fill the ring.
    assert world.machine.connection(1).outstanding < 8 + XENSTORE_RING_SIZE // 16
    assert accepted < 4 * XENSTORE_RING_SIZE + 8 * len(request.encode())
    # Others are served meanwhile.
    assert world.two.talk(write(b"data/b", b"y")) == [Packet(XS_WRITE, b"OK\0", 1)]
    # When it reads, each request that it could send is answered, and nothing is lost.
    expected = accepted // len(request.encode())
    answers = []
    for _ in range(100):
        answers += world.one.take()
        world.one.ring.service()
    assert answers == [Packet(XS_WRITE, b"OK\0", 1)] * expected


@pytest.mark.parametrize("outstanding", [1, 4, 1024])
def test_short_requests_with_longer_replies_do_not_pile_up(outstanding: int) -> None:
    """A domain that reads all its replies, but sends more requests than replies fit into the ring."""
    world = TwoGuests(Quota(outstanding=outstanding))
    request = Packet(XS_READ).encode()
    sent = answered = 0
    for i in range(400):
        if i < 200:
            sent += world.one.put(request * 64)
        world.one.ring.service()
        assert len(world.machine.connection(1).reader) < XENSTORE_RING_SIZE + 4096 + XsdSockmsg.size
        assert world.machine.connection(1).outstanding < outstanding + 64
        answered += len(world.one.take())
    assert answered == sent // len(request) > 200


@pytest.mark.parametrize("outstanding", [1, 2, 5])
def test_no_request_is_forgotten_in_the_queue(outstanding: int) -> None:
    """Many requests in one go, from a client that signals once and then waits for its replies."""
    world = TwoGuests(Quota(outstanding=outstanding))
    requests = [write(b"data/a", b"", i) for i in range(30)]
    stream = b"".join(request.encode() for request in requests)
    assert world.one.put(stream) == len(stream)
    world.one.ring.service()
    assert world.one.take() == [Packet(XS_WRITE, b"OK\0", i) for i in range(30)]


def test_a_request_that_waited_for_room_is_taken_when_there_is_room() -> None:
    """A client need not signal that it has read, unless the ring was full of replies."""
    world = TwoGuests(Quota(outstanding=1))
    world.one.talk(write(b"data/a", b"x" * 1500))
    world.one.put(read(b"data/a", 1).encode())
    world.one.ring.service()
    world.one.put(read(b"data/a", 2).encode())
    world.one.ring.service()
    answers = []
    while world.one.field("rsp_prod") != world.one.field("rsp_cons"):
        was_full = world.one.field("rsp_prod") - world.one.field("rsp_cons") == XENSTORE_RING_SIZE
        answers += world.one.take()
        if was_full:
            world.one.ring.service()
    assert [answer.req_id for answer in answers] == [1, 2]


def test_a_domain_that_does_not_read_does_not_hold_up_who_makes_its_events() -> None:
    world = TwoGuests(Quota(watch_events=10))
    for token in (b"t", b"u"):
        world.one.talk(watch(b"/local/domain/2/data", token))
    for i in range(500):
        assert world.two.talk(write(b"data/%d" % i)) == [Packet(XS_WRITE, b"OK\0", 1)]
        world.flush()
    assert world.machine.connection(1).outstanding <= 12
    # It reads at last: the first events, and then, for each watch, that there was more.
    events = []
    for _ in range(50):
        events += [packet.payload for packet in world.one.take()]
        world.one.ring.service()
    assert events[:4] == [b"/local/domain/2/data/%d\0%s\0" % (i, token) for i in (0, 1) for token in (b"u", b"t")]
    assert sorted(events[-2:]) == [b"/local/domain/2/data\0t\0", b"/local/domain/2/data\0u\0"]
    assert len(events) < 100
    # From then on it is told everything again.
    world.two.talk(write(b"data/again"))
    world.flush()
    assert len(world.one.take()) == 2


def test_a_closed_ring_lets_go_of_the_page() -> None:
    guest = TwoGuests().one
    guest.ring.close()
    guest.words.release()
    guest.page.extend(b"x")  # raises BufferError as long as anything looks at it


page_writes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(WORDS), st.one_of(st.integers(0, 0xFFFFFFFF), st.integers(0, 3000))),
        st.binary(max_size=600),
    ),
    max_size=10,
)


@given(st.lists(page_writes, max_size=8))
@settings(deadline=None, max_examples=200)
def test_whatever_is_written_into_a_ring(rounds: list[list[tuple[str, int] | bytes]]) -> None:
    world = TwoGuests()
    world.two.talk(watch(b"data"))
    for writes in rounds:
        for written in writes:
            if isinstance(written, bytes):
                start = world.one.field("req_prod") % XENSTORE_RING_SIZE
                piece = written[: XENSTORE_RING_SIZE - start]
                world.one.page[start : start + len(piece)] = piece
                world.one.set_field("req_prod", world.one.field("req_prod") + len(written))
            else:
                world.one.set_field(*written)
        world.one.ring.service()
        world.flush()
    assert world.two.talk(write(b"data", b"x"))[-2:] == [
        Packet(XS_WRITE, b"OK\0", 1),
        Packet(XS_WATCH_EVENT, b"data\0token\0"),
    ]
    # And the domain itself can always come back.
    world.one.set_field("connection", XENSTORE_RECONNECT)
    world.one.ring.service()
    world.one._reader = type(world.one._reader)()
    assert world.one.talk(read(b"data")) == [Packet(XS_READ, b"", 1)]


def test_the_daemon_side_indices_are_its_own() -> None:
    """A domain that moves xenstored's indices only makes itself misread the ring."""
    world = TwoGuests()
    world.one.talk(write(b"data/a", b"x"))
    world.one.set_field("req_cons", 12345)
    world.one.set_field("rsp_prod", 54321)
    producer = world.one.field("req_prod")
    for i, byte in enumerate(read(b"data/a").encode()):
        world.one.page[(producer + i) % XENSTORE_RING_SIZE] = byte
    world.one.set_field("req_prod", producer + len(read(b"data/a").encode()))
    world.one.ring.service()
    assert world.one.field("error") == XENSTORE_ERROR_NONE
    assert world.one.take() == [Packet(XS_READ, b"x", 1)]


def test_requests_of_a_socket_wait_too_until_it_reads() -> None:
    world = TwoGuests(Quota(outstanding=3))
    tool = world.store.connect()
    receive(world.store, tool, b"".join(read(b"/tool", i).encode() for i in range(10)))
    assert not world.store.wants_input(tool)
    assert tool.outstanding == 3
