"""The permission matrix: every letter, for every kind of client, for every kind of access."""

from __future__ import annotations

import pytest
from xenstore_client import Machine
from xenstore_transcript import TYPES, unescape

from euxen.abi.io.xs_wire import XS_ERROR
from euxen.dom0.xenstore import Packet

OWNER, NAMED, OTHER = 1, 2, 3

# What a client may do to a node whose list is "<others>1 <letter>2": r and w.
MATRIX = """
             n     r     w     b      the letter of the entry that is about the client
    owner    rw    rw    rw    rw     it owns the node
    named    -     r     w     rw     an entry names it
    other    -     r     w     rw     nobody names it: the first entry is about it
    target   rw    rw    rw    rw     it has the owner as its target
    domain0  rw    rw    rw    rw     it is Domain 0
"""

CASES = [
    (who, letter, rights)
    for who, *row in (line.split()[:5] for line in MATRIX.splitlines()[2:] if line.strip())
    for letter, rights in zip("nrwb", row, strict=True)
]
REQUESTS = [
    ("READ", "/node|", "r"),
    ("DIRECTORY", "/node|", "r"),
    ("DIRECTORY_PART", "/node|0|", "r"),
    ("GET_PERMS", "/node|", "r"),
    ("WRITE", "/node|new", "w"),
    ("WRITE", "/node/child|new", "w"),
    ("MKDIR", "/node|", "w"),
    ("MKDIR", "/node/child|", "w"),
    ("RM", "/node|", "w"),
]


def ask(machine: Machine, domid: int, kind: str, payload: str) -> str:
    answer, _ = machine.ask(domid, Packet(TYPES[kind], unescape(payload)))
    return answer.payload.decode().rstrip("\0") if answer.type == XS_ERROR else "allowed"


def prepare(who: str, letter: str) -> tuple[Machine, int]:
    """A machine with one node, and the domain that tries."""
    machine = Machine()
    for domid in (OWNER, NAMED, OTHER):
        assert ask(machine, 0, "INTRODUCE", f"{domid}|1|1|") == "allowed"
    assert ask(machine, 0, "WRITE", "/node|value") == "allowed"
    about_others = letter if who == "other" else "n"
    about_named = letter if who == "named" else "n"
    perms = f"{about_others}{OWNER}|{about_named}{NAMED}|"
    assert ask(machine, 0, "SET_PERMS", f"/node|{perms}") == "allowed"
    if who == "target":
        assert ask(machine, 0, "SET_TARGET", f"{OTHER}|{OWNER}|") == "allowed"
    return machine, {"owner": OWNER, "named": NAMED, "other": OTHER, "target": OTHER, "domain0": 0}[who]


@pytest.mark.parametrize(("who", "letter", "rights"), CASES)
@pytest.mark.parametrize(("kind", "payload", "needed"), REQUESTS)
def test_access(who: str, letter: str, rights: str, kind: str, payload: str, needed: str) -> None:
    machine, domid = prepare(who, letter)
    assert ask(machine, domid, kind, payload) == ("allowed" if needed in rights else "EACCES")


@pytest.mark.parametrize(("who", "letter", "rights"), CASES)
def test_setting_permissions_is_the_owners(who: str, letter: str, rights: str) -> None:
    machine, domid = prepare(who, letter)
    owns = who in ("owner", "target", "domain0")
    assert ask(machine, domid, "SET_PERMS", f"/node|n{OWNER}|") == ("allowed" if owns else "EACCES")
    machine, domid = prepare(who, letter)
    assert ask(machine, domid, "SET_PERMS", f"/node|n{domid}|") == (
        "allowed" if who in ("owner", "domain0") else "EACCES"
    )


@pytest.mark.parametrize(("who", "letter", "rights"), CASES)
def test_a_watch_tells_who_may_read(who: str, letter: str, rights: str) -> None:
    machine, domid = prepare(who, letter)
    assert ask(machine, domid, "WATCH", "/node|token|") == "allowed"
    _, events = machine.ask(0, Packet(TYPES["WRITE"], b"/node\0new"))
    assert events == ({domid: [b"/node\0token\0"]} if "r" in rights else {})
