"""Disks of a configuration as devices: what libxl makes of them.

libxl__device_disk_setdefault and device_disk_add in tools/libs/light/libxl_disk.c, libxl__device_disk_set_backend in
libxl_device.c.
"""

from __future__ import annotations

import stat
from pathlib import Path

from euxen.abi.io.protocols import XEN_IO_PROTO_ABI_X86_64
from euxen.toolstack.config.disk import Disk, DiskBackend, DiskFormat, DiskSpecification
from euxen.toolstack.devices import Device
from euxen.toolstack.errors import UserError
from euxen.toolstack.vdev import device_number

FORMAT_NODES = {
    DiskFormat.RAW: "aio",
    DiskFormat.QCOW: "qcow",
    DiskFormat.QCOW2: "qcow2",
    DiskFormat.VHD: "vhd",
    DiskFormat.QED: "qed",
}
"""libxl__device_disk_string_of_format"""


def disk_device(disk: Disk) -> Device:
    """A disk as a device of a PV domain. Raises UserError for what there is not."""
    devid = device_number(disk.vdev)
    if devid is None:
        raise UserError(f"disk {disk.vdev}: Invalid or unsupported virtual disk identifier {disk.vdev}")
    _refuse_unknown(disk)
    backend = _backend(disk)
    device_type = "cdrom" if disk.is_cdrom else "disk"
    discard = disk.readwrite if disk.discard is None else disk.discard
    params = disk.target if backend is DiskBackend.PHY else f"{FORMAT_NODES[disk.format]}:{disk.target}"
    nodes = {
        "params": params,
        "removable": str(int(disk.is_cdrom)),
        "bootable": "1",
        "dev": disk.vdev,
        "type": backend.value,
        "mode": "w" if disk.readwrite else "r",
        "device-type": device_type,
        "discard-enable": str(int(discard)),
    }
    if disk.direct_io_safe:
        nodes["direct-io-safe"] = "1"
    return Device(
        "vbd",
        "vbd" if backend is DiskBackend.PHY else "qdisk",
        devid,
        f"disk {disk.vdev}",
        nodes,
        {"virtual-device": str(devid), "device-type": device_type, "protocol": XEN_IO_PROTO_ABI_X86_64},
    )


def _refuse_unknown(disk: Disk) -> None:
    if disk.backend not in (None, "0", "Domain-0"):
        raise UserError(
            f"disk {disk.vdev}: backend={disk.backend} names another domain; only Domain 0 has back ends yet"
        )
    if disk.script:
        raise UserError(
            f"disk {disk.vdev}: there are no scripts here (script={disk.script}); name a file or block device"
        )
    if disk.specification is DiskSpecification.VIRTIO:
        raise UserError(f"disk {disk.vdev}: specification=virtio is not supported; leave it out")


def _backend(disk: Disk) -> DiskBackend:
    """What would serve the disk elsewhere: the kernel, if it can, or QEMU. Here it is the same."""
    if disk.backendtype in (DiskBackend.TAP, DiskBackend.STANDALONE):
        raise UserError(f"disk {disk.vdev}: backendtype={disk.backendtype} is not supported; leave it out")
    if disk.format is DiskFormat.EMPTY:
        return DiskBackend.PHY
    try:
        is_device = stat.S_ISBLK(Path(disk.target).stat().st_mode)
    except (OSError, ValueError):
        is_device = False  # opening it will tell
    if disk.backendtype is DiskBackend.PHY and not is_device:
        raise UserError(f"disk {disk.vdev}: {disk.target} is no block device, which backendtype=phy asks for")
    if disk.backendtype is not DiskBackend.QDISK and is_device and disk.format is DiskFormat.RAW:
        return DiskBackend.PHY
    return DiskBackend.QDISK
