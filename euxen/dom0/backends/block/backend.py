"""A disk on XenBus: what is told to a front end, what it answers, and the rings that come of it.

The nodes are those of Linux's xen-blkback, and of QEMU's xen-block where they are more (xen/include/public/io/blkif.h).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from euxen.abi.io.blkif import VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE
from euxen.abi.io.protocols import XEN_IO_PROTO_ABI_NATIVE
from euxen.dom0.backends.block.grants import PersistentGrants
from euxen.dom0.backends.block.protocol import ABIS, MAX_INDIRECT_SEGMENTS, SECTOR, Abi, Disk
from euxen.dom0.backends.block.queue import WORKERS, Queue
from euxen.dom0.backends.pool import Pool
from euxen.dom0.backends.ring import BackRing
from euxen.dom0.evtchn import Evtchn
from euxen.dom0.storage import Empty, Storage, StorageError, open_storage
from euxen.dom0.xenbus.device import DeviceError, Nodes
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.granted import GrantedPages

MAX_QUEUES = 4
MAX_RING_PAGE_ORDER = 4
MAX_PORT = 1 << 17
KINDS = ("vbd", "qdisk")
"""What libxl calls it, by what would serve it elsewhere: the kernel, or QEMU."""


@dataclass
class _Link:
    """One ring and its port."""

    queue: Queue
    page: GrantedPages
    port: list[int]
    """Our end's, and nothing once it is closed."""


