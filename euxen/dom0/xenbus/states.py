"""The law of XenBus: what each side does when it hears the other's state. Pure.

A side has a goal, which follows from what it heard last, and reaches it by steps, one state at a time. Some steps need
an action of the driver first, which may take its time; what is heard meanwhile changes the goal, and not the step.

    >>> back = Machine(BACKEND)
    >>> back.heard(XenbusState.Initialising)
    >>> back.next()
    Step(action=<Action.PUBLISH: 'publish'>, state=<XenbusState.InitWait: 2>)
    >>> back.done()
    <XenbusState.InitWait: 2>
    >>> back.next() is None
    True

The tables of the back end are what Linux's do: xenvif's set_backend_state (drivers/net/xen-netback/xenbus.c), and like
xen-blkback it keeps its rings until the front end is closed: one that is Closing may still be in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from euxen.abi.io.xenbus import XenbusState

Unknown = XenbusState.Unknown
Initialising = XenbusState.Initialising
InitWait = XenbusState.InitWait
Initialised = XenbusState.Initialised
Connected = XenbusState.Connected
Closing = XenbusState.Closing
Closed = XenbusState.Closed


class Action(Enum):
    """What a driver does on the way."""

    PUBLISH = "publish"
    """Say what there is to say before the other side connects."""
    CONNECT = "connect"
    """Read what the other side has said, and connect with it."""
    DISCONNECT = "disconnect"
    """Let go of everything that is the other side's. Also where nothing was connected."""


@dataclass(frozen=True, slots=True)
class Step:
    """An action, if there is one, and the state that is entered when it is done."""

    action: Action | None
    state: XenbusState


@dataclass(frozen=True)
class Role:
    """One side's law."""

    goals: Mapping[XenbusState, XenbusState]
    """Where to go by the other side's state; nowhere for what is not here."""
    steps: Mapping[tuple[XenbusState, XenbusState], Step]
    """The next step from a state towards a goal; none for what is not here."""
    active: frozenset[XenbusState]
    """States of the other side in which it has something of ours, and has to let go before we close."""


BACKEND = Role(
    goals={
        Unknown: Closed,
        Initialising: InitWait,
        Initialised: Connected,
        Connected: Connected,
        Closing: Closing,
        Closed: Closed,
    },
    steps={
        (Initialising, InitWait): Step(Action.PUBLISH, InitWait),
        (Initialising, Connected): Step(Action.PUBLISH, InitWait),
        (Initialising, Closing): Step(None, Closing),
        (Initialising, Closed): Step(None, Closed),
        (InitWait, Connected): Step(Action.CONNECT, Connected),
        (InitWait, Closing): Step(None, Closing),
        (InitWait, Closed): Step(None, Closing),
        (Connected, InitWait): Step(None, Closing),
        (Connected, Closing): Step(None, Closing),
        (Connected, Closed): Step(None, Closing),
        (Closing, InitWait): Step(Action.DISCONNECT, Closed),
        (Closing, Connected): Step(Action.DISCONNECT, Closed),
        (Closing, Closed): Step(Action.DISCONNECT, Closed),
        (Closed, InitWait): Step(Action.PUBLISH, InitWait),
        (Closed, Connected): Step(Action.PUBLISH, InitWait),
    },
    active=frozenset({Initialised, Connected, Closing}),
)

FRONTEND = Role(
    goals={
        Unknown: Closed,
        InitWait: Initialised,
        Connected: Connected,
        Closing: Closed,
        Closed: Closed,
    },
    steps={
        (Initialising, Initialised): Step(Action.PUBLISH, Initialised),
        (Initialised, Connected): Step(Action.CONNECT, Connected),
        (Initialised, Closed): Step(None, Closing),
        (Connected, Closed): Step(None, Closing),
        (Connected, Initialised): Step(None, Closing),  # the back end has begun anew
        (Closing, Closed): Step(Action.DISCONNECT, Closed),
        (Closing, Initialised): Step(Action.DISCONNECT, Closed),
        (Closing, Connected): Step(Action.DISCONNECT, Closed),
    },
    active=frozenset(),
)
"""One that is Initialising waits for a back end that is still busy with the one that was there before."""


@dataclass
class Machine:
    """One side of one device."""

    role: Role
    own: XenbusState = Initialising
    peer: XenbusState = Unknown
    """What was heard last."""
    leaving: bool = False
    """Whether the device is to go away."""
    failed: bool = False
    """Whether it failed, and waits for the other side to notice."""
    _current: Step | None = field(default=None, repr=False)

    def heard(self, peer: XenbusState) -> None:
        """The other side's state, perhaps the same again."""
        if peer is not self.peer and peer not in (Initialised, Connected):
            self.failed = False
        self.peer = peer

    def leave(self) -> None:
        """Close for good as soon as the other side has let go."""
        self.leaving = True

    def restart(self) -> None:
        """For a front end that is closed: begin again."""
        if self.own is Closed:
            self.own = Initialising

    @property
    def goal(self) -> XenbusState:
        """Where to go."""
        if self.leaving:
            return Closing if self.peer in self.role.active else Closed
        if self.failed:
            return Closing
        return self.role.goals.get(self.peer, self.own)

    @property
    def gone(self) -> bool:
        """Whether nothing is left to do, ever."""
        return self.leaving and self.own is Closed

    def next(self) -> Step | None:
        """What to do now: None if there is nothing, or if a step is under way."""
        if self._current is None and self.own is not self.goal:
            self._current = self.role.steps.get((self.own, self.goal))
            return self._current
        return None

    def done(self) -> XenbusState:
        """The step was taken; returns the state to write."""
        assert self._current is not None
        self.own, self._current = self._current.state, None
        return self.own

    def fail(self) -> XenbusState:
        """The driver cannot go on. It has let go of everything already, or had nothing; returns the state to write."""
        self.failed, self._current = True, None
        self.own = Closing
        return self.own
