"""Rings of requests and responses. xen/include/public/io/ring.h

A ring is an Sring and behind it, to the end of its pages, entries that hold a request or a response each.
Indices (RING_IDX, uint32_t) run freely; their low bits choose the entry.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, chars, u32

XEN_PAGE_SHIFT = 12  # of rings, whatever the size of the guest's pages


class Sring(Structure):
    """struct netif_tx_sring. xen/include/public/io/ring.h

    The head that every DEFINE_RING_TYPES has in common. A side wants to be notified when the other's
    producer index reaches its event index.
    """

    req_prod: int = u32()  # the frontend's
    req_event: int = u32(default=1)  # the backend's: notify it when req_prod passes here
    rsp_prod: int = u32()  # the backend's
    rsp_event: int = u32(default=1)  # the frontend's: notify it when rsp_prod passes here
    pvt: bytes = chars(4)
    _pad: bytes = chars(44)


def CONST_RING_SIZE(entry_size: int, size: int) -> int:
    """How many entries of ``entry_size`` bytes a ring of ``size`` bytes has: as many as fit, to a power of two.

    xen/include/public/io/ring.h, __CONST_RING_SIZE
    """
    entries = (size - Sring.size) // entry_size
    return 1 << entries.bit_length() - 1 if entries > 0 else 0
