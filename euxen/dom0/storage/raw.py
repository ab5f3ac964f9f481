"""Disks byte by byte as they are: files, and block devices of the host. preadv(2), pwritev(2), fallocate(2)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from euxen.dom0.storage.storage import SECTOR, Geometry, StorageError

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02
BLKROGET, BLKGETSIZE64, BLKSSZGET, BLKDISCARD, BLKPBSZGET = 0x125E, 0x8008_1272, 0x1268, 0x1277, 0x127B
"""ioctl requests of block devices: linux/fs.h"""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _punch_hole(file: int, offset: int, size: int) -> None:
    if _libc.fallocate64(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Raw:
    """A file or block device. While it is open it is locked: by several who only read it, or by one who writes."""

    def __init__(self, path: Path, writable: bool, sector_size: int | None = None) -> None:
        """Open it. ``sector_size`` is for a file, which has none of its own. Raises StorageError."""
        self._file = _open(path, writable)
        try:
            self._is_device = stat.S_ISBLK(os.fstat(self._file).st_mode)
            if self._is_device and writable and self._ioctl(BLKROGET, "i"):
                raise StorageError(f"{path} is read-only; say so in the disk's specification with access=ro")
            self.geometry = self._geometry(path, writable, sector_size or SECTOR)
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"{path} cannot be used as a disk ({error.strerror})") from None
        except StorageError:
            os.close(self._file)
            raise
        self.can_try = hasattr(os, "RWF_NOWAIT")

    def _ioctl(self, request: int, kind: str) -> int:
        value = fcntl.ioctl(self._file, request, bytes(struct.calcsize(kind)))
        return int(struct.unpack(kind, value)[0])

    def _geometry(self, path: Path, writable: bool, sector_size: int) -> Geometry:
        if self._is_device:
            size, sector_size = self._ioctl(BLKGETSIZE64, "Q"), self._ioctl(BLKSSZGET, "i")
            return Geometry(size, sector_size, self._ioctl(BLKPBSZGET, "I"), self._device_granularity())
        about = os.fstat(self._file)
        if about.st_size % sector_size:
            raise StorageError(
                f"{path} has {about.st_size} bytes, and a disk has a multiple of {sector_size}; "
                f"'truncate --size=%{sector_size}' rounds it up"
            )
        return Geometry(about.st_size, sector_size, sector_size, self._granularity(about) if writable else 0)

    def _granularity(self, about: os.stat_result) -> int:
        try:
            _punch_hole(self._file, about.st_size, about.st_blksize)  # behind the end, where nothing is
        except OSError:
            return 0
        return about.st_blksize

    def _device_granularity(self) -> int:
        device = os.fstat(self._file).st_rdev
        queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/discard_granularity")
        try:
            return int(queue.read_text())
        except (OSError, ValueError):
            return 0  # a partition, or a kernel without /sys

    def try_read(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Read what the host has in memory."""
        try:
            return os.preadv(self._file, buffers, offset, os.RWF_NOWAIT) == sum(map(len, buffers))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.can_try = False
            return False

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill buffers."""
        _whole(os.preadv, self._file, buffers, offset)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write buffers."""
        _whole(os.pwritev, self._file, buffers, offset)

    def flush(self) -> None:
        """fdatasync(2)."""
        os.fdatasync(self._file)

    def discard(self, offset: int, size: int) -> None:
        """Make a hole, or tell the device."""
        if self._is_device:
            fcntl.ioctl(self._file, BLKDISCARD, struct.pack("QQ", offset, size))
        else:
            _punch_hole(self._file, offset, size)

    def close(self) -> None:
        """Close it, which unlocks it, too."""
        os.close(self._file)


def _whole(operation: object, file: int, buffers: Sequence[memoryview], offset: int) -> None:
    """preadv or pwritev, until all is done. Raises OSError where the file ends before that."""
    assert callable(operation)
    while True:
        count: int = operation(file, buffers, offset)
        rest = sum(map(len, buffers)) - count
        if not rest:
            return
        if not count:
            raise OSError(errno.EIO, "the file has become shorter")
        offset += count
        buffers = _behind(buffers, count)


def _behind(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of buffers behind ``count`` bytes."""
    left = []
    for buffer in buffers:
        if count < len(buffer):
            left.append(buffer[count:])
        count = max(count - len(buffer), 0)
    return left


def _open(path: Path, writable: bool) -> int:
    """Open and lock. Raises StorageError."""
    try:
        # Without O_NONBLOCK a pipe would keep us waiting for somebody at its other end.
        file = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise StorageError(f"{path} is not there") from None
    except OSError as error:
        if writable and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and os.access(path, os.R_OK):
            raise StorageError(
                f"{path} cannot be written ({error.strerror}); make it writable, or say access=ro"
            ) from None
        raise StorageError(f"{path} cannot be opened ({error.strerror})") from None
    except ValueError:
        raise StorageError(f"{str(path)!r} is no name of a file") from None
    kind = os.fstat(file).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
        os.close(file)
        raise StorageError(f"{path} is neither a file nor a block device")
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StorageError(
            f"{path} is in use: another guest has it as a disk"
            + (", or this one twice" if writable else " that it writes to")
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # there are file systems without locks
            os.close(file)
            raise StorageError(f"{path} cannot be locked ({error.strerror})") from None
    return file
