"""What front ends do that is not as usual: what they must not do, what they cannot take, what they take away."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from frames import TCP, UDP, checksum, ethernet, ipv4, ipv6, pseudo_header, tcp, udp
from grant_guest import new_hypervisor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netfront import (
    ERROR,
    EVERYTHING,
    FIRST_RX_REF,
    FIRST_TX_REF,
    NULL,
    OKAY,
    RX_PAGES,
    FrontendError,
    NetFront,
    Received,
    gso_extra,
)

from euxen.abi.io.netif import (
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_HASH,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETTXF_csum_blank,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from euxen.dom0.backends.net import forwarding
from euxen.dom0.backends.net.queue import Features
from euxen.dom0.backends.net.receive import CHECKSUM_IPV4, CHECKSUM_IPV6
from euxen.dom0.backends.net.records import BACKLOG_PACKETS
from euxen.dom0.net.lan import Lan
from euxen.dom0.net.packet import NetPacket, word_at
from euxen.hypervisor.control import Control

pytestmark = pytest.mark.usefixtures("native")

BROADCAST = b"\xff" * 6
FRAME = ethernet(ipv4(UDP, udp(b"something")), BROADCAST)


class Pair:
    """Two front ends on a bridge."""

    def __init__(self, features: Features = EVERYTHING) -> None:
        self.hypervisor = new_hypervisor()
        self.free = self.hypervisor.machine.record["free_pages"]
        control = Control(self.hypervisor, self.hypervisor.kernel)
        self.lan = Lan(control, "xenbr0")
        self.a = NetFront(self.hypervisor, control, self.lan)
        self.b = NetFront(self.hypervisor, control, self.lan, features)

    def close(self) -> None:
        self.a.close()
        self.b.close()
        self.lan.close()
        assert self.hypervisor.machine.record["free_pages"] == self.free

    def send(self, data: bytes, cuts: tuple[int, ...] = (), flags: int = 0, extras: tuple[bytes, ...] = ()) -> None:
        """Let a frame through from the one to the other."""
        self.a.queue(data, cuts, flags, extras)
        self.a.kick()

    def get(self) -> list[Received]:
        """What the other gets, once it offers all that it has."""
        self.b.post([number % RX_PAGES for number in range(self.b.rx_prod, self.b.rx_cons + RX_PAGES)])
        self.b.kick_receiver()
        return self.b.received()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two that can do everything."""
    pair = Pair()
    yield pair
    pair.close()


Break = Callable[[NetFront], None]


def many_slots(count: int) -> Break:
    def put(front: NetFront) -> None:
        for number in range(count):
            more = NETTXF_more_data if number + 1 < count else 0
            front.request(FIRST_TX_REF, 0, count * 100 if number == 0 else 100, more, number)

    return put


def with_extra(extra: bytes) -> Break:
    def put(front: NetFront) -> None:
        front.request(FIRST_TX_REF, 0, 100, NETTXF_extra_info)
        front.put(extra)

    return put


def too_far(front: NetFront) -> None:
    front.tx_prod += 257


def behind_the_page(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 4000, 97)


def rest_behind_the_page(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 0, 200, NETTXF_more_data)
    front.request(FIRST_TX_REF, 4000, 97)


def goes_on_with_nothing(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 0, 200, NETTXF_more_data)


def extra_missing(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 0, 200, NETTXF_extra_info)


FATAL: dict[str, tuple[Break, str]] = {
    "bogus producer": (too_far, "Impossible number of requests on the transmit ring: 257"),
    "very many slots": (many_slots(22), "Malicious frontend using 20 slots, threshold 20"),
    "all slots": (many_slots(256), "Malicious frontend using 20 slots, threshold 20"),
    "cross page": (behind_the_page, "Cross page boundary: a part of a packet ends 4097 bytes into its page"),
    "cross page later": (rest_behind_the_page, "Cross page boundary: a part of a packet ends 4097 bytes into its page"),
    "no more": (goes_on_with_nothing, "a packet goes on after its 0th further request, and there is no other"),
    "no extra": (extra_missing, "Missing extra info"),
    "extra without end": (with_extra(gso_extra(1, 1448, more=True)), "Missing extra info"),
    "extra of type 0": (with_extra(bytes(8)), "Invalid extra type: 0"),
    "extra of type 5": (with_extra(b"\5" + bytes(7)), "Invalid extra type: 5"),
    "segments of nothing": (with_extra(gso_extra(1, 0)), "GSO size must not be zero."),
    "segments of a strange kind": (with_extra(gso_extra(3, 1448)), "Bad GSO type 3."),
}


