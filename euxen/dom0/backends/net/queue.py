"""One queue of a virtual interface at work: batches from its transmit ring, batches to its receive ring.

Everything here is done with the lock of the bridge that the interface is a port of.
"""

from __future__ import annotations

import ctypes

from euxen.abi.io.netif import NETTXF_csum_blank, NETTXF_data_validated
from euxen.abi.io.ring import Sring
from euxen.cpu.native.memory import Memory, Record
from euxen.dom0.backends.net import forwarding, receive, transmit
from euxen.dom0.backends.net.forwarding import LinkRecord
from euxen.dom0.backends.net.records import (
    BACKLOG_PACKETS,
    BATCH,
    FATAL_CROSS_PAGE,
    FATAL_EXTRA_MISSING,
    FATAL_EXTRA_TYPE,
    FATAL_GSO_SIZE,
    FATAL_GSO_TYPE,
    FATAL_REQUESTS,
    FATAL_SLOTS,
    FATAL_SLOTS_MISSING,
    FATAL_TOO_MANY_SLOTS,
    HEADER,
    MOST_PIECES,
    STOP_CREDIT,
    ReceiveRecord,
    TransmitRecord,
)
from euxen.dom0.net.checksum import fill_checksum, fill_pseudo
from euxen.dom0.net.copying import Copier
from euxen.dom0.net.lan import FIRST_HALF, Lan
from euxen.dom0.net.packet import STRIDE, NetPacket, NetPiece, own_packet, set_word, word_at
from euxen.dom0.net.segmentation import copy_details, segment
from euxen.hypervisor.control import Control

HEADERS_ORDER, BACKLOG_ORDER = 0, 8
assert BATCH * HEADER <= 4096 << HEADERS_ORDER
SCRATCH = 4096
UNLIMITED = 1 << 62

_SENTENCES = {
    FATAL_REQUESTS: "Impossible number of requests on the {ring} ring: {detail}",
    FATAL_SLOTS_MISSING: "a packet goes on after its {detail}th further request, and there is no other",
    FATAL_TOO_MANY_SLOTS: f"Malicious frontend using {{detail}} slots, threshold {FATAL_SLOTS}",
    FATAL_CROSS_PAGE: "Cross page boundary: a part of a packet ends {detail} bytes into its page",
    FATAL_EXTRA_MISSING: "Missing extra info",
    FATAL_EXTRA_TYPE: "Invalid extra type: {detail}",
    FATAL_GSO_SIZE: "GSO size must not be zero.",
    FATAL_GSO_TYPE: "Bad GSO type {detail}.",
}


class FrontendError(Exception):
    """The front end did what none may do: one sentence. The device is closed."""


def _check(record: Record, ring: str) -> int:
    """Why the native half has stopped: STOP_*. Raises FrontendError."""
    stop = record["stop"]
    if stop in _SENTENCES:
        raise FrontendError(_SENTENCES[stop].format(ring=ring, detail=record["detail"]))
    return stop


class Transmitter:
    """The transmit ring: what the front end sends."""

    def __init__(self, control: Control, page: memoryview, frontend: int) -> None:
        """Raises XenError where Domain 0 has no memory for it."""
        self._control = control
        self._copier = Copier(control)
        self._packets = Memory(BATCH * NetPacket.size)
        self._pieces = Memory(BATCH * MOST_PIECES * NetPiece.size)
        self._headers = control.allocate_pages(HEADERS_ORDER)
        record = self.record = Record(TransmitRecord)
        record["sring"], record["frontend"] = address_of(page), frontend
        record["copier"], record["headers"] = self._copier.address, self._headers.machine_address
        record["packets"], record["pieces"] = self._packets.address, self._pieces.address
        record["credit"] = UNLIMITED
        # A back end that comes back goes on where the one before it stopped (BACK_RING_ATTACH).
        record["req_cons"] = record["rsp_prod_pvt"] = rsp_prod_of(page)
        self.packets = self._packets.address

    def take(self) -> int:
        """Take a batch: how many packets. Raises FrontendError."""
        count = transmit.take(self.record.address)
        _check(self.record, "transmit")
        return count

    @property
    def wants_credit(self) -> int:
        """How many bytes of credit the next packet needs; 0 if that is not why no more was taken."""
        return self.record["detail"] if self.record["stop"] == STOP_CREDIT else 0

    def close(self) -> None:
        """Look at the ring no more."""
        self._control.free_pages(self._headers)


class Features:
    """What a front end takes; by default as little as it can."""

    def __init__(self, sg: bool = False, gso: int = 0, checksums: int = 0) -> None:
        """``gso`` has a bit for each XEN_NETIF_GSO_TYPE_*, ``checksums`` is of CHECKSUM_*."""
        self.sg, self.gso, self.checksums = sg, gso if sg else 0, checksums


