"""The bus that makes devices of nodes, with drivers that write down what they are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest

from euxen.dom0.xenbus.bus import BackendBus
from euxen.dom0.xenbus.device import DeviceError, Nodes
from euxen.dom0.xenstore import XenStore
from euxen.dom0.xenstore_client import XenStoreClient, XenStoreRefused

PATIENCE = 20.0
ROOT = "/local/domain/0/backend/vtest"


class Driver:
    """A device of no use."""

    def __init__(self, nodes: Nodes, fail: Callable[[str], None], told: list[str]) -> None:
        self.nodes, self.fail, self.told = nodes, fail, told
        self.release: Callable[[], None] | None = None

    def publish(self) -> Mapping[str, str]:
        self.told.append("publish")
        if self.nodes.configured("params") == "bad":
            raise DeviceError("it is bad")
        return {"feature-test": "1"}

    def connect(self) -> Mapping[str, str]:
        self.told.append(f"connect {self.nodes.front_number('ring-ref')}")
        return {"answer": "42"}

    def disconnect(self, done: Callable[[], None]) -> None:
        self.told.append("disconnect")
        self.release = done
        if self.nodes.configured("slow") is None:
            done()

    def close(self) -> None:
        self.told.append("close")


class World:
    """A xenstored with a bus on it."""

    def __init__(self) -> None:
        store, lock = XenStore(), threading.RLock()

        def flush() -> None:
            for connection in store.take_ready():
                if connection is self.client.connection:
                    self.client.take_events()

        self.client = XenStoreClient(store, flush, lock)
        self.told: list[str] = []
        self.log: list[str] = []
        self.drivers: list[Driver] = []
        self.bus = BackendBus(self.client, {"vtest": self.make}, self.log.append)

    def make(self, nodes: Nodes, fail: Callable[[str], None]) -> Driver:
        self.drivers.append(Driver(nodes, fail, self.told))
        return self.drivers[-1]

    def add(self, domid: int = 3, devid: int = 7, **nodes: str) -> str:
        """A device; its back end's directory."""
        backend, frontend = f"{ROOT}/{domid}/{devid}", f"/local/domain/{domid}/device/vtest/{devid}"
        self.client.write(f"{frontend}/state", "1")
        self.client.write_all(backend, {"frontend": frontend, "state": "1", **nodes, "online": "1"})
        return backend

    def front(self, name: str, value: str) -> None:
        self.client.write(f"/local/domain/3/device/vtest/7/{name}", value)

    def expect(self, path: str, value: str | None) -> None:
        def reached() -> bool:
            try:
                return self.client.read(path) == value
            except XenStoreRefused:
                return value is None

        assert self.client.wait_until(path, reached, PATIENCE), (path, self.told)

    def settle(self) -> None:
        """Wait until all that was told has been heard."""
        done = threading.Event()
        self.client.later(done.set)
        assert done.wait(PATIENCE)


@pytest.fixture
def world() -> World:
    return World()


def test_a_life(world: World) -> None:
    backend = world.add()
    world.expect(f"{backend}/state", "2")
    assert world.client.read(f"{backend}/feature-test") == "1"
    world.front("ring-ref", "9")
    world.front("state", "3")
    world.expect(f"{backend}/state", "4")
    assert world.client.read(f"{backend}/answer") == "42"
    world.front("state", "5")
    world.expect(f"{backend}/state", "5")
    world.front("state", "6")
    world.expect(f"{backend}/state", "6")
    world.front("state", "1")
    world.expect(f"{backend}/state", "2")
    world.client.write(f"{backend}/online", "0")
    world.expect(f"{backend}/state", "6")
    assert world.told == ["publish", "connect 9", "disconnect", "publish", "disconnect", "close"]
    world.settle()
    assert world.bus.devices == []
    assert world.log == []


def test_nodes_that_are_taken_away(world: World) -> None:
    backend = world.add()
    world.expect(f"{backend}/state", "2")
    world.client.remove(backend)
    world.expect(backend, None)
    for _ in range(200):
        if not world.bus.devices:
            break
        world.settle()
    assert world.bus.devices == []
    assert world.told[-1] == "close"
    with pytest.raises(XenStoreRefused):  # and nobody has written them again
        world.client.read(f"{backend}/state")


def test_a_device_that_cannot_be(world: World) -> None:
    backend = world.add(params="bad")
    other = world.add(devid=8)
    world.expect(f"{backend}/hotplug-error", "it is bad")
    world.expect(f"{backend}/state", "5")
    assert world.client.read("/local/domain/0/error/backend/vtest/3/7/error") == "it is bad"
    assert world.log == ["vtest 3-7: it is bad"]
    world.expect(f"{other}/state", "2")


def test_a_device_that_fails_while_it_is_connected(world: World) -> None:
    backend = world.add()
    world.expect(f"{backend}/state", "2")
    world.front("ring-ref", "1")
    world.front("state", "4")
    world.expect(f"{backend}/state", "4")
    world.drivers[0].fail("enough")
    world.drivers[0].fail("enough")
    world.expect(f"{backend}/state", "5")
    world.front("state", "4")  # it has not noticed yet
    world.settle()
    assert world.told == ["publish", "connect 1", "disconnect"]
    assert world.log == ["vtest 3-7: enough"]
    world.front("state", "6")
    world.expect(f"{backend}/state", "6")
    world.front("state", "1")
    world.expect(f"{backend}/state", "2")


def test_who_lets_go_slowly_keeps_nobody_waiting(world: World) -> None:
    backend = world.add(slow="1")
    world.expect(f"{backend}/state", "2")
    world.front("ring-ref", "1")
    world.front("state", "4")
    world.expect(f"{backend}/state", "4")
    world.front("state", "6")
    world.expect(f"{backend}/state", "5")
    other = world.add(devid=8)
    world.expect(f"{other}/state", "2")
    world.front("state", "1")  # and wants it back already
    world.settle()
    assert world.client.read(f"{backend}/state") == "5"
    assert world.drivers[0].release is not None
    world.drivers[0].release()
    world.expect(f"{backend}/state", "2")


def test_what_is_no_device(world: World) -> None:
    world.client.write(f"{ROOT}/x/7/frontend", "/nowhere")
    world.client.write(f"{ROOT}/3/frontend", "/nowhere")
    world.client.write(f"{ROOT}/3/9/frontend", "/nowhere")  # not online
    world.settle()
    assert world.bus.devices == []


def test_more_at_once_than_is_told_one_by_one(world: World) -> None:
    """xenstored says only that something is new where there is too much to tell."""
    with world.client._lock:
        for domid in range(200):
            world.add(domid, 1)
        world.client._told.clear()
        world.client._told["1", ROOT] = None
    world.expect(f"{ROOT}/199/1/state", "2")
    assert len(world.bus.devices) == 200
