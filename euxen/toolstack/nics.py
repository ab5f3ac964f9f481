"""Network interfaces of a configuration as devices: what libxl makes of them.

libxl__device_nic_setdefault and libxl__set_xenstore_nic in tools/libs/light/libxl_nic.c.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from euxen.dom0.net.networks import DEFAULT_BRIDGE
from euxen.toolstack.config.nic import Nic, NicType
from euxen.toolstack.devices import Device
from euxen.toolstack.errors import UserError

SCRIPT_DIRECTORY = PurePosixPath("/etc/xen/scripts")
DEFAULT_SCRIPT = "vif-bridge"
DEFAULT_MTU = 1500
FORWARD = re.compile(r"(?:tcp|udp):([0-9]{1,5}):([0-9]{1,5})")
MAX_PORT = 65535
XENSOURCE_OUI = bytes.fromhex("00163e")


def nic_device(nic: Nic) -> Device:
    """An interface as a device of a PV domain. Raises UserError for what there is not."""
    title = f"network interface {nic.devid}"
    script = SCRIPT_DIRECTORY / (nic.script or DEFAULT_SCRIPT)
    if nic.backend not in (None, "0", "Domain-0"):
        raise UserError(f"{title}: backend={nic.backend} names another domain; only Domain 0 has back ends yet")
    if script != SCRIPT_DIRECTORY / DEFAULT_SCRIPT:
        raise UserError(f"{title}: there are no scripts here (script={nic.script}); name a bridge")
    if nic.type is NicType.VIF_IOEMU:
        raise UserError(f"{title}: a PV guest has no emulated interfaces (type=ioemu)")
    mac, mtu = nic.mac or _random_mac(), str(nic.mtu or DEFAULT_MTU)
    optional = {"vifname": nic.vifname, "ip": nic.ip, "gatewaydev": nic.gatewaydev}
    if nic.rate is not None:
        optional["rate"] = f"{nic.rate.bytes_per_interval},{nic.rate.interval_usecs}"
    backend = {
        "script": str(script),
        "mac": mac,
        **{name: value for name, value in optional.items() if value is not None},
        "bridge": nic.bridge or DEFAULT_BRIDGE,
        "handle": str(nic.devid),
        "type": "vif",
        "hotplug-status": "",
        "mtu": mtu,
    }
    trusted = "0" if nic.trusted is False else "1"
    frontend = {"handle": str(nic.devid), "mac": mac, "mtu": mtu, "trusted": trusted}
    return Device("vif", "vif", nic.devid, title, backend, frontend)


def with_forwards(devices: tuple[Device, ...], forwards: Sequence[str]) -> tuple[Device, ...]:
    """Devices, of which the first interface gets connections to ports of the host's: ``tcp:2222:22``.

    The node ``forward`` is euxen's own. Raises UserError.
    """
    for forward in forwards:
        match = FORWARD.fullmatch(forward)
        if match is None or not all(0 < int(port) <= MAX_PORT for port in match.groups()):
            raise UserError(f"{forward!r} names no ports: it has to be like tcp:2222:22, the host's before the guest's")
    if not forwards:
        return devices
    number = next((n for n, device in enumerate(devices) if device.kind == "vif"), None)
    if number is None or devices[number].backend["bridge"] != DEFAULT_BRIDGE:
        raise UserError(f"only a guest whose first interface (vif) is on {DEFAULT_BRIDGE} can have ports forwarded")
    device = devices[number]
    nodes = {**device.backend, "forward": " ".join(forwards)}
    return (*devices[:number], replace(device, backend=nodes), *devices[number + 1 :])


def _random_mac() -> str:
    """One of those that Xen's guests have, with the top bit of what is random clear."""
    number = secrets.randbits(23)
    return (XENSOURCE_OUI + number.to_bytes(3, "big")).hex(":")