class Receiver:
    """The receive ring: what the front end gets."""

    def __init__(self, control: Control, page: memoryview, frontend: int, features: Features) -> None:
        """Raises XenError where Domain 0 has no memory for it."""
        self._control = control
        self._copier = Copier(control)
        self._waiting = Memory(BACKLOG_PACKETS * NetPacket.size)
        self._area = control.allocate_pages(BACKLOG_ORDER)
        record = self.record = Record(ReceiveRecord)
        record["sring"], record["frontend"] = address_of(page), frontend
        record["copier"], record["waiting"] = self._copier.address, self._waiting.address
        record["area"], record["area_size"] = self._area.machine_address, self._area.size - SCRATCH
        record["req_cons"] = record["pushed"] = rsp_prod_of(page)
        record["sg"], record["gso"], record["checksums"] = features.sg, features.gso, features.checksums

    @property
    def waiting(self) -> int:
        """How many packets wait for room."""
        return receive.waiting(self.record.address)

    def close(self) -> None:
        """Look at the ring no more."""
        self._control.free_pages(self._area)


class Link:
    """Both rings of a queue, for packets that come from the bridge and go to it."""

    def __init__(self, control: Control, lan: Lan, transmitter: Transmitter, receiver: Receiver) -> None:
        self.transmitter, self.receiver = transmitter, receiver
        self._shop = lan.workshop
        record = self.record = Record(LinkRecord)
        record["lan"], record["domain"] = lan.record.address, control.caller.record.address
        record["transmit"], record["receive"] = transmitter.record.address, receiver.record.address

    @property
    def lost(self) -> int:
        """How many packets there was no room for."""
        return self.record["lost"]

    def take(self) -> tuple[int, int]:
        """A batch from the transmit ring: how many packets, and how many of them are dealt with. Raises FrontendError.

        It may be one that native code has left over.
        """
        record = self.record
        if record["unfinished"]:
            record["unfinished"] = 0
            _check(self.transmitter.record, "transmit")
            return record["taken"], record["dealt"]
        return self.transmitter.take(), 0

    def finish(self, count: int) -> None:
        """Answer a batch."""
        forwarding.finish(self.record.address, count)

    def send(self, packets: int, count: int) -> None:
        """Give the front end packets. Raises FrontendError."""
        end = packets + count * STRIDE
        while packets < end:
            packets += self._deliver(packets, (end - packets) // STRIDE) * STRIDE
            if packets < end:
                self._help(packets)
                packets += STRIDE

    def _deliver(self, packets: int, count: int) -> int:
        done = forwarding.deliver(self.record.address, packets, count)
        if done < count:
            _check(self.receiver.record, "receive")
        return done

    def _help(self, packet: int) -> None:
        """Change a packet so that the front end can take it: divide it, or fill in its checksum."""
        shop = self._shop
        size = shop.bring(packet)
        if not size:
            return  # its sender took it away
        made = self._change(packet, size)
        # What still cannot be taken is too long for one page.
        self.record["lost"] += made - self._deliver(shop.packets, made) if made else 1

    def _change(self, packet: int, size: int) -> int:
        """How many packets came of it, in the workshop."""
        shop, record = self._shop, self.receiver.record
        kind, flags = word_at(packet, NetPacket.gso_type), word_at(packet, NetPacket.flags)
        if kind and not record["gso"] >> kind & 1:
            at, machine_address = shop.address + FIRST_HALF, shop.machine_address + FIRST_HALF
            gso_size = word_at(packet, NetPacket.gso_size)
            return segment(shop.address, size, gso_size, shop.packets, at, machine_address, shop.room)
        if kind and not flags & NETTXF_csum_blank:
            if not fill_pseudo(shop.address, size):
                return 0
            flags |= NETTXF_csum_blank | NETTXF_data_validated
        elif flags & NETTXF_csum_blank:
            flags &= ~NETTXF_csum_blank
            if not fill_checksum(shop.address, size):
                flags &= ~NETTXF_data_validated
        own_packet(shop.packets, shop.machine_address, shop.address, size, flags)
        if kind:
            copy_details(shop.packets, packet)
            set_word(shop.packets, NetPacket.flags, flags)
        return 1

    def kick(self) -> None:
        """There may be room again. Raises FrontendError."""
        if forwarding.more_room_locked(self.record.address):
            _check(self.receiver.record, "receive")

    def close(self) -> None:
        """Look at the rings no more."""
        self.transmitter.close()
        self.receiver.close()


def address_of(page: memoryview) -> int:
    """Where native code finds a page."""
    return ctypes.addressof(ctypes.c_char.from_buffer(page))


def rsp_prod_of(page: memoryview) -> int:
    """How many responses there were on a ring."""
    at = Sring.offsetof("rsp_prod")
    return int.from_bytes(page[at : at + 4], "little")
