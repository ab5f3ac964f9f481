"""Devices of domains: the nodes that libxl writes for them, and waiting for what their back ends make of that.

libxl__device_generic_add, libxl__wait_device_connection and libxl__initiate_device_generic_remove in
tools/libs/light/libxl_device.c.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from euxen.abi.io.xenbus import XenbusState
from euxen.dom0.xenbus.device import state_of
from euxen.dom0.xenstore_client import XenStoreClient, XenStoreRefused
from euxen.toolstack.errors import UserError, printable

INIT_TIMEOUT = 40.0
"""Seconds that a back end has to be ready (LIBXL_INIT_TIMEOUT)."""
DESTROY_TIMEOUT = 10.0
"""Seconds that it has to let go (LIBXL_DESTROY_TIMEOUT)."""
READY = (XenbusState.InitWait, XenbusState.Initialised, XenbusState.Connected)
OVER = (XenbusState.Closed, XenbusState.Unknown)


@dataclass(frozen=True)
class Device:
    """A device of a domain, and what is to be told of it."""

    kind: str
    """The front end's: "vbd", "vif"."""
    backend_kind: str
    devid: int
    title: str
    """For messages: "disk xvda"."""
    backend: Mapping[str, str]
    """Nodes for the back end, beside those that all devices have."""
    frontend: Mapping[str, str]
    backend_domid: int = 0

    def frontend_path(self, domid: int) -> str:
        """The front end's directory."""
        return f"/local/domain/{domid}/device/{self.kind}/{self.devid}"

    def backend_path(self, domid: int) -> str:
        """The back end's directory."""
        return f"/local/domain/{self.backend_domid}/backend/{self.backend_kind}/{domid}/{self.devid}"

    def libxl_path(self, domid: int) -> str:
        """Where the toolstack keeps what it knows of the device."""
        return f"/libxl/{domid}/device/{self.kind}/{self.devid}"


def attach(store: XenStoreClient, domid: int, device: Device) -> None:
    """Make a device and wait until its back end is ready for a front end. Raises UserError with nothing left behind."""
    _write_nodes(store, domid, device)
    backend = device.backend_path(domid)

    def settled() -> bool:
        return _state(store, backend) in READY or _error(store, backend) is not None

    came = store.wait_until(backend, settled, INIT_TIMEOUT)
    error = _error(store, backend)
    if came and error is None:
        return
    detach(store, domid, device)
    raise UserError(f"{device.title}: {printable(error) if error else 'its back end does not answer'}")


def detach(store: XenStoreClient, domid: int, device: Device) -> bool:
    """Have a device go away with its front end, which is not asked: whether the back end let go in time."""
    backend = device.backend_path(domid)
    came = True
    _remove(store, device.frontend_path(domid))
    if _read(store, f"{backend}/state") is not None:
        store.write(f"{backend}/state", str(int(XenbusState.Closing)))
        store.write(f"{backend}/online", "0")
        came = store.wait_until(backend, lambda: _state(store, backend) in OVER, DESTROY_TIMEOUT)
    for directory in (backend, device.libxl_path(domid)):
        _remove(store, directory)
    return came


def devices_of(store: XenStoreClient, domid: int) -> list[Device]:
    """The devices that a domain has, as far as is needed to detach them."""
    found = []
    root = f"/libxl/{domid}/device"
    for kind in _list(store, root):
        for devid in _list(store, f"{root}/{kind}"):
            backend = _read(store, f"{root}/{kind}/{devid}/backend") or ""
            _empty, _local, _domain, backend_domid, _backend, backend_kind, *_rest = backend.split("/")
            found.append(Device(kind, backend_kind, int(devid), f"{kind} {devid}", {}, {}, int(backend_domid)))
    return found


def _write_nodes(store: XenStoreClient, domid: int, device: Device) -> None:
    frontend, backend, libxl = device.frontend_path(domid), device.backend_path(domid), device.libxl_path(domid)
    state = {"state": str(int(XenbusState.Initialising))}
    about = {"frontend-id": str(domid), "online": "1", **state, **device.backend}
    store.write_all(libxl, {"frontend": frontend, "backend": backend, **about})
    store.mkdir(frontend)
    store.set_permissions(frontend, f"n{domid}", f"r{device.backend_domid}")
    of_frontend = {"backend": backend, "backend-id": str(device.backend_domid), **state, **device.frontend}
    for name, value in of_frontend.items():
        store.write(f"{frontend}/{name}", value)
        store.set_permissions(f"{frontend}/{name}", f"n{domid}", f"r{device.backend_domid}")
    store.mkdir(backend)
    store.set_permissions(backend, f"n{device.backend_domid}", f"r{domid}")
    # The back end comes to life when all is there: "online" is the last.
    online = about.pop("online")
    store.write_all(backend, {"frontend": frontend, **about, "online": online})


def _state(store: XenStoreClient, backend: str) -> XenbusState:
    return state_of(_read(store, f"{backend}/state"))


def _error(store: XenStoreClient, backend: str) -> str | None:
    return _read(store, f"{backend}/hotplug-error")


def _read(store: XenStoreClient, path: str) -> str | None:
    try:
        return store.read(path)
    except XenStoreRefused:
        return None


def _list(store: XenStoreClient, path: str) -> list[str]:
    try:
        return store.list(path)
    except XenStoreRefused:
        return []


def _remove(store: XenStoreClient, path: str) -> None:
    with contextlib.suppress(XenStoreRefused):
        store.remove(path)
