"""XenBus's tables, in transcripts of both roles and against each other in every order of what is heard and done."""

from __future__ import annotations

import doctest
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.abi.io.xenbus import XenbusState
from euxen.dom0.xenbus import states
from euxen.dom0.xenbus.states import BACKEND, FRONTEND, Action, Machine, Role

S = XenbusState
STATES = list(XenbusState)


def settle(machine: Machine) -> list[str]:
    """Take all steps; what was done and which states were entered."""
    told = []
    while step := machine.next():
        if step.action:
            told.append(step.action.value)
        told.append(machine.done().name)
    return told


def transcript(role: Role, *heard: XenbusState) -> list[str]:
    machine, told = Machine(role), list[str]()
    for peer in heard:
        machine.heard(peer)
        told += settle(machine)
    return told


def test_the_example() -> None:
    assert doctest.testmod(states).failed == 0


CONNECT = ["publish", "InitWait", "connect", "Connected"]
CLOSE = ["Closing", "disconnect", "Closed"]


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ([S.Initialising, S.Initialised, S.Connected], CONNECT),  # blkfront
        ([S.Initialising, S.Connected], CONNECT),  # netfront
        ([S.Initialised], CONNECT),  # one that was there first
        ([S.Initialised, S.Connected, S.Closing, S.Closed], [*CONNECT, *CLOSE]),
        (
            [S.Initialised, S.Closing, S.Connected, S.Closed],
            [*CONNECT, "Closing", "disconnect", "Closed", *CONNECT, *CLOSE],
        ),
        ([S.Initialised, S.Unknown], [*CONNECT, *CLOSE]),
        ([S.Initialised, S.Closed, S.Initialising, S.Initialised], [*CONNECT, *CLOSE, *CONNECT]),
        ([S.Initialised, S.Initialising, S.Initialised], [*CONNECT, *CLOSE, *CONNECT]),  # it began anew without a word
        ([S.Initialised, S.Reconfiguring, S.Reconfigured], CONNECT),
        ([S.Closed], ["Closed"]),
        ([S.Closing, S.Closed], ["Closing", "disconnect", "Closed"]),
        ([S.InitWait], []),
    ],
)
def test_back_end(heard: list[XenbusState], told: list[str]) -> None:
    assert transcript(BACKEND, *heard) == told


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ([S.Initialising, S.InitWait, S.Connected], ["publish", "Initialised", "connect", "Connected"]),
        ([S.InitWait, S.Connected, S.Closing], ["publish", "Initialised", "connect", "Connected", *CLOSE]),
        ([S.InitWait, S.Unknown], ["publish", "Initialised", *CLOSE]),
        ([S.Connected], []),  # a back end that is busy with the one before
        ([S.InitWait, S.Connected, S.InitWait], ["publish", "Initialised", "connect", "Connected", *CLOSE]),
    ],
)
def test_front_end(heard: list[XenbusState], told: list[str]) -> None:
    assert transcript(FRONTEND, *heard) == told


def test_a_back_end_that_leaves_waits_for_its_front_end() -> None:
    machine = Machine(BACKEND)
    machine.heard(S.Initialised)
    settle(machine)
    machine.leave()
    assert settle(machine) == ["Closing"]
    assert not machine.gone
    machine.heard(S.Closing)
    assert settle(machine) == []
    machine.heard(S.Closed)
    assert settle(machine) == ["disconnect", "Closed"]
    assert machine.gone
    machine.heard(S.Initialising)
    assert settle(machine) == []


@pytest.mark.parametrize("peer", [S.Unknown, S.Initialising, S.Closed])
def test_a_back_end_that_leaves_waits_for_nobody_else(peer: XenbusState) -> None:
    machine = Machine(BACKEND)
    machine.heard(peer)
    settle(machine)
    machine.leave()
    assert settle(machine)[-1:] in (["Closed"], [])
    assert machine.gone


def test_a_failure_is_not_tried_again() -> None:
    machine = Machine(BACKEND)
    machine.heard(S.Initialised)
    settle(machine)
    assert machine.fail() is S.Closing
    for _ in range(3):
        machine.heard(S.Initialised)
        assert settle(machine) == []
    machine.heard(S.Closed)
    assert settle(machine) == ["disconnect", "Closed"]
    machine.heard(S.Initialising)
    assert settle(machine) == ["publish", "InitWait"]


@given(st.lists(st.sampled_from([*STATES, "leave", "fail"]), max_size=30), st.booleans())
def test_whatever_is_heard(heard: list[XenbusState | str], front: bool) -> None:
    """It never hangs in a loop, connects only what was published, and disconnects all it connected before it closes."""
    machine, connected = Machine(FRONTEND if front else BACKEND), False
    for event in heard:
        if event == "leave":
            machine.leave()
        elif event == "fail":
            connected = False
            machine.fail()
        elif isinstance(event, XenbusState):
            machine.heard(event)
        for _ in range(8):
            step = machine.next()
            if step is None:
                break
            if step.action is Action.CONNECT:
                assert machine.own is (S.Initialised if front else S.InitWait)
                connected = True
            elif step.action is Action.DISCONNECT:
                connected = False
            if machine.done() is S.Closed:
                assert not connected
        assert machine.next() is None, "it goes round in circles"


class World:
    """Both sides of a device, each with what it was told but has not heard yet."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.sides = {"back": Machine(BACKEND), "front": Machine(FRONTEND)}
        self.nodes = {"back": S.Initialising, "front": S.Initialising}
        self.pending = {"back", "front"}
        """Those whose watch has fired."""
        self.choose = choose

    def other(self, name: str) -> str:
        return "front" if name == "back" else "back"

    def write(self, name: str, state: XenbusState) -> None:
        self.nodes[name] = state
        self.pending.add(self.other(name))

    def moves(self) -> list[tuple[str, str]]:
        found = [("hear", name) for name in sorted(self.pending)]
        return found + [
            ("step", name) for name, side in self.sides.items() if side._current or side.goal is not side.own
        ]

    def run(self, most: int = 400) -> None:
        """Hear and do things in some order until nothing is left."""
        for _ in range(most):
            moves = [move for move in self.moves() if self._possible(*move)]
            if not moves:
                return
            what, name = moves[self.choose(len(moves))]
            side = self.sides[name]
            if what == "hear":
                self.pending.discard(name)
                side.heard(self.nodes[self.other(name)])
            elif side._current:
                self.write(name, side.done())
            else:
                side.next()
        raise AssertionError(f"they never settle: {self.nodes}")

    def _possible(self, what: str, name: str) -> bool:
        side = self.sides[name]
        return what == "hear" or side._current is not None or (side.own, side.goal) in side.role.steps

    @property
    def states(self) -> tuple[str, str]:
        return self.nodes["back"].name, self.nodes["front"].name


@given(st.integers(0, 1 << 64))
def test_two_sides_always_meet_part_and_meet_again(seed: int) -> None:
    chance = random.Random(seed)
    world = World(lambda count: chance.randrange(count))
    world.run()
    assert world.states == ("Connected", "Connected")
    world.sides["front"].leave()
    world.run()
    assert world.states == ("Closed", "Closed")
    world.sides["front"].leaving = False
    world.sides["front"].restart()
    world.write("front", world.sides["front"].own)
    world.run()
    assert world.states == ("Connected", "Connected")
    # A front end that was killed, and its successor, which knows nothing of it.
    world.sides["front"] = Machine(FRONTEND)
    world.write("front", S.Initialising)
    world.pending.add("front")
    world.run()
    assert world.states == ("Connected", "Connected")
    world.sides["back"].leave()
    world.run()
    assert world.states == ("Closed", "Closed")
