"""What no transcript shows: other clients than rings, long lists, hostile requests, the log."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenstore_client import Machine, packets

import euxen.dom0.xenstore
from euxen.abi.io.xs_wire import (
    XENSTORE_PAYLOAD_MAX,
    XS_CONTROL,
    XS_DIRECTORY,
    XS_DIRECTORY_PART,
    XS_ERROR,
    XS_INTRODUCE,
    XS_READ,
    XS_RELEASE,
    XS_RM,
    XS_SET_PERMS,
    XS_TRANSACTION_START,
    XS_WATCH,
    XS_WRITE,
    xsd_errors,
)
from euxen.dom0.xenstore import Packet, Quota, XenStore, receive, reply, serve


def ask(machine: Machine, domid: int, kind: int, payload: bytes, tx_id: int = 0) -> bytes:
    answer, _ = machine.ask(domid, Packet(kind, payload, 1, tx_id))
    return answer.payload


def test_the_introduction_is_true() -> None:
    result = doctest.testmod(euxen.dom0.xenstore)
    assert result.attempted > 0
    assert result.failed == 0


def test_reply_is_the_server_as_one_function() -> None:
    store = XenStore()
    tool = store.connect()
    assert reply(store, tool, Packet(XS_WRITE, b"/a\0b", 7)) == Packet(XS_WRITE, b"OK\0", 7)
    assert reply(store, tool, Packet(XS_READ, b"/a\0", 8)) == Packet(XS_READ, b"b", 8)
    assert reply(store, tool, Packet(XS_READ, b"/b\0", 9, 3)) == Packet(XS_ERROR, b"EIO\0", 9, 3)


def test_clients_in_domain_0_are_apart_from_each_other() -> None:
    store = XenStore()
    first, second = store.connect(), store.connect()
    assert (first.name, second.name, store.domain0.name) == ("A1", "A2", "D0")
    receive(store, first, Packet(XS_WATCH, b"/x\0t\0").encode() + Packet(XS_TRANSACTION_START, b"\0").encode())
    receive(store, second, Packet(XS_READ, b"/tool\0", tx_id=1).encode())
    assert [packet.payload for packet in packets(second.data_to_send(9999))] == [b"EIO\0"]
    receive(store, second, Packet(XS_WRITE, b"/x\0").encode())
    assert b"/x\0t\0" in first.data_to_send(9999)
    assert packets(second.data_to_send(9999)) == [Packet(XS_WRITE, b"OK\0")]


def test_who_is_gone_is_told_nothing() -> None:
    store = XenStore()
    first, second = store.connect(), store.connect()
    receive(store, first, Packet(XS_WATCH, b"/x\0t\0").encode())
    store.disconnect(first)
    receive(store, second, Packet(XS_WRITE, b"/x\0").encode())
    assert store.take_ready() == [second]
    assert first.data_to_send(9999) == b""


@given(st.lists(st.integers(1, 50), max_size=40))
def test_what_is_to_be_sent_may_be_taken_in_any_pieces(pieces: list[int]) -> None:
    store = XenStore()
    tool = store.connect()
    for i in range(10):
        receive(store, tool, Packet(XS_READ, b"/tool\0", i).encode())
    taken = b"".join(tool.data_to_send(piece) for piece in pieces) + tool.data_to_send(9999)
    assert packets(taken) == [Packet(XS_READ, b"", i) for i in range(10)]
    assert tool.outstanding == 0


def test_a_client_that_reads_goes_on() -> None:
    store = XenStore(quota=Quota(outstanding=2))
    tool = store.connect()
    receive(store, tool, b"".join(Packet(XS_READ, b"/tool\0", i).encode() for i in range(5)))
    answers = packets(tool.data_to_send(9999))
    while len(answers) < 5:
        assert not store.wants_input(tool), "it is read from, though requests of its wait here"
        serve(store, tool)
        more = packets(tool.data_to_send(9999))
        assert more, "requests are stuck"
        answers += more
    assert answers == [Packet(XS_READ, b"", i) for i in range(5)]
    assert store.wants_input(tool)


def test_a_client_that_breaks_the_protocol_is_done_with() -> None:
    lines: list[str] = []
    store = XenStore(log=lines.append)
    tool = store.connect()
    receive(store, tool, b"\xff" * 16 + Packet(XS_WRITE, b"/late\0").encode())
    assert tool.broken is not None
    assert not store.wants_input(tool)
    assert store.take_ready() == []
    assert lines == ["A1 is disconnected: payload of 4294967295 bytes; at most 4096 are allowed"]
    receive(store, tool, Packet(XS_WRITE, b"/late\0").encode())
    assert store.tree.find(("late",)) is None


@pytest.mark.parametrize("children", [0, 1, 255, 600])
@pytest.mark.parametrize("first", range(1, 15))  # so that some name, and some list, ends where a packet does
def test_a_long_directory_comes_in_parts(children: int, first: int) -> None:
    machine = Machine()
    names = ["0" * first] + [f"{i:015d}" for i in range(children)]
    for name in names:
        assert ask(machine, 0, XS_WRITE, f"/d/{name}\0".encode()) == b"OK\0"
    ask(machine, 0, XS_WRITE, b"/d\0")
    whole = "".join(f"{name}\0" for name in names).encode()
    expected = whole if len(whole) <= XENSTORE_PAYLOAD_MAX else b"E2BIG\0"
    assert ask(machine, 0, XS_DIRECTORY, b"/d\0") == expected
    # As libxenstore does it: until a part ends in an empty name.
    found, generations = b"", set()
    while True:
        part = ask(machine, 0, XS_DIRECTORY_PART, b"/d\0%d\0" % len(found))
        assert len(part) <= XENSTORE_PAYLOAD_MAX
        generation, _, listed = part.partition(b"\0")
        generations.add(generation)
        if listed == b"\0" or listed.endswith(b"\0\0"):
            found += listed[:-1]
            break
        assert listed, "nothing came, and more was promised"
        found += listed
    assert found == whole
    assert len(generations) == 1


def test_an_event_too_long_for_a_packet_names_the_watch() -> None:
    machine = Machine()
    path, token = b"/" + b"w" * 1000, b"t" * 3080
    assert ask(machine, 0, XS_WATCH, path + b"\0" + token + b"\0") == b"OK\0"
    _, events = machine.ask(0, Packet(XS_WRITE, path + b"/" + b"c" * 9 + b"\0"))
    assert events == {0: [path + b"/" + b"c" * 9 + b"\0" + token + b"\0"]}
    _, events = machine.ask(0, Packet(XS_WRITE, path + b"/" + b"c" * 22 + b"\0"))
    assert events == {0: [path + b"\0" + token + b"\0"]}


def test_transaction_numbers_come_round() -> None:
    machine = Machine()
    connection = machine.connection(0)
    assert ask(machine, 0, XS_TRANSACTION_START, b"\0") == b"1\0"
    connection._next_tx_id = 0x3FFFFFFE
    assert ask(machine, 0, XS_TRANSACTION_START, b"\0") == b"1073741822\0"
    assert ask(machine, 0, XS_TRANSACTION_START, b"\0") == b"2\0"


def test_the_host_is_told_of_domains() -> None:
    machine = Machine()
    assert ask(machine, 0, XS_INTRODUCE, b"1\x0033\x007\0") == b"OK\0"
    assert machine.rings == {1: (33, 7)}
    assert ask(machine, 0, XS_INTRODUCE, b"1\x0033\x008\0") == b"OK\0"
    assert machine.rings == {1: (33, 8)}
    assert ask(machine, 0, XS_INTRODUCE, b"9\x0033\x008\0") == b"EINVAL\0"
    assert machine.lines == ["domain 9 cannot be introduced: there is no domain 9"]
    assert ask(machine, 0, XS_RELEASE, b"1\0") == b"OK\0"
    assert machine.rings == {}


def test_print_reaches_people() -> None:
    machine = Machine()
    assert ask(machine, 0, XS_CONTROL, b"print\0hello\x1b[2J\0") == b"OK\0"
    assert machine.lines == ["control: hello\\x1b[2J"]


def test_the_quotas_can_be_seen() -> None:
    machine = Machine(Quota(nodes=7))
    listed = ask(machine, 0, XS_CONTROL, b"quota\0").decode()
    assert "nodes           :        7\n" in listed
    assert "node-size       :     2048\n" in listed


def test_a_deep_tree_is_no_deep_recursion() -> None:
    machine = Machine(Quota(path_max=3072))
    deep = b"/a" * 1500
    assert ask(machine, 0, XS_WRITE, deep + b"\0v") == b"OK\0"
    ask(machine, 0, XS_INTRODUCE, b"1\x001\x001\0")
    assert ask(machine, 0, XS_SET_PERMS, b"/a" * 700 + b"\0n1\0") == b"OK\0"
    assert ask(machine, 0, XS_CONTROL, b"check\0") == b"OK\0"
    assert ask(machine, 0, XS_READ, deep + b"\0") == b"v"
    assert ask(machine, 0, XS_RELEASE, b"1\0") == b"OK\0"
    assert ask(machine, 0, XS_READ, deep + b"\0") == b"ENOENT\0"
    assert ask(machine, 0, XS_READ, b"/a" * 699 + b"\0") == b""
    assert ask(machine, 0, XS_RM, b"/a\0") == b"OK\0"
    assert ask(machine, 0, XS_CONTROL, b"check\0") == b"OK\0"


# Requests made of the pieces that requests are made of, and of bytes that are none.
pieces = st.one_of(
    st.sampled_from(
        b"data data/a /local/domain/1/data /local/domain/2/data/b / @releaseDomain @introduceDomain /a/b a//b "
        b"T F 0 1 2 3 -1 65536 n1 n2 r1 b1 w2 n0 token quota set nodes print check help".split()
    ),
    st.binary(max_size=6),
)
payloads = st.builds(
    lambda parts, end: b"\0".join(parts) + end, st.lists(pieces, max_size=4), st.sampled_from([b"\0", b""])
)
requests = st.tuples(
    st.integers(0, 3),
    st.builds(Packet, st.integers(0, 24), payloads, st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 2])),
)


@given(st.lists(requests, max_size=40))
@settings(deadline=None, max_examples=200)
def test_whatever_is_asked_has_an_answer(script: list[tuple[int, Packet]]) -> None:
    machine = Machine()
    for domid in (1, 2, 3):
        ask(machine, 0, XS_INTRODUCE, b"%d\x001\x001\0" % domid)
        ask(machine, 0, XS_WRITE, b"/local/domain/%d/data\0" % domid)
        ask(machine, 0, XS_SET_PERMS, b"/local/domain/%d/data\0n%d\0" % (domid, domid))
    for domid, request in script:
        if domid in machine.store.domains:
            answer, _ = machine.ask(domid, request)
            assert answer.req_id == request.req_id
            if answer.type == XS_ERROR:
                assert answer.payload.rstrip(b"\0").decode() in xsd_errors
            else:
                assert answer.type == request.type
    # The books are right whatever was done.
    machine.store.quota = Quota()
    assert ask(machine, 0, XS_CONTROL, b"check\0") == b"OK\0"


def test_check_sees_that_the_books_are_wrong() -> None:
    machine = Machine()
    tree = machine.store.tree
    machine.store.tree = type(tree)(tree.root, tree.generation, {0: 99})
    assert ask(machine, 0, XS_CONTROL, b"check\0") == b"EIO\0"
    assert machine.lines == ["check: domains own {0: 4} nodes, but are charged for {0: 99}"]
