"""The control ring: how a front end has packets hashed onto its queues.

xen/include/public/io/netif.h; what is answered in which case is what Linux's xen-netback does (hash.c, interface.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi.io.netif import (
    XEN_NETIF_CTRL_HASH_ALGORITHM_NONE,
    XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
    XEN_NETIF_CTRL_HASH_TYPE_IPV4,
    XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
    XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
    XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
    XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS,
    XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE,
    XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM,
    XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS,
    XEN_NETIF_CTRL_TYPE_SET_HASH_KEY,
    XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING,
    XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE,
    XenNetifCtrlRequest,
    XenNetifCtrlResponse,
)
from euxen.cpu.native.memory import Memory
from euxen.dom0.backends.net.hashing import KEY_SIZE
from euxen.dom0.backends.ring import BackRing

HASH_TYPES = (
    XEN_NETIF_CTRL_HASH_TYPE_IPV4
    | XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP
)
MAX_MAPPING = 128
"""Entries that a mapping of hashes to queues can have (XEN_NETBK_MAX_HASH_MAPPING_SIZE)."""
AT_ONCE = 32
ENTRY_SIZE = max(XenNetifCtrlRequest.size, XenNetifCtrlResponse.size)

Read = Callable[[int, int], bytes | None]
"""Copies so many bytes from the beginning of a page that the front end lends; None if it does not."""
Answer = tuple[int, int]
"""XEN_NETIF_CTRL_STATUS_* and a value."""

DONE: Answer = (XEN_NETIF_CTRL_STATUS_SUCCESS, 0)
INVALID: Answer = (XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, 0)
NOT_SUPPORTED: Answer = (XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED, 0)


class Hashing:
    """How packets are hashed for one front end."""

    def __init__(self, queues: int, read: Read) -> None:
        """``queues`` is how many there are."""
        self._queues, self._read = queues, read
        self.algorithm = XEN_NETIF_CTRL_HASH_ALGORITHM_NONE
        self.types = 0
        """XEN_NETIF_CTRL_HASH_TYPE_*"""
        self.key = Memory(2 * KEY_SIZE)
        """KEY_SIZE bytes, and zeros behind them."""
        self.mapping: list[int] = []
        """Queues, by the hash modulo how many there are."""

    def queue_for(self, value: int) -> int:
        """Where a packet goes."""
        mapping = self.mapping
        return mapping[value % len(mapping)] if mapping else value % self._queues

    def do(self, kind: int, data: tuple[int, ...]) -> Answer:
        """A request: its XEN_NETIF_CTRL_TYPE_* and three values."""
        if kind == XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS:
            return XEN_NETIF_CTRL_STATUS_SUCCESS, HASH_TYPES
        if kind == XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS:
            return self._set_types(data[0])
        if kind == XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM:
            return self._set_algorithm(data[0])
        if kind == XEN_NETIF_CTRL_TYPE_SET_HASH_KEY:
            return self._set_key(data[0], data[1])
        if kind == XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE:
            return XEN_NETIF_CTRL_STATUS_SUCCESS, MAX_MAPPING
        if kind == XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE:
            return self._set_mapping_size(data[0])
        if kind == XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING:
            return self._set_mapping(*data)
        return NOT_SUPPORTED

    def _set_types(self, types: int) -> Answer:
        if types & ~HASH_TYPES or self.algorithm == XEN_NETIF_CTRL_HASH_ALGORITHM_NONE:
            return INVALID
        self.types = types
        return DONE

    def _set_algorithm(self, algorithm: int) -> Answer:
        if algorithm not in (XEN_NETIF_CTRL_HASH_ALGORITHM_NONE, XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ):
            return INVALID
        self.algorithm = algorithm
        return DONE

    def _set_key(self, gref: int, size: int) -> Answer:
        key = self._read(gref, size) if 0 < size <= KEY_SIZE else b""
        if key is None or size > KEY_SIZE:
            return INVALID
        self.key.view[:KEY_SIZE] = key.ljust(KEY_SIZE, b"\0")
        return DONE

    def _set_mapping_size(self, size: int) -> Answer:
        if size > MAX_MAPPING:
            return INVALID
        self.mapping = [0] * size
        return DONE

    def _set_mapping(self, gref: int, size: int, first: int) -> Answer:
        if first + size > len(self.mapping):
            return INVALID
        data = self._read(gref, 4 * size) if size else b""
        if data is None:
            return INVALID
        queues = struct.unpack(f"<{size}I", data)
        if any(queue >= self._queues for queue in queues):
            return INVALID
        self.mapping[first : first + size] = queues
        return DONE


def serve(ring: BackRing, hashing: Hashing) -> bool:
    """Answer what is on the ring; whether the front end wants an event. Raises RingError."""
    answered = False
    while entries := ring.take(AT_ONCE):
        for entry in entries:
            request = XenNetifCtrlRequest.unpack_from(entry)
            status, value = hashing.do(request.type, request.data)
            ring.put(bytes(XenNetifCtrlResponse(id=request.id, type=request.type, status=status, data=value)))
        answered = True
        if not ring.has_more():
            break
    else:
        if ring.has_more():
            return serve(ring, hashing) or answered
    return ring.push() if answered else False
