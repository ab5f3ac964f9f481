"""The bridge against a model that remembers everything, and what it must not forward."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from euxen.dom0.net.bridge import AGEING_TIME, MAX_ADDRESSES_OF_PORT, REFRESH, Bridge

BROADCAST = b"\xff" * 6
HOSTS = [bytes([0, 0x16, 0x3E, 0, 0, number]) for number in range(4)]
GROUPS = [BROADCAST, bytes.fromhex("333300000001"), bytes.fromhex("01005e000001")]


class Model(RuleBasedStateMachine):
    """Ports come and go, hosts move between them, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.bridge: Bridge[str] = Bridge()
        self.ports: list[str] = []
        self.seen: dict[bytes, tuple[str, float]] = {}
        """Behind which port a host was seen last, and when."""
        self.now = 0.0
        self.made = 0

    @rule()
    def add(self) -> None:
        self.made += 1
        port = f"vif{self.made}.0"
        self.ports.append(port)
        self.bridge.add(port)

    @precondition(lambda self: self.ports)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(self.ports))
        self.ports.remove(port)
        self.bridge.remove(port)
        self.seen = {host: where for host, where in self.seen.items() if where[0] != port}

    @rule(seconds=st.sampled_from([2 * REFRESH, AGEING_TIME / 2, AGEING_TIME + 1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.ports)
    @rule(data=st.data(), source=st.sampled_from(HOSTS), destination=st.sampled_from(HOSTS + GROUPS))
    def send(self, data: st.DataObject, source: bytes, destination: bytes) -> None:
        port = data.draw(st.sampled_from(self.ports))
        self.seen[source] = port, self.now
        others = tuple(other for other in self.ports if other != port)
        known = self.seen.get(destination)
        if known is None or self.now - known[1] > AGEING_TIME:
            expected = others
        else:
            expected = () if known[0] == port else (known[0],)
        assert self.bridge.route(port, destination + source, self.now) == expected

    @invariant()
    def it_knows_who_is_where(self) -> None:
        fresh = {host: port for host, (port, when) in self.seen.items() if self.now - when <= AGEING_TIME}
        assert self.bridge.addresses(self.now) == fresh


def test_random_traffic() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))


def joined(*ports: str) -> Bridge[str]:
    bridge: Bridge[str] = Bridge()
    for port in ports:
        bridge.add(port)
    return bridge


def test_link_local_groups_stay_on_their_link() -> None:
    bridge = joined("a", "b")
    for last in range(0x10):
        assert bridge.route("a", bytes.fromhex("0180c20000") + bytes([last]) + HOSTS[0], 0) == ()
    assert bridge.route("a", bytes.fromhex("0180c2000010") + HOSTS[0], 0) == ("b",)


def test_a_group_and_nobody_send_nothing() -> None:
    bridge = joined("a", "b")
    assert bridge.route("a", HOSTS[1] + BROADCAST, 0) == ()
    assert bridge.route("a", HOSTS[1] + bytes(6), 0) == ()
    assert bridge.addresses(0) == {}


def test_who_makes_up_addresses_displaces_nobody() -> None:
    bridge = joined("a", "b", "c")
    bridge.route("b", BROADCAST + HOSTS[1], 0)
    for number in range(3 * MAX_ADDRESSES_OF_PORT):
        bridge.route("a", BROADCAST + b"\2\0" + number.to_bytes(4, "big"), 0)
    assert len(bridge.addresses(0)) == MAX_ADDRESSES_OF_PORT + 1
    bridge.route("c", BROADCAST + HOSTS[2], 0)
    assert bridge.route("a", HOSTS[1] + HOSTS[0], 0) == ("b",)
    assert bridge.route("a", HOSTS[2] + HOSTS[0], 0) == ("c",)


def test_old_addresses_make_room() -> None:
    bridge = joined("a", "b")
    for number in range(MAX_ADDRESSES_OF_PORT):
        bridge.route("a", BROADCAST + b"\2\0" + number.to_bytes(4, "big"), 0)
    bridge.route("a", BROADCAST + HOSTS[0], AGEING_TIME + 2)
    assert bridge.addresses(AGEING_TIME + 2) == {HOSTS[0]: "a"}


def test_a_change_is_counted_once() -> None:
    bridge = joined("a", "b")
    bridge.route("a", BROADCAST + HOSTS[0], 0)
    before = bridge.changes
    bridge.route("a", BROADCAST + HOSTS[0], 2 * REFRESH)
    assert bridge.changes == before
    bridge.route("b", BROADCAST + HOSTS[0], 2 * REFRESH)
    assert bridge.changes == before + 1
