"""One back end on XenBus: its directories in xenstore, its state machine, and the driver that makes it a device."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from euxen.abi.io.xenbus import XenbusState
from euxen.dom0.xenbus.states import BACKEND, Action, Machine
from euxen.dom0.xenstore_client import XenStoreClient, XenStoreRefused

NUMBER = re.compile(r"[0-9]{1,19}")


class DeviceError(Exception):
    """A device cannot go on: one sentence, for the error node and the log."""


@dataclass(frozen=True)
class Place:
    """Where a device is."""

    kind: str
    """As in the back end's path: "vbd", "qdisk", "vif"."""
    domid: int
    """The front end's."""
    devid: int
    backend: str
    """The back end's directory in xenstore."""
    frontend: str

    def __str__(self) -> str:
        return f"{self.kind} {self.domid}-{self.devid}"


class Driver(Protocol):
    """What makes a back end a disk or a network interface.

    Every method is called in the one thread in which xenstore's client tells of watches. A driver may fail at any time,
    and calls what it was given for that.
    """

    def publish(self) -> Mapping[str, str]:
        """Make the device ready; the nodes that tell a front end of it. Called again when a front end comes back.

        Raises DeviceError.
        """

    def connect(self) -> Mapping[str, str]:
        """Connect with what the front end has said; further nodes to write. Raises DeviceError."""

    def disconnect(self, done: Callable[[], None]) -> None:
        """Let go of all that is the front end's, and then call ``done``, in any thread."""

    def close(self) -> None:
        """The device goes away: let go of the rest."""


class Nodes:
    """The two directories of a device. What the front end writes is anything; what is no number is a DeviceError."""

    def __init__(self, store: XenStoreClient, place: Place) -> None:
        self._store = store
        self.place = place

    def read(self, directory: str, name: str) -> str | None:
        """A node of one of the directories; None if it is not there."""
        try:
            return self._store.read(f"{directory}/{name}")
        except XenStoreRefused:
            return None

    def configured(self, name: str) -> str | None:
        """What the toolstack has written for the back end."""
        return self.read(self.place.backend, name)

    def front(self, name: str) -> str | None:
        """What the front end has written."""
        return self.read(self.place.frontend, name)

    def front_number(self, name: str, default: int | None = None, most: int = 0xFFFF_FFFF) -> int:
        """A number that the front end has written, from 0 to ``most``. Raises DeviceError."""
        text = self.front(name)
        if text is None:
            if default is None:
                raise DeviceError(f"reading {self.place.frontend}/{name}: it is not there")
            return default
        if not NUMBER.fullmatch(text) or int(text) > most:
            raise DeviceError(f"{self.place.frontend}/{name} is {text[:40]!r}, and has to be a number up to {most}")
        return int(text)


class BackendDevice:
    """A back end, from the day the toolstack makes it to the day that it takes it away.

    Used by the one thread of xenstore's client, but for ``fail``.
    """

    def __init__(
        self,
        store: XenStoreClient,
        place: Place,
        make: Callable[[Nodes, Callable[[str], None]], Driver],
        log: Callable[[str], None],
        gone: Callable[[], None],
    ) -> None:
        """``gone`` is called once, when nothing of the device is left."""
        self._store, self._place, self._log, self._gone = store, place, log, gone
        self._nodes = Nodes(store, place)
        self._machine = Machine(BACKEND)
        self._driver = make(self._nodes, self.fail)
        self._disconnecting = False
        self._removed = False
        self._watches = [
            store.watch(f"{place.frontend}/state", self._changed, depth=0),
            store.watch(f"{place.backend}/online", self._changed, depth=0),
        ]

    def fail(self, sentence: str) -> None:
        """From any thread: the device cannot go on."""
        self._store.later(lambda: self._failed(sentence))

    def _changed(self) -> None:
        if self._removed:
            return
        online = self._nodes.configured("online")
        if online in (None, "0"):
            self._machine.leave()
        self._machine.heard(state_of(self._nodes.front("state")))
        if self._machine.leaving and online is None:
            self._machine.heard(XenbusState.Unknown)  # nobody is told any more
        self._go()

    def _go(self) -> None:
        while (step := self._machine.next()) is not None:
            if step.action is Action.DISCONNECT:
                self._disconnect(self._disconnected)
                return
            try:
                if step.action is Action.PUBLISH:
                    self._write(self._driver.publish())
                elif step.action is Action.CONNECT:
                    self._write(self._driver.connect())
            except DeviceError as error:
                self._failed(str(error))
                return
            self._enter(self._machine.done())
        if self._machine.gone and not self._removed and not self._disconnecting:
            self._remove()

    def _disconnect(self, then: Callable[[], None]) -> None:
        self._disconnecting = True

        def done() -> None:
            self._disconnecting = False
            then()

        self._driver.disconnect(lambda: self._store.later(done))

    def _disconnected(self) -> None:
        self._enter(self._machine.done())
        self._go()

    def _failed(self, sentence: str) -> None:
        """Say it, let go of everything, and be Closing until the front end is closed: xenbus_dev_fatal."""
        if self._removed or self._disconnecting or self._machine.failed:
            return
        self._log(f"{self._place}: {sentence}")
        error = self._place.backend.replace("/backend/", "/error/backend/", 1)
        self._store.write(f"{error}/error", sentence)
        if self._exists():
            self._store.write(f"{self._place.backend}/hotplug-error", sentence)

        def closing() -> None:
            self._switch(self._machine.fail())
            self._changed()

        self._disconnect(closing)

    def _remove(self) -> None:
        self._removed = True
        for watch in self._watches:
            self._store.unwatch(watch)
        self._driver.close()
        # Whoever waits for the device to be Closed may rely on that everything of it is.
        self._switch(XenbusState.Closed)
        self._gone()

    def _exists(self) -> bool:
        """Whether the toolstack has not taken the directory away: what is written then would make it anew."""
        return self._nodes.configured("frontend") is not None

    def _write(self, values: Mapping[str, str]) -> None:
        if self._exists():
            self._store.write_all(self._place.backend, values)

    def _enter(self, state: XenbusState) -> None:
        if not self._machine.gone:
            self._switch(state)

    def _switch(self, state: XenbusState) -> None:
        self._write({"state": str(int(state))})


def state_of(text: str | None) -> XenbusState:
    """A ``state`` node: XenbusStateUnknown for what is no state, or is not there."""
    if text is None or not NUMBER.fullmatch(text) or int(text) > XenbusState.Reconfigured:
        return XenbusState.Unknown
    return XenbusState(int(text))