class BlockBackend:
    """The driver of one disk."""

    def __init__(
        self,
        control: Control,
        events: Evtchn,
        log: Callable[[str], None],
        nodes: Nodes,
        fail: Callable[[str], None],
        opening: Callable[[str, str, bool], Storage] = open_storage,
    ) -> None:
        """``fail`` is told why the device cannot go on; ``opening`` opens what ``params`` and ``mode`` name."""
        self._control, self._events, self._log = control, events, log
        self._nodes, self._fail, self._opening = nodes, fail, opening
        self._storage: Storage | None = None
        self._links: list[_Link] = []
        self._pool: Pool | None = None
        self._complaints = 0

    @property
    def _writable(self) -> bool:
        return self._nodes.configured("mode") == "w"

    # What a driver does.

    def publish(self) -> Mapping[str, str]:
        """Open the disk and say what can be asked of it."""
        if self._storage is None:
            self._storage = self._open()
        discards = self._discards
        geometry = self._storage.geometry
        return {
            "feature-barrier": "1",
            "feature-flush-cache": "1",
            "feature-persistent": "1",
            "feature-max-indirect-segments": str(MAX_INDIRECT_SEGMENTS),
            "feature-discard": str(int(discards)),
            **(
                {
                    "discard-granularity": str(geometry.discard_granularity),
                    "discard-alignment": "0",
                    "discard-secure": "0",
                }
                if discards
                else {}
            ),
            "max-ring-page-order": str(MAX_RING_PAGE_ORDER),
            "max-ring-pages": str(1 << MAX_RING_PAGE_ORDER),
            "multi-queue-max-queues": str(MAX_QUEUES),
            "hotplug-status": "connected",
        }

    @property
    def _discards(self) -> bool:
        assert self._storage is not None
        enabled = self._nodes.configured("discard-enable") != "0"
        return enabled and self._writable and self._storage.geometry.discard_granularity > 0

    def _open(self) -> Storage:
        """Raises DeviceError."""
        params = self._nodes.configured("params")
        if not params and self._nodes.configured("device-type") == "cdrom":
            return Empty()
        if not params:
            raise DeviceError(f"{self._nodes.place.backend} does not say what the disk is")
        form, target = "phy", params
        if self._nodes.place.kind == "qdisk":
            form, _colon, target = params.partition(":")
        try:
            return self._opening(form, target, self._writable)
        except StorageError as error:
            raise DeviceError(str(error)) from None

    def connect(self) -> Mapping[str, str]:
        """Serve the front end's rings."""
        assert self._storage is not None
        geometry, nodes = self._storage.geometry, self._nodes
        large = nodes.front_number("feature-large-sector-size", 0) != 0
        unit = geometry.sector_size if large else SECTOR
        disk = Disk(geometry.size, geometry.sector_size, unit, self._writable, self._discards)
        protocol = nodes.front("protocol") or XEN_IO_PROTO_ABI_NATIVE
        if protocol not in ABIS:
            raise DeviceError(f"unknown front end protocol {protocol[:40]!r}")
        count = nodes.front_number("multi-queue-num-queues", 1)
        if not 1 <= count <= MAX_QUEUES:
            raise DeviceError(f"guest requested {count} queues, exceeding the maximum of {MAX_QUEUES}")
        persistent = nodes.front_number("feature-persistent", 0) != 0
        self._pool = Pool(f"euxen-{nodes.place}", WORKERS)
        for number in range(count):
            directory = "" if nodes.front("multi-queue-num-queues") is None else f"queue-{number}/"
            self._connect_ring(directory, ABIS[protocol], disk, persistent)
        is_cdrom = nodes.configured("device-type") == "cdrom"
        removable = nodes.configured("removable") == "1"
        info = VDISK_CDROM * is_cdrom | VDISK_REMOVABLE * removable | VDISK_READONLY * (not self._writable)
        return {
            "sectors": str(geometry.size // unit),
            "info": str(info),
            "sector-size": str(geometry.sector_size),
            "physical-sector-size": str(geometry.physical_sector_size),
        }

    def _connect_ring(self, directory: str, abi: Abi, disk: Disk, persistent: bool) -> None:
        """Map a ring and bind its port. Raises DeviceError."""
        domid, nodes = self._nodes.place.domid, self._nodes
        refs = self._ring_refs(directory)
        port = nodes.front_number(f"{directory}event-channel", most=MAX_PORT)
        try:
            page = self._control.map_grants(domid, refs)
        except GrantError as error:
            raise DeviceError(f"mapping the ring (grants {refs}) failed: {error}") from None
        assert self._storage is not None and self._pool is not None
        local: list[int] = []
        queue = Queue(
            BackRing(page.pages, abi.entry_size),
            abi,
            disk,
            self._storage,
            PersistentGrants(self._control, domid, persistent),
            self._pool,
            lambda: self._notify(local),
            self._fail,
            self._complain,
        )
        try:
            local.append(self._events.bind_interdomain(domid, port, queue.kick))
        except XenError as error:
            queue.close()
            page.unmap()
            raise DeviceError(f"binding to event channel {port} failed: {error}") from None
        self._links.append(_Link(queue, page, local))
        queue.kick()  # for what came before

    def _ring_refs(self, directory: str) -> list[int]:
        """The grants of a ring's pages. Raises DeviceError."""
        nodes = self._nodes
        if nodes.front("ring-page-order") is not None:
            order = nodes.front_number("ring-page-order", most=MAX_RING_PAGE_ORDER)
        else:
            pages = nodes.front_number("num-ring-pages", 1, 1 << MAX_RING_PAGE_ORDER)
            if pages & (pages - 1) or not pages:
                raise DeviceError(f"a ring of {pages} pages")
            order = pages.bit_length() - 1
        if not order and nodes.front(f"{directory}ring-ref") is not None:
            return [nodes.front_number(f"{directory}ring-ref")]
        return [nodes.front_number(f"{directory}ring-ref{number}") for number in range(1 << order)]

    def _notify(self, local: list[int]) -> None:
        try:
            for port in local:
                self._events.notify(port)
        except XenError as error:
            if local:
                self._complain(f"the front end cannot be notified: {error}")

    def _complain(self, sentence: str) -> None:
        """Log what a front end can cause, but not so often that it fills the log."""
        self._complaints += 1
        if self._complaints.bit_count() == 1:
            self._log(f"{self._nodes.place}: {sentence}" + (f" ({self._complaints})" if self._complaints > 1 else ""))

    def disconnect(self, done: Callable[[], None]) -> None:
        """Stop taking requests, and let go when what was taken is done."""
        links, pool = self._links, self._pool
        self._links, self._pool = [], None
        for link in links:
            link.queue.stop()
            self._events.unbind(link.port.pop())

        def drained() -> None:
            for link in links:
                link.queue.close()
                link.page.unmap()
            done()

        if pool is None:
            drained()
        else:
            pool.close(drained)

    def close(self) -> None:
        """Close the disk."""
        if self._storage is not None:
            self._storage.close()
            self._storage = None


def block_drivers(
    control: Control,
    events: Evtchn,
    log: Callable[[str], None],
    opening: Callable[[str, str, bool], Storage] = open_storage,
) -> dict[str, Callable[[Nodes, Callable[[str], None]], BlockBackend]]:
    """Makers of drivers, by the kinds of back ends that they are for."""

    def make(nodes: Nodes, fail: Callable[[str], None]) -> BlockBackend:
        return BlockBackend(control, events, log, nodes, fail, opening)

    return dict(zip(KINDS, itertools.repeat(make), strict=False))
