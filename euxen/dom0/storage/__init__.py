"""What disks are kept in: files and block devices of the host, and what qemu-nbd makes of other formats."""

from euxen.dom0.storage.opening import open_storage
from euxen.dom0.storage.storage import Empty, Storage, StorageError

__all__ = ["Empty", "Storage", "StorageError", "open_storage"]
