"""The control ring, hashes and credits."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from frames import HostBytes
from hypothesis import given, settings
from hypothesis import strategies as st

from euxen.abi.io import netif
from euxen.dom0.backends.net.control import DONE, ENTRY_SIZE, INVALID, MAX_MAPPING, NOT_SUPPORTED, Hashing, serve
from euxen.dom0.backends.net.credit import MIN_BURST, Credit, Rate, parse_rate
from euxen.dom0.backends.net.hashing import flow_of, hash_of
from euxen.dom0.backends.ring import BackRing, RingError

KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""The key with which Microsoft's specification of receive-side scaling verifies implementations."""
IPV4_VECTORS = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
]
IPV6_VECTORS = [
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4B61E985, 0x02D1FEEF),
]
GET_FLAGS, SET_FLAGS = netif.XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, netif.XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS
SET_ALGORITHM, SET_KEY = netif.XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, netif.XEN_NETIF_CTRL_TYPE_SET_HASH_KEY
GET_SIZE, SET_SIZE = netif.XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE, netif.XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE
SET_MAPPING = netif.XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING
TOEPLITZ = netif.XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ


def header(source: str, source_port: int, dest: str, dest_port: int, protocol: int = 6) -> bytes:
    a, b = ip_address(source), ip_address(dest)
    rest = a.packed + b.packed + struct.pack(">HH", source_port, dest_port)
    if a.version == 4:
        return bytes(12) + b"\x08\0" + struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, protocol, 0) + rest
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 20, protocol, 64) + rest


@pytest.mark.parametrize("vector", IPV4_VECTORS + IPV6_VECTORS)
def test_toeplitz(vector: tuple[str, int, str, int, int, int], native: None) -> None:
    *who, addresses, with_ports = vector
    is_ipv6 = ":" in vector[0]
    key = HostBytes(KEY + bytes(40))
    for protocol, types, expected, kind in [
        (6, 0xF, with_ports, 1),
        (17, 0xF, addresses, 0),
        (6, netif.XEN_NETIF_CTRL_HASH_TYPE_IPV4 | netif.XEN_NETIF_CTRL_HASH_TYPE_IPV6, addresses, 0),
    ]:
        data = HostBytes(header(who[0], who[1], who[2], who[3], protocol))  # type: ignore[arg-type]
        value = hash_of(data.address, data.size, types, key.address)
        assert value == expected | (kind + 2 * is_ipv6) << 32 | TOEPLITZ << 40
    assert hash_of(data.address, data.size, 0, key.address) == 0


@given(st.binary(max_size=64))
@settings(deadline=None)
def test_hashes_of_nonsense(native: None, data: bytes) -> None:
    key = HostBytes(KEY + bytes(40))
    for start in (b"", bytes(12) + b"\x08\0\x45", bytes(12) + b"\x86\xdd\x60"):
        memory = HostBytes(start + data)
        assert hash_of(memory.address, memory.size, 0xF, key.address) >> 40 in (0, TOEPLITZ)
        assert flow_of(memory.address, memory.size) >= 0


class Pages:
    """What a front end lends, by its references."""

    def __init__(self) -> None:
        self.pages = {7: KEY, 8: struct.pack("<4I", 0, 1, 2, 1), 9: struct.pack("<2I", 0, 3)}

    def read(self, gref: int, size: int) -> bytes | None:
        return self.pages[gref][:size] if gref in self.pages else None


def hashing(queues: int = 3) -> Hashing:
    return Hashing(queues, Pages().read)


