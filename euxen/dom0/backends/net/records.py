"""The state of one queue of a virtual interface, for its native half."""

from __future__ import annotations

from euxen.abi.io.netif import NetifRxSringEntry, NetifTxSringEntry
from euxen.abi.io.ring import CONST_RING_SIZE, Sring
from euxen.abi.structure import Structure, array, u64

PAGE_SIZE = 4096
TX_ENTRIES = CONST_RING_SIZE(NetifTxSringEntry.size, PAGE_SIZE)
RX_ENTRIES = CONST_RING_SIZE(NetifRxSringEntry.size, PAGE_SIZE)
ENTRIES = Sring.size
"""Where a ring's first entry is."""
INDEX_MASK = 0xFFFF_FFFF

BATCH = 64
"""Packets that are taken at once."""
LEGACY_SLOTS = 18
"""XEN_NETIF_NR_SLOTS_MIN: a packet in more slots is answered with an error."""
FATAL_SLOTS = 20
"""And one in so many is an attack, as for Linux's back end (fatal_skb_slots)."""
MOST_PIECES = FATAL_SLOTS + 1
"""Requests of one packet that are ever looked at."""
HEADER = 64
"""Bytes of a packet that are looked at."""
MAX_RX_SLOTS = 20
"""Entries that a packet can take on a receive ring: 17 pages and two extra infos."""
BACKLOG_PACKETS = 1024

# Why taking or giving stopped: TransmitRecord.stop, ReceiveRecord.stop.
STOP_NONE, STOP_CREDIT, STOP_ROOM = range(3)
"""For transmit: the ring is empty, the credit is used up, the batch is full."""
STOP_SLOTS, STOP_HELP = 1, 2
"""For receive: the ring is full, a packet has to be changed for the front end."""
(
    FATAL_REQUESTS,
    FATAL_SLOTS_MISSING,
    FATAL_TOO_MANY_SLOTS,
    FATAL_CROSS_PAGE,
    FATAL_EXTRA_MISSING,
    FATAL_EXTRA_TYPE,
    FATAL_GSO_SIZE,
    FATAL_GSO_TYPE,
) = range(16, 24)
"""What a front end must not do, with ``detail``."""


class TransmitRecord(Structure):
    """A transmit ring: requests come, packets go into a batch."""

    sring: int = u64()  # host address of the shared page
    frontend: int = u64()  # domid
    req_cons: int = u64()  # RING_IDX, as is the next
    rsp_prod_pvt: int = u64()
    copier: int = u64()  # CopierRecord
    packets: int = u64()  # NetPacket[BATCH]
    pieces: int = u64()  # NetPiece[BATCH * MOST_PIECES]
    headers: int = u64()  # machine address of BATCH * HEADER bytes of Domain 0's own
    credit: int = u64()  # bytes that may still be taken
    stop: int = u64()  # STOP_* or FATAL_*
    detail: int = u64()  # the number that was wrong
    request: int = array(u64(), 2)  # a copy of an entry
    gso: int = u64()  # the GSO extra of the packet that is being taken, 0 for none
    mcast: int = u64()  # as NetPacket has it
    hash: int = u64()
    extras: int = u64()  # how many there were


class ReceiveRecord(Structure):
    """A receive ring: requests are room, packets fill it. And packets that wait for room."""

    sring: int = u64()
    frontend: int = u64()
    req_cons: int = u64()  # RING_IDX, and where the next response goes
    pushed: int = u64()  # up to where the front end has seen responses
    copier: int = u64()
    stop: int = u64()
    detail: int = u64()
    sg: int = u64()  # whether a packet may have more than one slot
    gso: int = u64()  # a bit per XEN_NETIF_GSO_TYPE_* that it takes
    checksums: int = u64()  # 1: takes blank checksums of IPv4, 2: of IPv6
    wants_hash: int = u64()
    requests: int = array(u64(), MAX_RX_SLOTS)  # copies of entries
    sizes: int = array(u64(), MAX_RX_SLOTS)  # what their slots were filled with, or NETIF_RSP_ERROR
    # Packets that wait, in memory of Domain 0's own that is used round and round.
    area: int = u64()  # machine address; a page of nobody's is behind it
    area_size: int = u64()
    area_head: int = u64()  # offset of the first byte in use, and
    area_tail: int = u64()  # of the first that is free
    waiting: int = u64()  # NetPacket[BACKLOG_PACKETS]
    first_waiting: int = u64()  # counts, whose low bits choose one
    end_waiting: int = u64()
    progress: int = u64()  # ns: when room was found last, or began to lack
