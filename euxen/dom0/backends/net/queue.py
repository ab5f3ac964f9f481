"""One queue of a virtual interface at work: batches from its transmit ring, batches to its receive ring.

Everything here is done with the lock of the bridge that the interface is a port of.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from euxen.abi.io.netif import NETTXF_csum_blank, NETTXF_data_validated
from euxen.abi.io.ring import Sring
from euxen.cpu.native.memory import Memory, Record
from euxen.dom0.backends.net import receive, transmit
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
    STOP_HELP,
    STOP_NONE,
    STOP_SLOTS,
    ReceiveRecord,
    TransmitRecord,
)
from euxen.dom0.net.checksum import fill_checksum, fill_pseudo
from euxen.dom0.net.copying import Copier
from euxen.dom0.net.lan import FIRST_HALF, Workshop
from euxen.dom0.net.packet import STRIDE, NetPacket, NetPiece, own_packet, total_size, word_at
from euxen.dom0.net.segmentation import copy_details, segment
from euxen.hypervisor.control import Control

HEADERS_ORDER, BACKLOG_ORDER = 0, 8
assert BATCH * HEADER <= 4096 << HEADERS_ORDER
SCRATCH = 4096
UNLIMITED = 1 << 62
DRAIN_TIMEOUT = 10.0
"""Seconds that a front end has to take what waits for it (rx_drain_timeout_msecs)."""

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
        """Take a batch: how many packets. Raises FrontendError, with those that were good before answered as bad."""
        count = transmit.take(self.record.address)
        if self.record["stop"] not in (STOP_NONE, STOP_CREDIT):
            _check(self.record, "transmit")
        return count

    @property
    def wants_credit(self) -> int:
        """How many bytes of credit the next packet needs; 0 if that is not why no more was taken."""
        return self.record["detail"] if self.record["stop"] == STOP_CREDIT else 0

    def answer(self, count: int) -> bool:
        """Answer the batch; whether the front end wants an event."""
        return bool(transmit.answer(self.record.address, count))

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

    def __init__(
        self,
        control: Control,
        page: memoryview,
        frontend: int,
        features: Features,
        workshop: Workshop,
        notify: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``workshop`` is the bridge's. Raises XenError where Domain 0 has no memory for it."""
        self._control, self._workshop, self._notify, self._clock = control, workshop, notify, clock
        self._copier = Copier(control)
        self._waiting = Memory(BACKLOG_PACKETS * NetPacket.size)
        self._area = control.allocate_pages(BACKLOG_ORDER)
        record = self.record = Record(ReceiveRecord)
        record["sring"], record["frontend"] = address_of(page), frontend
        record["copier"], record["waiting"] = self._copier.address, self._waiting.address
        record["area"], record["area_size"] = self._area.machine_address, self._area.size - SCRATCH
        record["req_cons"] = record["pushed"] = rsp_prod_of(page)
        record["sg"], record["gso"], record["checksums"] = features.sg, features.gso, features.checksums
        self._progress = 0.0
        self.lost = 0
        """Packets for which there was no room."""

    @property
    def waiting(self) -> int:
        """How many packets wait for room."""
        return receive.waiting(self.record.address)

    def send(self, packets: int, count: int) -> None:
        """Give the front end a batch: onto the ring as far as there is room. Raises FrontendError."""
        end = packets + count * STRIDE
        if self.waiting:
            self._drain()
        while packets < end:
            packets += self._some(packets, (end - packets) // STRIDE) * STRIDE
            if packets < end and receive.plain_length(self.record.address, packets, 1) == 0:
                self._help(packets)
                packets += STRIDE
        self._push()

    def _some(self, packets: int, count: int) -> int:
        """Put packets onto the ring, or have them wait: how many, up to the first that has to be changed."""
        record = self.record.address
        done = 0
        if not receive.waiting(record):
            done = receive.fill(record, packets, count)
            if _check(self.record, "receive") != STOP_SLOTS:
                return done
            self._progress = self._clock()
        rest = receive.plain_length(record, packets + done * STRIDE, count - done)
        self.lost += rest - receive.keep(record, packets + done * STRIDE, rest)
        return done + rest

    def _help(self, packet: int) -> None:
        """Change a packet so that the front end can take it: divide it, or fill in its checksum."""
        shop, record = self._workshop, self.record
        size = shop.bring(packet)
        if not size:
            return
        made, kind = 0, word_at(packet, NetPacket.gso_type)
        flags = word_at(packet, NetPacket.flags)
        if kind and record["gso"] >> kind & 1 and not flags & NETTXF_csum_blank:
            if fill_pseudo(shop.address, size):
                own_packet(shop.packets, shop.machine_address, shop.address, size, flags)
                copy_details(shop.packets, packet)
                flags |= NETTXF_csum_blank | NETTXF_data_validated
                ctypes.c_uint64.from_address(shop.packets + NetPacket.flags).value = flags
                made = 1
        elif kind:
            at, machine_address = shop.address + FIRST_HALF, shop.machine_address + FIRST_HALF
            gso_size = word_at(packet, NetPacket.gso_size)
            made = segment(shop.address, size, gso_size, shop.packets, at, machine_address, shop.room)
        else:
            flags &= ~NETTXF_csum_blank
            if fill_checksum(shop.address, size):
                flags |= NETTXF_data_validated
            own_packet(shop.packets, shop.machine_address, shop.address, size, flags)
            made = 1
        done = self._some(shop.packets, made)
        self.lost += (made or 1) - done  # what still cannot be taken: too long for one page

    def kick(self) -> None:
        """There may be room again. Raises FrontendError."""
        if self.waiting:
            self._drain()
            self._push()

    def _drain(self) -> None:
        record, now = self.record.address, self._clock()
        if receive.drain(record):
            self._progress = now
        if _check(self.record, "receive") == STOP_HELP:
            raise AssertionError("what waits has been changed before")
        if now - self._progress > DRAIN_TIMEOUT:
            self.lost += receive.forget_waiting(record)

    def _push(self) -> None:
        if receive.push(self.record.address):
            self._notify()

    def close(self) -> None:
        """Look at the ring no more."""
        self._control.free_pages(self._area)


def address_of(page: memoryview) -> int:
    """Where native code finds a page."""
    return ctypes.addressof(ctypes.c_char.from_buffer(page))


def rsp_prod_of(page: memoryview) -> int:
    """How many responses there were on a ring."""
    at = Sring.offsetof("rsp_prod")
    return int.from_bytes(page[at : at + 4], "little")


__all__ = ["Features", "FrontendError", "Receiver", "Transmitter", "total_size"]