def test_requests() -> None:
    """The answers are those of xen-netback, also where a request comes too early."""
    subject = hashing()
    assert subject.do(GET_FLAGS, (0, 0, 0)) == (0, 0xF)
    assert subject.do(SET_FLAGS, (1, 0, 0)) == INVALID
    assert subject.do(SET_ALGORITHM, (2, 0, 0)) == INVALID
    assert subject.do(SET_ALGORITHM, (TOEPLITZ, 0, 0)) == DONE
    assert subject.do(SET_FLAGS, (0x10, 0, 0)) == INVALID
    assert subject.do(SET_FLAGS, (3, 0, 0)) == DONE
    assert subject.types == 3
    assert subject.do(SET_KEY, (7, 41, 0)) == INVALID
    assert subject.do(SET_KEY, (1, 40, 0)) == INVALID
    assert subject.do(SET_KEY, (7, 40, 0)) == DONE
    assert bytes(subject.key.view[:40]) == KEY
    assert subject.do(SET_KEY, (7, 10, 0)) == DONE
    assert bytes(subject.key.view[:40]) == KEY[:10] + bytes(30)
    assert subject.do(GET_SIZE, (0, 0, 0)) == (0, MAX_MAPPING)
    assert subject.do(SET_SIZE, (MAX_MAPPING + 1, 0, 0)) == INVALID
    assert subject.do(SET_SIZE, (4, 0, 0)) == DONE
    assert subject.do(SET_MAPPING, (8, 4, 1)) == INVALID
    assert subject.do(SET_MAPPING, (9, 2, 0)) == INVALID
    assert subject.do(SET_MAPPING, (1, 1, 0)) == INVALID
    assert subject.do(SET_MAPPING, (8, 4, 0)) == DONE
    assert [subject.queue_for(value) for value in range(8)] == [0, 1, 2, 1] * 2
    for kind in (0, 8, 9, 10, 0xFFFF):
        assert subject.do(kind, (0, 0, 0)) == NOT_SUPPORTED


def test_without_a_mapping_the_hash_chooses() -> None:
    assert [hashing().queue_for(value) for value in range(6)] == [0, 1, 2, 0, 1, 2]


def ring_page(requests: list[bytes], producer: int | None = None) -> bytearray:
    page = bytearray(4096)
    struct.pack_into("<IIII", page, 0, len(requests) if producer is None else producer, 1, 0, 1)
    for number, request in enumerate(requests):
        page[64 + number * ENTRY_SIZE : 64 + (number + 1) * ENTRY_SIZE] = request
    return page


def test_ring() -> None:
    page = ring_page([struct.pack("<HH3I", 5, GET_FLAGS, 0, 0, 0), struct.pack("<HH3I", 6, 99, 0, 0, 0)])
    assert serve(BackRing([memoryview(page)], ENTRY_SIZE), hashing())
    assert struct.unpack_from("<II", page, 4) == (3, 2)
    assert struct.unpack_from("<HHII", page, 64) == (5, GET_FLAGS, 0, 0xF)
    assert struct.unpack_from("<HHII", page, 64 + ENTRY_SIZE) == (6, 99, netif.XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED, 0)


def test_empty_ring() -> None:
    assert not serve(BackRing([memoryview(ring_page([]))], ENTRY_SIZE), hashing())


def test_bogus_ring() -> None:
    with pytest.raises(RingError):
        serve(BackRing([memoryview(ring_page([], 1000))], ENTRY_SIZE), hashing())


# Credits.


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1000,50000", Rate(1000, 50000)),
        (None, None),
        ("", None),
        ("1000", None),
        ("0,5", None),
        ("5,0", None),
        ("-5,5", None),
        ("a,b", None),
    ],
)
def test_rates(text: str | None, rate: Rate | None) -> None:
    assert parse_rate(text) == rate


def test_credit() -> None:
    credit = Credit(Rate(1000, 50000), 0.0)
    assert credit.bytes == 1000
    assert credit.wait(900, 0.0) == 0.0
    credit.bytes -= 900
    assert credit.wait(500, 0.01) == pytest.approx(0.04)
    assert credit.wait(500, 0.05) == 0.0
    assert credit.bytes == 1100


def test_a_large_packet_is_saved_up_for() -> None:
    credit, now, waited = Credit(Rate(1000, 50000), 0.0), 0.0, 0
    while wait := credit.wait(65000, now):
        now += wait
        waited += 1
    assert waited == 64 and now == pytest.approx(64 * 0.05)


@given(st.integers(1, 10**7), st.lists(st.tuples(st.integers(1, 65535), st.floats(0, 2)), max_size=50))
def test_no_more_than_the_rate(size: int, packets: list[tuple[int, float]]) -> None:
    """Over any time: what the credit was at first, what came in whole periods, and no more."""
    credit, now, sent = Credit(Rate(size, 50000), 0.0), 0.0, 0
    for packet, pause in packets:
        now += pause
        if not credit.wait(packet, now):
            credit.bytes -= packet
            sent += packet
        assert 0 <= credit.bytes <= max(MIN_BURST, size)
        assert sent <= size + size * int(now / 0.05 + 1e-6)
