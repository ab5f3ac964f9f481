"""From what the toolstack has written of a disk to an open one."""

from __future__ import annotations

from pathlib import Path

from euxen.dom0.storage.nbd import QEMU_FORMATS, QemuNbd
from euxen.dom0.storage.raw import Raw
from euxen.dom0.storage.storage import Storage, StorageError

RAW_FORMATS = ("aio", "raw", "phy")


def open_storage(format: str, target: str, writable: bool) -> Storage:
    """Open a disk: ``format`` is as in the back end's ``params``, "aio" or "qcow2". Raises StorageError."""
    if format in RAW_FORMATS:
        return Raw(Path(target), writable)
    if format in QEMU_FORMATS:
        return QemuNbd(Path(target), QEMU_FORMATS[format], writable)
    raise StorageError(f"{target} is to have the format {format}, which nobody here knows")
