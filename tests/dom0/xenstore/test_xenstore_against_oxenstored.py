"""The transcripts say of oxenstored what oxenstored really answers.

So where euxen's xenstored differs from the one of Xen 4.17, a transcript tells it, and where no
transcript tells anything, they agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oxenstored import AVAILABLE, Oxenstored, build_pretend_xen
from xenstore_client import Machine
from xenstore_transcript import TRANSCRIPTS, TYPES, load, play, unescape

from euxen.dom0.xenstore import Packet

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="Xen's headers or a C compiler is not here")


@pytest.fixture(scope="module")
def pretend_xen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield build_pretend_xen(tmp_path_factory.mktemp("pretend_xen"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, pretend_xen: Path, tmp_path: Path) -> None:
    quotas, steps = load(path)
    oxenstored = Oxenstored(tmp_path, pretend_xen, quotas)
    try:
        differences = play(steps, oxenstored, as_oxenstored=True)
    finally:
        oxenstored.close()
    assert not differences, "\n".join(["", *differences])


# Where the transcripts tell of differences, nothing is compared again: in changes of the root and of
# special nodes, and in the removal of watches that cannot be.
NODES = [
    *("data", "data/a", "data/a/b", "data/a/c", "data/b", "name", "data/a/b/c", "other/x"),
    *("/local", "/local/domain/1", "/local/domain/1/data", "/local/domain/1/data/a", "/local/domain/1/data/a/b"),
    *("/local/domain/2/data/b", "/tool", "/x", "/x/y", "/x/y/z"),
]
SPECIAL = ["/", "@releaseDomain"]
INVALID = ["//", "/a b", ""]
# No "w" or "b": below a node that somebody else may write, a new node's owner is told to differ.
PERMISSIONS = ["n1|", "n2|", "n0|", "n1|r2|", "n2|r1|", "n0|r1|", "r0|", "r1|n2|", "n0|r1|r2|", "", "x1|"]

tokens = st.sampled_from(["t", "u"])
changes = st.sampled_from([*NODES, *INVALID])
looks = st.sampled_from([*NODES, *SPECIAL, *INVALID])
node_requests = st.one_of(
    st.builds("WRITE {}|{}".format, changes, st.sampled_from(["", "v", "w"])),
    st.builds("{} {}|".format, st.sampled_from(["MKDIR", "RM"]), changes),
    st.builds("{} {}|".format, st.sampled_from(["READ", "DIRECTORY", "GET_PERMS"]), looks),
    st.builds("SET_PERMS {}|{}".format, changes, st.sampled_from(PERMISSIONS)),
)
other_requests = st.one_of(
    st.builds("WATCH {}|{}|".format, looks, tokens),
    st.builds("UNWATCH {}|{}|".format, st.sampled_from([*NODES, *SPECIAL]), tokens),
    st.sampled_from(["TRANSACTION_START |", "TRANSACTION_END T|", "TRANSACTION_END F|", "RESET_WATCHES |"]),
)
commands = st.tuples(
    st.sampled_from([0, 1, 2]),
    st.booleans(),  # in a transaction, if the domain has one open
    st.one_of(node_requests, node_requests, other_requests),
)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(commands, max_size=40))
def test_any_requests(script: list[tuple[int, bool, str]], pretend_xen: Path) -> None:
    with TemporaryDirectory() as directory:
        theirs = Oxenstored(Path(directory), pretend_xen, {})
        try:
            _compare(script, Machine(), theirs)
        finally:
            theirs.close()


def _compare(script: list[tuple[int, bool, str]], ours: Machine, theirs: Oxenstored) -> None:
    """Ask both the same, and see that they answer the same and tell the same.

    They may number transactions differently. A transaction that found nothing at a path is in conflict
    with who made something there; oxenstored overlooks that, so there the comparison ends. And it lets
    fail each transaction in which was asked what cannot be replayed, so that is not asked.
    """
    _, homes = load(TRANSCRIPTS[0].with_name("homes.inc"))
    for xenstored in (ours, theirs):
        assert not play(homes, xenstored)
    open_transactions: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    missed: set[tuple[int, int]] = set()
    for domid, in_transaction, text in script:
        kind, _, payload = text.partition(" ")
        request = Packet(TYPES[kind], unescape(payload), 1)
        pair = (0, 0)
        if in_transaction and open_transactions[domid] and kind not in ("TRANSACTION_START", "RESET_WATCHES"):
            pair = open_transactions[domid][-1]
        our_reply, our_events = ours.ask(domid, replace(request, tx_id=pair[0]))
        their_reply, their_events = theirs.ask(domid, replace(request, tx_id=pair[1]))
        if kind == "TRANSACTION_START" and our_reply.type == request.type == their_reply.type:
            open_transactions[domid].append((int(our_reply.payload[:-1]), int(their_reply.payload[:-1])))
            continue
        if kind == "TRANSACTION_END" and pair != (0, 0):
            open_transactions[domid].remove(pair)
            if our_reply.payload == b"EAGAIN\0" and their_reply.payload == b"OK\0" and (domid, pair[0]) in missed:
                return
        if kind == "RESET_WATCHES":
            open_transactions[domid].clear()
        if our_reply.payload == b"ENOENT\0":
            missed.add((domid, pair[0]))
        where = f"D{domid}{f'.{pair[0]}' if pair[0] else ''} {text}"
        assert (where, our_reply.type, our_reply.payload) == (where, their_reply.type, their_reply.payload)
        assert (where, our_events) == (where, their_events)
