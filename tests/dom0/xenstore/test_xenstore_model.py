"""xenstored against a model of a few lines: a dict of values, and transactions that are lists.

The model knows nothing of trees or snapshots. A transaction in it is what was asked and answered;
to commit it is to ask the same again, and is refused if an answer is another one now.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from xenstore_client import Machine

from euxen.abi.io.xs_wire import (
    XS_DIRECTORY,
    XS_MKDIR,
    XS_READ,
    XS_RM,
    XS_TRANSACTION_END,
    XS_TRANSACTION_START,
    XS_UNWATCH,
    XS_WATCH,
    XS_WRITE,
)
from euxen.dom0.xenstore import Packet

Nodes = dict[str, bytes]


class Question(NamedTuple):
    """A request on a node."""

    kind: int
    path: str
    value: bytes = b""


@dataclass
class Transaction:
    """An open transaction: the nodes as it sees them, and what it asked and was answered."""

    nodes: Nodes
    asked: list[tuple[Question, bytes]] = field(default_factory=list)
    changed: bool = False


PATHS = ["/a", "/a/b", "/a/b/c", "/a/bb", "/a/d", "/e", "/e/b", "/e/b/c"]
questions = st.one_of(
    st.builds(
        Question, st.sampled_from([XS_READ, XS_DIRECTORY, XS_MKDIR, XS_RM]), st.sampled_from(PATHS), st.just(b"")
    ),
    st.builds(Question, st.just(XS_WRITE), st.sampled_from(PATHS), st.sampled_from([b"", b"1", b"2"])),
)
watches = st.tuples(st.sampled_from(["/", *PATHS]), st.sampled_from([b"t", b"u"]))


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def is_below(path: str, top: str) -> bool:
    return path.startswith(top.rstrip("/") + "/") and path != top


def changes(nodes: Nodes, question: Question) -> bool:
    """Whether a question is one that changes these nodes."""
    kind, path, _ = question
    return kind == XS_WRITE or (kind == XS_MKDIR and path not in nodes) or (kind == XS_RM and path in nodes)


def answer(nodes: Nodes, question: Question) -> bytes:
    """What a question does to the nodes, and its answer."""
    kind, path, value = question
    if kind == XS_READ:
        return nodes.get(path, b"ENOENT\0")
    if kind == XS_DIRECTORY:
        names = sorted(name for name in nodes if name != "/" and parent(name) == path)
        return b"".join(f"{name.rpartition('/')[2]}\0".encode() for name in names) if path in nodes else b"ENOENT\0"
    if kind == XS_RM:
        if parent(path) not in nodes:
            return b"ENOENT\0"
        for name in [name for name in nodes if name == path or is_below(name, path)]:
            del nodes[name]
        return b"OK\0"
    if kind == XS_WRITE or path not in nodes:
        nodes[path] = value
    while path != "/":
        path = parent(path)
        nodes.setdefault(path, b"")
    return b"OK\0"


def event(path: str, token: bytes) -> bytes:
    return f"{path}\0".encode() + token + b"\0"


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.nodes: Nodes = {"/": b""}
        self.transactions: dict[int, Transaction] = {}
        self.watches: set[tuple[str, bytes]] = set()

    def ask(self, kind: int, payload: bytes, tx_id: int = 0) -> tuple[bytes, Counter[bytes]]:
        reply, events = self.machine.ask(0, Packet(kind, payload, tx_id=tx_id))
        return reply.payload, Counter(events.get(0, []))

    def told(self, changed: list[Question], before: Nodes, after: Nodes) -> Counter[bytes]:
        """The events of changes: one for each watch at or above the path, and below what was removed.

        Where there was neither node nor parent, before nor after, nothing is to be told.
        """
        events: Counter[bytes] = Counter()
        for kind, path, _ in changed:
            for watched, token in self.watches:
                if path == watched or is_below(path, watched):
                    name = path
                elif kind == XS_RM and is_below(watched, path):
                    name = watched
                else:
                    continue
                if {name, parent(name)} & {*before, *after}:
                    events[event(name, token)] += 1
        return events

    @rule(question=questions)
    def ask_outside(self, question: Question) -> None:
        before = dict(self.nodes)
        changed = [question] if changes(before, question) else []
        expected = answer(self.nodes, question)
        reply = self.ask(question.kind, payload(question))
        assert reply == (expected, self.told(changed, before, self.nodes))

    @precondition(lambda self: len(self.transactions) < 3)
    @rule()
    def start(self) -> None:
        reply, events = self.ask(XS_TRANSACTION_START, b"\0")
        tx_id = int(reply[:-1])
        assert tx_id not in self.transactions
        assert not events
        self.transactions[tx_id] = Transaction(dict(self.nodes))

    @precondition(lambda self: self.transactions)
    @rule(data=st.data(), question=questions)
    def ask_inside(self, data: st.DataObject, question: Question) -> None:
        tx_id = data.draw(st.sampled_from(sorted(self.transactions)))
        transaction = self.transactions[tx_id]
        transaction.changed |= changes(transaction.nodes, question)
        expected = answer(transaction.nodes, question)
        transaction.asked.append((question, expected))
        assert self.ask(question.kind, payload(question), tx_id) == (expected, Counter())

    @precondition(lambda self: self.transactions)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        tx_id = data.draw(st.sampled_from(sorted(self.transactions)))
        transaction = self.transactions.pop(tx_id)
        reply = self.ask(XS_TRANSACTION_END, b"T\0", tx_id)
        after = dict(self.nodes)
        changed = []
        same = True
        for question, answered in transaction.asked:
            if changes(after, question):
                changed.append(question)
            same &= answer(after, question) == answered
        if not transaction.changed:
            assert reply == (b"OK\0", Counter())
        elif not same:
            assert reply == (b"EAGAIN\0", Counter())
        else:
            assert reply == (b"OK\0", self.told(changed, self.nodes, after))
            self.nodes = after

    @precondition(lambda self: self.transactions)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        tx_id = data.draw(st.sampled_from(sorted(self.transactions)))
        del self.transactions[tx_id]
        assert self.ask(XS_TRANSACTION_END, b"F\0", tx_id) == (b"OK\0", Counter())

    @rule(watch=watches)
    def watch(self, watch: tuple[str, bytes]) -> None:
        message = event(*watch)
        expected = (b"EEXIST\0", Counter[bytes]()) if watch in self.watches else (b"OK\0", Counter([message]))
        assert self.ask(XS_WATCH, message) == expected
        self.watches.add(watch)

    @rule(watch=watches)
    def unwatch(self, watch: tuple[str, bytes]) -> None:
        expected = b"OK\0" if watch in self.watches else b"ENOENT\0"
        assert self.ask(XS_UNWATCH, event(*watch)) == (expected, Counter())
        self.watches.discard(watch)

    @invariant()
    def nodes_are_the_models(self) -> None:
        found = {"/" + "/".join(path): node.value for path, node in self.machine.store.tree.items()}
        for path in ("/@introduceDomain", "/@releaseDomain", "/local", "/tool"):
            assert found.pop(path) == b""
        assert found == self.nodes


def payload(question: Question) -> bytes:
    return f"{question.path}\0".encode() + question.value


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
