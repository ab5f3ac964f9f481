"""Network front ends for tests, in Python: a guest's rings and pages, and back ends that are ports of a bridge."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from grant_guest import GrantGuest

from euxen.abi.grant_table import GTF_permit_access, GTF_readonly
from euxen.abi.io.netif import (
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    NETRXF_extra_info,
    NETRXF_more_data,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from euxen.dom0.backends.net import forwarding
from euxen.dom0.backends.net.queue import Features, FrontendError, Link, Receiver, Transmitter
from euxen.dom0.backends.net.receive import CHECKSUM_IPV4, CHECKSUM_IPV6
from euxen.dom0.net.lan import Lan, Port
from euxen.dom0.net.packet import STRIDE
from euxen.hypervisor.control import Control
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE

ENTRIES = 256
RING = 64
TX_REF, RX_REF, FIRST_TX_REF, FIRST_RX_REF = 20, 21, 30, 100
TX_PAGES, RX_PAGES = 24, 20
TX_ENTRY, RX_ENTRY = 12, 8
EVERYTHING = Features(sg=True, gso=6, checksums=CHECKSUM_IPV4 | CHECKSUM_IPV6)
OKAY, DROPPED, ERROR, NULL = 0, -2, -1, 1


@dataclass
class Received:
    """A packet that came through a receive ring."""

    data: bytes
    flags: int
    """NETRXF_* of its first response."""
    extras: list[bytes] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def gso(self) -> tuple[int, int]:
        """XEN_NETIF_GSO_TYPE_* and the size of segments."""
        for extra in self.extras:
            if extra[0] == XEN_NETIF_EXTRA_TYPE_GSO:
                size, kind = struct.unpack_from("<HB", extra, 2)
                return kind, size
        return 0, 0


def gso_extra(kind: int, size: int, more: bool = False) -> bytes:
    """The extra info of a packet to be divided."""
    flags = XEN_NETIF_EXTRA_FLAG_MORE if more else 0
    return struct.pack("<BBHBBH", XEN_NETIF_EXTRA_TYPE_GSO, flags, size, kind, 0, 0)


class Vif(Port):
    """A back end with one queue."""

    def __init__(self, link: Link, name: str) -> None:
        self.link, self.name = link, name

    def send(self, packets: int, count: int, source: Port) -> None:
        self.link.send(packets, count)

    def learned(self, header: int, target: Port) -> None:
        if isinstance(target, Vif):
            forwarding.remember(self.link.record.address, header, target.link.record.address)


class NetFront:
    """A guest with one interface."""

    def __init__(
        self, hypervisor: Hypervisor, control: Control, lan: Lan, features: Features = EVERYTHING, name: str = "vif"
    ) -> None:
        self.guest = GrantGuest(hypervisor)
        self.lan = lan
        machine = hypervisor.machine
        self.tx_ring, self.rx_ring = (machine.frame(self.guest.pool(n)) for n in range(2))
        self.tx_pages = [machine.frame(self.guest.pool(2 + n)) for n in range(TX_PAGES)]
        self.rx_pages = [machine.frame(self.guest.pool(2 + TX_PAGES + n)) for n in range(RX_PAGES)]
        for ring in (self.tx_ring, self.rx_ring):
            ring[:] = bytes(PAGE_SIZE)
            struct.pack_into("<IIII", ring, 0, 0, 1, 0, 1)
        for n, ref in enumerate((TX_REF, RX_REF)):
            self.guest.grant(ref, 0, self.guest.pool(n))
        for n in range(TX_PAGES):
            self.guest.grant(FIRST_TX_REF + n, 0, self.guest.pool(2 + n), GTF_permit_access | GTF_readonly)
        for n in range(RX_PAGES):
            self.guest.grant(FIRST_RX_REF + n, 0, self.guest.pool(2 + TX_PAGES + n))
        self.tx_prod = self.rx_prod = self.tx_cons = self.rx_cons = 0
        self.pages = control.map_grants(self.guest.domid, [TX_REF, RX_REF])
        transmitter = Transmitter(control, self.pages.pages[0], self.guest.domid)
        receiver = Receiver(control, self.pages.pages[1], self.guest.domid, features)
        self.vif = Vif(Link(control, lan, transmitter, receiver), name)
        lan.add(self.vif)

    @property
    def link(self) -> Link:
        return self.vif.link

    # What the guest does.

    def put(self, entry: bytes) -> None:
        """Write an entry of the transmit ring."""
        at = RING + self.tx_prod % ENTRIES * TX_ENTRY
        self.tx_ring[at : at + len(entry)] = entry
        self.tx_prod += 1

    def request(self, ref: int, offset: int, size: int, flags: int = 0, number: int = 0) -> None:
        """A struct netif_tx_request."""
        self.put(struct.pack("<IHHHH", ref, offset, flags, number, size & 0xFFFF))

    def publish(self) -> None:
        """Let the back end see what was put."""
        struct.pack_into("<I", self.tx_ring, 0, self.tx_prod & 0xFFFF_FFFF)

    def queue(
        self,
        data: bytes,
        cuts: tuple[int, ...] = (),
        flags: int = 0,
        extras: tuple[bytes, ...] = (),
        number: int = 0,
        page: int = 0,
    ) -> int:
        """Put a packet onto the ring, cut into parts that lie in a page each, from one on; how many pages."""
        ends = (*cuts, len(data))
        parts = [data[start:end] for start, end in zip((0, *cuts), ends, strict=True)]
        for n, part in enumerate(parts):
            more = NETTXF_more_data if n + 1 < len(parts) else 0
            where, offset = (page + n) % TX_PAGES, (number * 17 + n) % max(PAGE_SIZE - len(part) + 1, 1)
            self.tx_pages[where][offset : offset + len(part)] = part
            size = len(data) if n == 0 else len(part)
            of_first = (flags | (NETTXF_extra_info if extras else 0)) if n == 0 else 0
            self.request(FIRST_TX_REF + where, offset, size, of_first | more, number + n)
            if n == 0:
                for extra in extras:
                    self.put(extra)
        self.publish()
        return len(parts)

    def answers(self) -> list[tuple[int, int]]:
        """Responses on the transmit ring: ids, which is 0 for an extra's, and statuses."""
        (produced,) = struct.unpack_from("<I", self.tx_ring, 8)
        found = []
        while self.tx_cons & 0xFFFF_FFFF != produced:
            number, status = struct.unpack_from("<Hh", self.tx_ring, RING + self.tx_cons % ENTRIES * TX_ENTRY)
            found.append((0 if status == NULL else number, status))
            self.tx_cons += 1
        return found

    def post(self, pages: list[int]) -> None:
        """Offer pages to be filled."""
        for page in pages:
            at = RING + self.rx_prod % ENTRIES * RX_ENTRY
            self.rx_ring[at : at + 8] = struct.pack("<HHI", page, 0, FIRST_RX_REF + page)
            self.rx_prod += 1
        struct.pack_into("<I", self.rx_ring, 0, self.rx_prod & 0xFFFF_FFFF)

    def received(self) -> list[Received]:
        """The packets that came, whose pages are free again."""
        (produced,) = struct.unpack_from("<I", self.rx_ring, 8)
        packets = []
        while self.rx_cons & 0xFFFF_FFFF != produced:
            packet = Received(b"", 0)
            more, first = True, True
            while more:
                number, offset, flags, status = struct.unpack("<HHHh", self._response())
                assert self.rx_cons & 0xFFFF_FFFF != (produced + 1) & 0xFFFF_FFFF, "a packet is pushed as a whole"
                packet.statuses.append(status)
                if status > 0:
                    packet.data += bytes(self.rx_pages[number][offset : offset + status])
                if first:
                    packet.flags, first = flags, False
                    another = bool(flags & NETRXF_extra_info)
                    while another:
                        packet.extras.append(self._response())
                        another = bool(packet.extras[-1][1] & XEN_NETIF_EXTRA_FLAG_MORE)
                more = bool(flags & NETRXF_more_data)
            packets.append(packet)
        return packets

    def _response(self) -> bytes:
        at = RING + self.rx_cons % ENTRIES * RX_ENTRY
        self.rx_cons += 1
        return bytes(self.rx_ring[at : at + 8])

    # What comes of its events.

    def kick(self, natively: bool = True) -> None:
        """The back end is told that there is something to send. Raises FrontendError."""
        if natively and not forwarding.forward(self.link.record.address):
            return
        with self.lan.lock:
            while True:
                count, done = self.link.take()
                if count:
                    self.lan.receive(self.vif, self.link.transmitter.packets + done * STRIDE, count - done)
                    self.link.finish(count)
                if not self.link.transmitter.record["stop"]:
                    return

    def kick_receiver(self, natively: bool = True) -> None:
        """The back end is told that there is room. Raises FrontendError."""
        if natively and not forwarding.more_room(self.link.record.address):
            return
        with self.lan.lock:
            self.link.kick()

    def wants_kick(self) -> bool:
        """Whether the back end asked to be told of the next request."""
        (event,) = struct.unpack_from("<I", self.tx_ring, 4)
        return bool(event == (self.tx_prod + 1) & 0xFFFF_FFFF)

    def close(self) -> None:
        """The interface goes away, and the guest."""
        self.lan.remove(self.vif)
        self.link.close()
        self.pages.unmap()
        for view in (self.tx_ring, self.rx_ring, *self.tx_pages, *self.rx_pages):
            view.release()
        assert self.guest.domain.grant_table.pins() == {}
        self.guest.close()


__all__ = ["EVERYTHING", "FrontendError", "NetFront", "Received", "gso_extra"]