@pytest.mark.parametrize("natively", [False, True])
@pytest.mark.parametrize("case", FATAL)
def test_fatal(pair: Pair, case: str, natively: bool) -> None:
    put, sentence = FATAL[case]
    put(pair.a)
    pair.a.publish()
    with pytest.raises(FrontendError) as caught:
        pair.a.kick(natively)
    assert str(caught.value) == sentence
    # The others do not notice.
    pair.b.queue(FRAME)
    pair.b.kick(natively)
    assert pair.b.answers() == [(0, OKAY)]


def gone(front: NetFront) -> None:
    front.request(29, 0, 100)


def rest_gone(front: NetFront) -> None:
    front.tx_pages[0][:14] = FRAME[:14]
    front.request(FIRST_TX_REF, 0, 200, NETTXF_more_data)
    front.request(29, 0, 100, 0, 1)


def short(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 0, 13)


def longer_rest(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 0, 100, NETTXF_more_data)
    front.request(FIRST_TX_REF, 0, 101, 0, 1)


def short_first(front: NetFront) -> None:
    front.request(FIRST_TX_REF, 0, 113, NETTXF_more_data)
    front.request(FIRST_TX_REF, 0, 100, 0, 1)


REFUSED: dict[str, tuple[Break, int]] = {
    "grant that is none": (gone, 1),
    "later grant that is none": (rest_gone, 2),
    "short": (short, 1),
    "rest longer than all": (longer_rest, 2),
    "short beginning": (short_first, 2),
    "too many slots": (many_slots(20), 20),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("room", [True, False])
def test_refused(pair: Pair, case: str, room: bool) -> None:
    """Such a packet is answered with an error, is lost, and takes nothing of the receiver's; the next one is fine."""
    put, slots = REFUSED[case]
    if room:
        pair.b.post(list(range(RX_PAGES)))
    put(pair.a)
    pair.a.publish()
    pair.a.queue(FRAME, number=99)
    pair.a.kick()
    assert pair.a.answers() == [*((number, ERROR) for number in range(slots)), (99, OKAY)]
    got = pair.b.received() if room else pair.get()
    assert [packet.data for packet in got] == [FRAME]


def test_nineteen_slots_are_not_too_many(pair: Pair) -> None:
    data = ethernet(ipv4(UDP, udp(bytes(range(256)) * 6)), BROADCAST)
    pair.send(data, tuple(range(14, 14 + 18 * 80, 80)))
    assert pair.a.answers() == [(number, OKAY) for number in range(19)]
    assert [packet.data for packet in pair.get()] == [data]


def test_the_largest_packet(pair: Pair) -> None:
    data = (BROADCAST + bytes(6) + bytes(range(251)) * 262)[:0xFFFF]
    data = data[:6] + b"\0\x16\x3e\0\0\1" + data[12:]
    pair.send(data, tuple(range(4096, 0xFFFF, 4096)))
    (packet,) = pair.get()
    assert packet.data == data and packet.statuses == [4096] * 15 + [4095]


def test_a_page_that_cannot_be_filled(pair: Pair) -> None:
    """The front end is told which; the other is not to blame."""
    pair.b.guest.grant(FIRST_RX_REF + 1, 0, pair.b.guest.pool(3), 0)
    pair.b.post([0, 1, 2, 3])
    data = ethernet(ipv4(UDP, udp(bytes(9000))), BROADCAST)
    pair.send(data, (4096, 8192))
    pair.a.queue(FRAME)
    pair.a.kick()
    assert {status for _number, status in pair.a.answers()} == {OKAY}
    broken, whole = pair.b.received()
    assert broken.statuses == [4096, ERROR, len(data) - 8192]
    assert whole.data == FRAME


@pytest.mark.parametrize("too_many", [257, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("natively", [False, True])
def test_bogus_receive_producer(pair: Pair, too_many: int, natively: bool) -> None:
    struct.pack_into("<I", pair.b.rx_ring, 0, too_many)
    with pytest.raises(FrontendError, match=f"Impossible number of requests on the receive ring: {too_many}"):
        pair.a.queue(FRAME)
        pair.a.kick(natively)


def test_who_takes_nothing_loses_it_and_holds_up_nobody(pair: Pair) -> None:
    for number in range(BACKLOG_PACKETS + 10):
        pair.a.queue(FRAME, number=number)
        pair.a.kick()
        assert pair.a.answers() == [(number, OKAY)]
    assert pair.b.link.receiver.waiting == BACKLOG_PACKETS
    assert pair.b.link.lost == 10
    got = pair.get()
    assert [packet.data for packet in got] == [FRAME] * RX_PAGES
    assert pair.b.link.receiver.waiting == BACKLOG_PACKETS - RX_PAGES


def test_who_takes_nothing_for_long_loses_what_waits(pair: Pair) -> None:
    pair.send(FRAME)
    receiver = pair.b.link.receiver
    receiver.record["progress"] -= forwarding.DRAIN_TIMEOUT + 1
    pair.send(FRAME)
    assert receiver.waiting == 1 and pair.b.link.lost == 1
    pair.b.post([0, 1])
    pair.send(FRAME)
    assert [packet.data for packet in pair.b.received()] == [FRAME] * 2


def test_a_full_area_of_large_packets(pair: Pair) -> None:
    data = ethernet(ipv4(UDP, udp(bytes(60000))), BROADCAST)
    for _ in range(20):
        pair.send(data, tuple(range(4000, len(data), 4000)))
    waiting = pair.b.link.receiver.waiting
    assert waiting == ((1 << 20) - 4096) // len(data) and pair.b.link.lost == 20 - waiting
    for _ in range(2 * waiting):  # round and round in the area
        assert [packet.data for packet in pair.get()] == [data]
        pair.send(data, tuple(range(4000, len(data), 4000)))
        assert pair.b.link.receiver.waiting == waiting
    for left in range(waiting, 0, -1):
        assert pair.b.link.receiver.waiting == left
        assert [packet.data for packet in pair.get()] == [data]
    assert pair.get() == []


# What a front end cannot take.

PLAIN = Features(sg=True)
"""Takes neither blank checksums nor segments to be made."""


def reassembled(packets: list[Received], ip_header: int) -> bytes:
    payload = b""
    for packet in packets:
        transport = packet.data[14 + ip_header :]
        ip = packet.data[14:]
        assert checksum(pseudo_header(ip, TCP, len(transport)) + transport) == 0
        assert packet.gso == (0, 0)
        assert packet.flags & (NETRXF_csum_blank | NETRXF_data_validated) == NETRXF_data_validated
        payload += transport[20:]
    return payload


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("natively", [False, True])
def test_segments_for_who_cannot_divide(version: int, natively: bool) -> None:
    pair = Pair(PLAIN)
    payload = bytes(range(250)) * 40
    segment = tcp(payload)
    packet = ipv4(TCP, segment) if version == 4 else ipv6(TCP, segment)
    kind = XEN_NETIF_GSO_TYPE_TCPV4 if version == 4 else XEN_NETIF_GSO_TYPE_TCPV6
    data = ethernet(packet, BROADCAST)
    pair.a.queue(data, (4000, 8000), NETTXF_csum_blank, (gso_extra(kind, 1448),))
    pair.a.queue(FRAME, page=3)
    pair.a.kick(natively)
    assert pair.a.answers() == [(0, OKAY), (0, NULL), (1, OKAY), (2, OKAY), (0, OKAY)]
    *parts, last = pair.get()
    assert reassembled(parts, 20 if version == 4 else 40) == payload
    assert len(parts) == 7 and last.data == FRAME
    pair.close()


@pytest.mark.parametrize(
    ("packet", "features", "blank"),
    [
        (ipv4(TCP, tcp(b"data")), Features(), False),
        (ipv6(TCP, tcp(b"data")), Features(), False),
        (ipv4(UDP, udp(b"data")), Features(checksums=CHECKSUM_IPV6), False),
        (ipv6(UDP, udp(b"data")), Features(checksums=CHECKSUM_IPV4), False),
        (ipv4(TCP, tcp(b"data")), Features(checksums=CHECKSUM_IPV4), True),
        (ipv6(TCP, tcp(b"data")), Features(checksums=CHECKSUM_IPV6), True),
    ],
)
def test_checksums_for_who_wants_them(packet: bytes, features: Features, blank: bool) -> None:
    pair = Pair(features)
    pair.send(ethernet(packet, BROADCAST), flags=NETTXF_csum_blank)
    (got,) = pair.get()
    assert bool(got.flags & NETRXF_csum_blank) is blank
    assert got.flags & NETRXF_data_validated
    header = 34 if packet[0] >> 4 == 4 else 54
    protocol = TCP if packet[9 if header == 34 else 6] == TCP else UDP
    transport = got.data[header:]
    assert (checksum(pseudo_header(got.data[14:], protocol, len(transport)) + transport) == 0) is not blank
    pair.close()


def test_what_is_too_long_for_one_page_is_lost() -> None:
    pair = Pair(Features())
    pair.send(ethernet(ipv4(UDP, udp(bytes(5000))), BROADCAST), (4000,))
    pair.send(FRAME)
    assert [packet.data for packet in pair.get()] == [FRAME]
    assert pair.b.link.lost == 1
    pair.close()


def test_what_cannot_be_divided_is_lost() -> None:
    pair = Pair(PLAIN)
    data = ethernet(ipv4(UDP, udp(bytes(3000))), BROADCAST)
    pair.send(data, (), NETTXF_csum_blank, (gso_extra(XEN_NETIF_GSO_TYPE_TCPV4, 1448),))
    pair.send(FRAME)
    assert [packet.data for packet in pair.get()] == [FRAME]
    assert pair.b.link.lost == 1
    pair.close()


def test_segments_whose_checksum_was_computed() -> None:
    """Who divides them computes it anew, from the sum of the pseudo header."""
    pair = Pair()
    segment = tcp(bytes(5000))
    packet = ipv4(TCP, segment)
    pair.send(ethernet(packet, BROADCAST), (4000,), 0, (gso_extra(XEN_NETIF_GSO_TYPE_TCPV4, 1448),))
    (got,) = pair.get()
    assert got.gso == (XEN_NETIF_GSO_TYPE_TCPV4, 1448)
    assert got.flags & NETRXF_csum_blank
    assert (
        struct.unpack_from(">H", got.data, 34 + 16)[0] == ~checksum(pseudo_header(packet, TCP, len(segment))) & 0xFFFF
    )
    pair.close()


def test_the_hash_of_a_packet_is_noted(pair: Pair) -> None:
    extra = struct.pack("<BBBBI", XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_FLAG_MORE, 1, 1, 0x12345678)
    pair.a.queue(FRAME, (), NETTXF_csum_blank, (extra, gso_extra(1, 1448)))
    transmitter = pair.a.link.transmitter
    assert transmitter.take() == 1
    assert word_at(transmitter.packets, NetPacket.hash) == 0x01_01_12345678
    assert word_at(transmitter.packets, NetPacket.gso_size) == 1448
    pair.a.link.finish(1)
    assert pair.a.answers() == [(0, OKAY), (0, NULL), (0, NULL)]


def test_requests_about_groups_are_no_packets(pair: Pair) -> None:
    add = struct.pack("<BB6s", XEN_NETIF_EXTRA_TYPE_MCAST_ADD, 0, bytes.fromhex("333300000001"))
    pair.a.queue(FRAME, (), 0, (add,))
    pair.a.queue(FRAME, number=5)
    pair.a.kick()
    assert pair.a.answers() == [(0, OKAY), (0, NULL), (5, OKAY)]
    assert len(pair.get()) == 1


@given(st.lists(st.binary(min_size=12, max_size=12), max_size=60), st.integers(0, 300), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_nonsense(entries: list[bytes], ahead: int, natively: bool) -> None:
    """Whatever is on a ring: it is refused, or handed on, and nothing is left behind."""
    pair = Pair()
    for entry in entries:
        ref = int.from_bytes(entry[:4], "little") % 26 + FIRST_TX_REF - 1
        pair.a.put(struct.pack("<I", ref) + entry[4:])
    pair.a.tx_prod += ahead
    pair.a.publish()
    try:
        for _ in range(4):
            pair.a.kick(natively)
    except FrontendError:
        pass
    pair.get()
    pair.close()
