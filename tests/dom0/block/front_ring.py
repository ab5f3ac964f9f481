"""The front end's side of a ring, for tests: in the words of xen/include/public/io/ring.h, over one piece of memory."""

from __future__ import annotations

import struct

from euxen.abi.io.ring import CONST_RING_SIZE, Sring
from euxen.dom0.backends.ring import PAGE_SIZE

U32 = 1 << 32


class Front:
    """The front end's side, in the words of ring.h, over the same memory as one piece."""

    def __init__(self, pages: int, entry_size: int, start: int = 0) -> None:
        self.memory = bytearray(pages * PAGE_SIZE)
        self.entry_size, self.size = entry_size, CONST_RING_SIZE(entry_size, pages * PAGE_SIZE)
        struct.pack_into("<IIII", self.memory, 0, start, start + 1 & U32 - 1, start, start + 1 & U32 - 1)
        self.req_prod_pvt = self.rsp_cons = start
        # The back end's pages are not in a row.
        self.pages = [memoryview(self.memory)[n * PAGE_SIZE : (n + 1) * PAGE_SIZE] for n in range(pages)]

    def index(self, name: str) -> int:
        return int(struct.unpack_from("<I", self.memory, Sring.offsetof(name))[0])

    def set_index(self, name: str, value: int) -> None:
        struct.pack_into("<I", self.memory, Sring.offsetof(name), value % U32)

    def at(self, index: int) -> int:
        return Sring.size + index % self.size * self.entry_size

    def put(self, request: bytes) -> None:
        at = self.at(self.req_prod_pvt)
        self.memory[at : at + len(request)] = request
        self.req_prod_pvt = (self.req_prod_pvt + 1) % U32

    def push(self) -> bool:
        old, new = self.index("req_prod"), self.req_prod_pvt
        self.set_index("req_prod", new)
        return (new - self.index("req_event")) % U32 < (new - old) % U32

    def take(self, size: int) -> bytes | None:
        if self.rsp_cons == self.index("rsp_prod"):
            return None
        at = self.at(self.rsp_cons)
        self.rsp_cons = (self.rsp_cons + 1) % U32
        return bytes(self.memory[at : at + size])
