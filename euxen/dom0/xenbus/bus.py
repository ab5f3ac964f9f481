"""The back ends of one domain: whatever the toolstack puts below its ``backend`` directory becomes a device.

Linux: drivers/xen/xenbus/xenbus_probe_backend.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from euxen.dom0.xenbus.device import NUMBER, BackendDevice, Driver, Nodes, Place
from euxen.dom0.xenstore_client import XenStoreClient, XenStoreRefused

Make = Callable[[Nodes, Callable[[str], None]], Driver]
"""Makes a driver from a device's nodes and the function by which it says that it cannot go on."""


class BackendBus:
    """Watches for devices, and has a driver for each kind."""

    def __init__(
        self, store: XenStoreClient, drivers: Mapping[str, Make], log: Callable[[str], None], domid: int = 0
    ) -> None:
        """``domid`` is the domain whose back ends these are; ``log`` is given lines for people."""
        self._store, self._log = store, log
        self.drivers = dict(drivers)
        """By the kinds of back ends that they are for."""
        self._root = f"/local/domain/{domid}/backend"
        self._devices: dict[tuple[str, int, int], BackendDevice] = {}
        for kind in drivers:
            store.watch_paths(f"{self._root}/{kind}", self._changed)

    @property
    def devices(self) -> list[tuple[str, int, int]]:
        """Those there are: kind, front end's domid, devid."""
        return list(self._devices)

    def _changed(self, path: str) -> None:
        """Something at or below a path is new, or another, or gone."""
        kind, *rest = path.removeprefix(f"{self._root}/").split("/")
        if len(rest) >= 2:
            self._look(kind, *rest[:2])
            return
        for domid in rest or self._children(f"{self._root}/{kind}"):
            for devid in self._children(f"{self._root}/{kind}/{domid}"):
                self._look(kind, domid, devid)

    def _children(self, path: str) -> list[str]:
        try:
            return self._store.list(path)
        except XenStoreRefused:
            return []

    def _look(self, kind: str, *numbers: str) -> None:
        """There may be a new device."""
        if not all(NUMBER.fullmatch(number) for number in numbers):
            return
        domid, devid = map(int, numbers)
        key, backend = (kind, domid, devid), f"{self._root}/{kind}/{domid}/{devid}"
        if key in self._devices:
            return  # which watches what it has to
        try:
            frontend = self._store.read(f"{backend}/frontend")
            if self._store.read(f"{backend}/online") != "1":
                return
        except XenStoreRefused:
            return  # not yet, or not any more

        def gone() -> None:
            del self._devices[key]
            self._look(kind, *numbers)  # there may be another one already

        place = Place(kind, domid, devid, backend, frontend)
        self._devices[key] = BackendDevice(self._store, place, self.drivers[kind], self._log, gone)
